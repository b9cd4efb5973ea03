"""What goes down, what comes back, and what the server makes of it."""

import pytest
import torch

from fedsyn.config import MethodConfig
from fedsyn.methods import METHODS

MODEL = torch.arange(3.0)
REPLIES = {"model": torch.tensor([[2.0, 0.0, 0.0], [0.0, 4.0, 0.0]])}


def reduced(name, state, ids, sizes, config):
    """The server's state when it has heard the two replies one after the other."""
    method, heard = METHODS[name], {}
    for client in range(2):
        one = slice(client, client + 1)
        reply = {key: value[one] for key, value in REPLIES.items()}
        heard = method.hear(heard, ids[one], reply, sizes[one], config)
    return method.server(state, heard, config, torch.Generator())


@pytest.mark.parametrize("name", METHODS)
def test_every_client_receives_a_model(name):
    method = METHODS[name]
    down = method.down(method.init(MODEL, 5), (1, 3))
    assert torch.equal(down["model"], MODEL.expand(2, 3))


@pytest.mark.parametrize(
    ("weighting", "expected"), [("size", [0.5, 3.0, 0.0]), ("uniform", [1.0, 2.0, 0.0])]
)
def test_fedavg_is_the_weighted_mean(weighting, expected):
    config = MethodConfig(weighting=weighting)
    state = reduced("fedavg", {"model": MODEL[None]}, (0, 1), torch.tensor([1, 3]), config)
    assert state["model"].tolist() == [expected]


def test_a_client_with_nothing_has_no_say():
    sizes = torch.tensor([5, 0])
    for weighting in ("size", "uniform"):
        config = MethodConfig(weighting=weighting)
        state = reduced("fedavg", {"model": MODEL[None]}, (0, 1), sizes, config)
        assert torch.equal(state["model"][0], REPLIES["model"][0])
    state = {"model": MODEL[None]}
    assert reduced("fedavg", state, (0, 1), 0 * sizes, MethodConfig()) is state


def test_local_models_never_meet():
    method = METHODS["local"]
    start = method.init(MODEL, 4)
    state = reduced("local", start, (1, 3), torch.tensor([1, 1]), MethodConfig())
    assert torch.equal(state["model"][[1, 3]], REPLIES["model"])
    assert torch.equal(state["model"][[0, 2]], MODEL.expand(2, 3))
    assert torch.equal(start["model"], MODEL.expand(4, 3))
    assert torch.equal(method.down(state, (3,))["model"], REPLIES["model"][1:])


def test_only_the_centralised_bound_pools():
    assert [name for name, method in METHODS.items() if method.pooled] == ["centralised"]

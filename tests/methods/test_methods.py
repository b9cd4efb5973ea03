"""What goes down, what comes back, and what the server makes of it."""

import pytest
import torch

from fedsyn.config import MethodConfig
from fedsyn.methods import METHODS

MODEL = torch.arange(3.0)
REPLIES = {"model": torch.tensor([[2.0, 0.0, 0.0], [0.0, 4.0, 0.0]])}


@pytest.mark.parametrize("name", METHODS)
def test_every_client_receives_a_model(name):
    method = METHODS[name]
    down = method.down(method.init(MODEL, 5), (1, 3))
    assert torch.equal(down["model"], MODEL.expand(2, 3))


@pytest.mark.parametrize(
    ("weighting", "expected"), [("size", [0.5, 3.0, 0.0]), ("uniform", [1.0, 2.0, 0.0])]
)
def test_fedavg_is_the_weighted_mean(weighting, expected):
    state = METHODS["fedavg"].server(
        {"model": MODEL[None]}, (0, 1), REPLIES, torch.tensor([1, 3]),
        MethodConfig(weighting=weighting),
    )  # fmt: skip
    assert state["model"].tolist() == [expected]


def test_a_client_with_nothing_has_no_say():
    method, sizes = METHODS["fedavg"], torch.tensor([5, 0])
    for weighting in ("size", "uniform"):
        config = MethodConfig(weighting=weighting)
        state = method.server({"model": MODEL[None]}, (0, 1), REPLIES, sizes, config)
        assert torch.equal(state["model"][0], REPLIES["model"][0])
    state = {"model": MODEL[None]}
    assert method.server(state, (0, 1), REPLIES, 0 * sizes, MethodConfig()) is state


def test_local_models_never_meet():
    method = METHODS["local"]
    start = method.init(MODEL, 4)
    state = method.server(start, (1, 3), REPLIES, torch.tensor([1, 1]), MethodConfig())
    assert torch.equal(state["model"][[1, 3]], REPLIES["model"])
    assert torch.equal(state["model"][[0, 2]], MODEL.expand(2, 3))
    assert torch.equal(start["model"], MODEL.expand(4, 3))
    assert torch.equal(method.down(state, (3,))["model"], REPLIES["model"][1:])


def test_only_the_centralised_bound_pools():
    assert [name for name, method in METHODS.items() if method.pooled] == ["centralised"]

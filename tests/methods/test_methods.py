"""What goes down, what comes back, and what the server makes of it."""

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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
    return method.server(None, state, heard, config, torch.Generator())


@pytest.mark.parametrize("name", [name for name, one in METHODS.items() if one.sends_model])
def test_every_client_receives_a_model(world_of, name):
    method, there = METHODS[name], world_of(name)(2, 2)
    down = method.down(method.init(there.problem, there.model, 5), (1, 3))
    assert torch.equal(down["model"], there.model.expand(2, -1))


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
    start = method.init(None, MODEL, 4)
    state = reduced("local", start, (1, 3), torch.tensor([1, 1]), MethodConfig())
    assert torch.equal(state["model"][[1, 3]], REPLIES["model"])
    assert torch.equal(state["model"][[0, 2]], MODEL.expand(2, 3))
    assert torch.equal(start["model"], MODEL.expand(4, 3))
    assert torch.equal(method.down(state, (3,))["model"], REPLIES["model"][1:])


def test_the_configuration_names_every_method():
    assert set(get_args(MethodConfig.model_fields["name"].annotation)) == set(METHODS)


def test_only_the_centralised_bound_pools():
    assert [name for name, method in METHODS.items() if method.pooled] == ["centralised"]


RAGGED = (9, 0, 4, 1, 7)


def same(mine, theirs, **tolerance):
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs[name], **tolerance)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("sampled", [lambda r, c: True, lambda r, c: (r + c) % 2 == 0])
def test_stacked_clients_and_one_by_one_agree(world_of, plain, name, sampled):
    there, config = world_of(name)(*RAGGED), plain.model_copy(update={"batch": 4})
    state, kept = there.play(name, config, rounds=3, stack=5, sampled=sampled)
    alone, kept_alone = there.play(name, config, rounds=3, stack=1, sampled=sampled)
    same(state, alone)
    for client in kept:
        same(kept[client], kept_alone[client])
    assert not torch.allclose(state["model"][0], there.model)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])
def test_single_precision_follows_double(world_of, plain, name, optimizer):
    config = plain.model_copy(update={"optimizer": optimizer, "lr": 1e-3, "momentum": 0.5})
    there = world_of(name)(*RAGGED)
    state, _ = there.play(name, config, rounds=1)
    single, _ = there.single().play(name, config, rounds=1)
    assert single["model"].dtype == torch.float32
    torch.testing.assert_close(single["model"].double(), state["model"], atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("name", METHODS)
@settings(deadline=None, max_examples=6)
@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=4), batch=st.integers(2, 3))
def test_any_clients_go_through_two_rounds(world_of, plain, name, sizes, batch):
    config = MethodConfig(batch=batch, epochs=1, creff=plain.creff, feddm=plain.feddm)
    state, kept = world_of(name)(*sizes).play(name, config)
    payloads = [state, *kept.values()]
    assert all(value.isfinite().all() for payload in payloads for value in payload.values())


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not method.tasks])
def test_a_method_of_no_task_learns_from_pictures_too(pictures, plain, name):
    there = pictures(6, 0, 5)
    state, _ = there.play(name, plain)
    assert state["model"].isfinite().all()
    assert not torch.allclose(state["model"][0], there.model)

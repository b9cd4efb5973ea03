"""What clients receive, what they send, and what the server makes of it."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsyn.federation.config import load
from fedsyn.methods import METHODS
from fedsyn.methods.base import MethodConfig
from fedsyn.methods.bounds import CENTRALISED, LOCAL
from fedsyn.methods.fedavg import FEDAVG
from fedsyn.methods.fedcmi import FEDCMI

MODEL = torch.arange(3.0)
RAGGED = (9, 0, 4, 1, 7)
# Sums in which clients count alike, whatever the weighting, by method.
ALIKE = {
    "scaffold": ("control",),
    "feddyn": ("model",),
    "creff": ("gradients",),
    "clip2fl": ("gradients",),
    "mfcpl": ("sums", "rows"),
    "creamfl": ("image", "image.weight", "text", "text.weight"),
}
REPLIES = {"model": torch.tensor([[2.0, 0.0, 0.0], [0.0, 4.0, 0.0]])}


def each(*methods):
    """A test of each of these methods."""
    return pytest.mark.parametrize("method", methods, ids=[method.name for method in methods])


@dataclass(frozen=True)
class Told:
    """A problem whose clients come out of training with the models that they are told."""

    models: torch.Tensor

    def train(self, start, cohort, config):
        """These models, whatever there is to train on."""
        return self.models, torch.zeros(len(cohort.ids))


def reduced(wire, method, state, sizes, config):
    """The server's state when the two replies have arrived one after the other."""
    sent = []
    for place, (client, size) in enumerate(sizes.items()):
        one, received = wire.holding({client: size}), method.broadcast(state, (client,))
        told = Told(REPLIES["model"][place : place + 1])
        sent.append((one, method.client(told, received, {}, one, config).upload))
    return method.server(None, state, wire.arrive(*sent), config, torch.Generator())


@each(*(method for method in METHODS if method.broadcasts_model))
def test_every_client_receives_a_model(world_of, method):
    there = world_of(method)(2, 2)
    received = method.broadcast(method.init(there.problem, there.model, 5), (1, 3))
    assert torch.equal(received["model"], there.model.expand(2, -1))


@pytest.mark.parametrize(
    ("weighting", "expected"), [("size", [0.5, 3.0, 0.0]), ("uniform", [1.0, 2.0, 0.0])]
)
def test_fedavg_is_the_weighted_mean(wire, weighting, expected):
    config = MethodConfig(weighting=weighting)
    state = reduced(wire, FEDAVG, {"model": MODEL[None]}, {0: 1, 1: 3}, config)
    assert state["model"].tolist() == [expected]


def test_a_client_with_nothing_has_no_say(wire):
    for weighting in ("size", "uniform"):
        config = MethodConfig(weighting=weighting)
        state = reduced(wire, FEDAVG, {"model": MODEL[None]}, {0: 5, 1: 0}, config)
        assert torch.equal(state["model"][0], REPLIES["model"][0])
    state = {"model": MODEL[None]}
    assert reduced(wire, FEDAVG, state, {0: 0, 1: 0}, MethodConfig()) is state


# (In FedCMI a client counts for the modalities that it holds, see there.)
@each(*(method for method in METHODS if method is not FEDCMI))
@pytest.mark.parametrize("weighting", ["size", "uniform"])
def test_by_how_much_clients_count(world_of, plain, method, weighting):
    there, config = world_of(method)(*RAGGED), plain.changed(weighting=weighting)
    ids = tuple(range(len(RAGGED)))
    state = method.init(there.problem, there.model, len(ids))
    kept = {}
    if method.client_state is not None:
        begin = method.client_state(there.problem, there.model)
        kept = {name: value.expand(len(ids), *value.shape) for name, value in begin.items()}
    upload = there.update(method, method.broadcast(state, ids), kept, config).upload
    assert set(upload.sums) == set(method.sends)
    sizes = torch.tensor(RAGGED).double()
    holds = sizes > 0
    for name, one in upload.sums.items():
        assert one.weighted == (name not in ALIKE.get(method.name, ()))
        count = sizes if one.weighted and weighting == "size" else torch.ones_like(sizes)
        assert torch.equal(one.weight[holds], count[holds])
        assert not one.weight[~holds].any() or not one.value[~holds].any()


def test_local_models_never_meet(wire):
    start = LOCAL.init(None, MODEL, 4)
    state = reduced(wire, LOCAL, start, {1: 1, 3: 1}, MethodConfig())
    assert torch.equal(state["model"][[1, 3]], REPLIES["model"])
    assert torch.equal(state["model"][[0, 2]], MODEL.expand(2, 3))
    assert torch.equal(start["model"], MODEL.expand(4, 3))
    assert torch.equal(LOCAL.broadcast(state, (3,))["model"], REPLIES["model"][1:])


def test_the_configuration_names_every_method():
    for method in METHODS:
        config = load(None, [f"method={method.name}"])
        assert config.plugins.method is method and config.method.name == method.name
    assert len(set(METHODS.names)) == len(METHODS.names)


def test_only_the_centralised_bound_pools():
    assert [method for method in METHODS if method.needs.pooled] == [CENTRALISED]


def same(mine, theirs, **tolerance):
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs[name], **tolerance)


@each(*METHODS)
@pytest.mark.parametrize("sampled", [lambda r, c: True, lambda r, c: (r + c) % 2 == 0])
def test_stacked_clients_and_one_by_one_agree(world_of, plain, method, sampled):
    there, config = world_of(method)(*RAGGED), plain.changed(batch=4)
    state, kept = there.play(method, config, rounds=3, stack=5, sampled=sampled)
    alone, kept_alone = there.play(method, config, rounds=3, stack=1, sampled=sampled)
    same(state, alone)
    for client in kept:
        same(kept[client], kept_alone[client])
    stays = method.rounds == 0  # after the start there is nothing left to do
    assert torch.allclose(state["model"][0], there.model) == stays


@each(*METHODS)
@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])
def test_single_precision_follows_double(world_of, plain, method, optimizer):
    config = plain.changed(optimizer=optimizer, lr=1e-3, momentum=0.5)
    there = world_of(method)(*RAGGED)
    state, _ = there.play(method, config, rounds=1)
    single, _ = there.single().play(method, config, rounds=1)
    assert single["model"].dtype == torch.float32
    torch.testing.assert_close(single["model"].double(), state["model"], atol=2e-5, rtol=1e-3)


@each(*METHODS)
@settings(deadline=None, max_examples=6)
@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=4), batch=st.integers(2, 3))
def test_any_clients_go_through_two_rounds(world_of, plain, method, sizes, batch):
    config = plain.changed(optimizer="adam", lr=1e-3, batch=batch, epochs=1)
    state, kept = world_of(method)(*sizes).play(method, config)
    payloads = [state, *kept.values()]
    assert all(value.isfinite().all() for payload in payloads for value in payload.values())


@each(*(method for method in METHODS if not method.tasks))
def test_a_method_of_no_task_learns_from_pictures_too(pictures, plain, method):
    there = pictures(6, 0, 5)
    state, _ = there.play(method, plain)
    assert state["model"].isfinite().all()
    assert not torch.allclose(state["model"][0], there.model)

"""SCAFFOLD corrects local gradients by the difference of two controls."""

from dataclasses import replace

import pytest
import torch

from fedsyn.core.cohort import Extra
from fedsyn.core.wire import Upload
from fedsyn.errors import ConfigError
from fedsyn.federation.config import load
from fedsyn.methods.base import present
from fedsyn.methods.fedavg import FEDAVG
from fedsyn.methods.scaffold import SCAFFOLD, ScaffoldOptions


def noise(*shape, seed):
    draw = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(*shape, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize("control", ["gradient", "drift"])
def test_two_steps_and_the_next_control_by_hand(world, by_hand, plain, control):
    there = world(5, 3)
    config = plain.changed(scaffold=ScaffoldOptions(control=control))
    size = there.model.numel()
    c, own = noise(size, seed=3), noise(2, size, seed=4)
    received = {"model": there.model.expand(2, -1), "control": c.expand(2, -1)}
    sent, kept, _ = there.client(SCAFFOLD, received, {"control": own}, config)
    for client in range(2):
        pairs = there.pairs(client)

        def loss(w, pairs=pairs):
            return by_hand.info_nce(w, pairs)

        trained = by_hand.descend(
            there.model, loss, config.lr, steps=2, extra=lambda w, k=client: c - own[k]
        )
        torch.testing.assert_close(sent["model"][client], trained)
        if control == "gradient":
            expected = by_hand.gradient(loss, there.model)
        else:
            expected = own[client] - c + (there.model - trained) / (2 * config.lr)
        torch.testing.assert_close(kept["control"][client], expected)
        torch.testing.assert_close(sent["control"][client], expected - own[client])


def test_extra_pairs_are_part_of_a_clients_gradient(world, by_hand, plain):
    there = world(5, 3)
    zero = torch.zeros_like(there.model)[None]
    received = {"model": there.model[None], "control": zero}
    cohort = replace(there.cohort([1]), extra=Extra(there.rows(0), 5))  # all of them, always
    update = SCAFFOLD.client(there.problem, received, {"control": zero}, cohort, plain)
    both = torch.cat([there.pairs(1), there.pairs(0)])
    expected = by_hand.gradient(lambda w: by_hand.info_nce(w, both), there.model)
    torch.testing.assert_close(update.state["control"][0], expected)


def test_option_two_is_the_mean_gradient_along_the_way(world, by_hand, plain):
    there = world(5)
    config = plain.changed(scaffold=ScaffoldOptions(control="drift"))
    zero = torch.zeros_like(there.model)[None]
    received = {"model": there.model[None], "control": zero}
    _, kept, _ = there.client(SCAFFOLD, received, {"control": zero}, config)
    w, slopes = there.model, []
    for _ in range(2):
        slopes.append(by_hand.gradient(lambda w: by_hand.info_nce(w, there.pairs(0)), w))
        w = w - config.lr * slopes[-1]
    torch.testing.assert_close(kept["control"][0], (slopes[0] + slopes[1]) / 2)


@pytest.mark.parametrize(
    ("weighting", "expected"), [("size", [1.5, 2.375, 2.0]), ("uniform", [2.0, 1.75, 2.0])]
)
def test_the_server_by_hand(wire, plain, weighting, expected):
    config = plain.changed(weighting=weighting, scaffold=ScaffoldOptions(server_lr=0.5))
    state = SCAFFOLD.init(None, torch.tensor([1.0, 1.0, 2.0]), 4)
    assert torch.equal(state["control"], torch.zeros(1, 3))
    sent = []
    for client, (size, w, change) in enumerate([
        (1, [5.0, 0.0, 2.0], [4.0, 0.0, 8.0]),
        (3, [1.0, 5.0, 2.0], [0.0, 2.0, -4.0]),
        (0, [9.0, 9.0, 9.0], [9.0, 9.0, 9.0]),  # has no say
    ]):  # fmt: skip
        one = wire.holding({client: size})
        sums = config.weighted(one, model=torch.tensor([w]))
        sent.append((one, Upload(sums | present(one, control=torch.tensor([change])))))
    state = SCAFFOLD.server(None, state, wire.arrive(*sent), config, torch.Generator())
    # Half of the way to the mean, [2, 3.75, 2] or [3, 2.5, 2]; a quarter of the controls' changes.
    assert state["model"].tolist() == [expected]
    assert state["control"].tolist() == [[1.0, 0.5, 1.0]]
    assert torch.equal(SCAFFOLD.broadcast(state, (2, 3))["control"], state["control"].expand(2, -1))


def test_one_client_is_fedavg(world, plain):
    there = world(9)
    config = plain.changed(batch=4)
    mine, avg = (there.play(method, config, rounds=3)[0] for method in (SCAFFOLD, FEDAVG))
    torch.testing.assert_close(mine["model"], avg["model"])
    assert mine["control"].abs().max() > 0


@pytest.mark.parametrize("control", ["gradient", "drift"])
def test_the_servers_control_stays_the_mean_of_all_clients(world, plain, control):
    there = world(9, 0, 2, 1, 7)
    own = ScaffoldOptions(control=control)
    config = plain.changed(scaffold=own, batch=4)
    state, kept = there.play(SCAFFOLD, config, rounds=4, sampled=lambda r, c: (r + c) % 2 == 0)
    controls = torch.stack([kept[client]["control"] for client in range(5)])
    torch.testing.assert_close(state["control"][0], controls.mean(0))
    assert not controls[[1, 3]].any()  # nothing to train on, or a single pair


def test_drift_is_refused_where_it_does_not_hold():
    drift = ["method=scaffold", "method.scaffold.control=drift"]
    load(None, [*drift, "method.optimizer=sgd"])
    load(None, ["method.scaffold.control=drift"])  # of another method
    for wrong in ("method.optimizer=adam", "method.optimizer=rmsprop"):
        with pytest.raises(ConfigError, match=r"method\.scaffold\.control = 'drift'"):
            load(None, [*drift, wrong])
    with pytest.raises(ConfigError, match=r"momentum 0\.9"):
        load(None, [*drift, "method.optimizer=sgd", "method.momentum=0.9"])

"""FedNova averages mean steps, so that clients who take many do not pull harder."""

import pytest
import torch

from fedsyn.core.wire import Upload
from fedsyn.methods import fednova
from fedsyn.methods.base import MethodConfig
from fedsyn.methods.fedavg import FEDAVG
from fedsyn.methods.fednova import FEDNOVA


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_the_norm_is_how_often_momentum_counts_each_gradient(momentum):
    config = MethodConfig(optimizer="sgd", momentum=momentum)
    taken = torch.tensor([0, 1, 2, 7])
    expected = []
    for steps in taken.tolist():
        velocity = position = 0.0
        for _ in range(steps):  # each gradient is 1
            velocity = momentum * velocity + 1
            position += velocity
        expected.append(position)
    assert fednova.norms(taken, config).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_the_norm_of_adaptive_steps_is_their_number(optimizer):
    config = MethodConfig(optimizer=optimizer, momentum=0.9)
    assert fednova.norms(torch.tensor([0, 5]), config).tolist() == [0, 5]


def test_two_steps_and_one_by_hand(world, by_hand, plain):
    there = world(5, 3)
    config = plain.changed(epochs=1, batch=3)  # 5 pairs are two batches
    fed, _, _ = there.client(FEDAVG, {"model": there.model.expand(2, -1)}, {}, config)
    state, _ = there.play(FEDNOVA, config, rounds=1)
    long, short = ((there.model - w) for w in fed["model"])
    expected = there.model - (5 / 8 * 2 + 3 / 8) * (5 / 8 * long / 2 + 3 / 8 * short)
    torch.testing.assert_close(state["model"][0], expected)
    one = by_hand.descend(
        there.model, lambda w: by_hand.info_nce(w, there.pairs(1)), config.lr, steps=1
    )
    torch.testing.assert_close(there.model - short, one)


@pytest.mark.parametrize(
    ("weighting", "expected"), [("size", [7.0, -2.5]), ("uniform", [4.5, 0.5])]
)
def test_the_server_by_hand(wire, weighting, expected):
    config, sent = MethodConfig(weighting=weighting), []
    for client, (size, direction, norm) in enumerate([
        (3, [-2.0, 2.0], 4.0),
        (1, [0.0, -2.0], 0.0),
        (0, [9.0, 9.0], 9.0),  # has no say
    ]):  # fmt: skip
        one = wire.holding({client: size})
        values = {"direction": torch.tensor([direction]), "norm": torch.tensor([norm])}
        sent.append((one, Upload(config.weighted(one, **values))))
    state = {"model": torch.tensor([[2.5, 0.5]])}
    state = FEDNOVA.server(None, state, wire.arrive(*sent), config, torch.Generator())
    # Mean norm times mean direction: 3 · [−1.5, 1] or 2 · [−1, 0].
    assert state["model"].tolist() == [expected]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_equal_steps_are_fedavg(world, plain, momentum):
    there = world(8, 0, 6, 7)
    config = plain.changed(batch=4, momentum=momentum)  # two batches each
    nova, avg = (there.play(method, config)[0]["model"] for method in (FEDNOVA, FEDAVG))
    torch.testing.assert_close(nova, avg)
    config = config.changed(batch=3)  # three, two and three
    nova, avg = (there.play(method, config)[0]["model"] for method in (FEDNOVA, FEDAVG))
    assert not torch.allclose(nova, avg)

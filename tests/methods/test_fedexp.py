"""FedExP, number by number."""

import pytest
import torch

from fedsyn.core.wire import Upload
from fedsyn.methods.fedexp import FEDEXP, FedExPOptions


def stepped(wire, plain, epsilon, sizes, models, start=(0.0, 0.0)):
    """The model after a round in which clients of these sizes have sent these models."""
    config = plain.changed(fedexp=FedExPOptions(epsilon=epsilon))
    state = FEDEXP.init(None, torch.tensor(start), len(sizes))
    sent = []
    for client, (size, model) in enumerate(zip(sizes, models, strict=True)):
        one = wire.holding({client: size})
        moved = sum((a - b) ** 2 for a, b in zip(model, start, strict=True))
        sums = config.weighted(
            one, model=torch.tensor([model]), moved=torch.tensor([moved], dtype=torch.float64)
        )
        sent.append((one, Upload(sums)))
    found = FEDEXP.server(None, state, wire.arrive(*sent), config, torch.Generator())
    return found["model"][0].tolist()


@pytest.mark.parametrize(
    ("epsilon", "sizes", "expected"),
    [
        # Mean (1, 1), ‖mean‖² = 2, mean of ‖Δ‖² = (17 + 5) / 2 = 11.
        (0.0, (2, 2), 11 / 4 * torch.tensor([1.0, 1.0])),
        (0.5, (2, 2), 11 / 5 * torch.tensor([1.0, 1.0])),
        (100.0, (2, 2), torch.tensor([1.0, 1.0])),  # never shorter than the mean
        # Mean (−1/2, 1), ‖mean‖² = 5/4, mean of ‖Δ‖² = (17 + 3 · 5) / 4 = 8.
        (0.0, (1, 3), 8 / 2.5 * torch.tensor([-0.5, 1.0])),
    ],
)
def test_a_step_by_hand(wire, plain, epsilon, sizes, expected):
    found = stepped(wire, plain, epsilon, sizes, [(4.0, 1.0), (-2.0, 1.0)])
    assert found == pytest.approx(expected.tolist())


def test_the_step_is_from_the_model_that_was_sent(wire, plain):
    # Δ = ±(1, 0) around a mean change of (0, 2): 5 / (2 · 4) < 1, so the mean itself.
    found = stepped(wire, plain, 0.0, (1, 1), [(4.0, 7.0), (2.0, 7.0)], start=(3.0, 5.0))
    assert found == pytest.approx([3.0, 7.0])


def test_clients_that_agree_are_averaged(wire, plain):
    assert stepped(wire, plain, 0.0, (1, 2), [(1.0, 2.0)] * 2) == pytest.approx([1.0, 2.0])
    assert stepped(wire, plain, 0.0, (1, 2), [(0.0, 0.0)] * 2) == [0.0, 0.0]


def test_clients_say_how_far_they_have_moved(world, plain):
    there = world(5, 0, 3)
    received = {"model": there.model.expand(3, -1)}
    update = there.update(FEDEXP, received, {}, plain)
    model, moved = update.upload.sums["model"], update.upload.sums["moved"]
    expected = (model.value - there.model).square().sum(-1)
    torch.testing.assert_close(moved.value, expected)
    assert moved.value[1] == 0 and moved.value[0] > 0
    assert torch.equal(moved.weight, model.weight)


def test_a_round_goes_as_far_as_its_clients_say(world, plain):
    there = world(5, 4)
    state, _ = there.play(FEDEXP, plain, rounds=1)
    received = {"model": there.model.expand(2, -1)}
    one = there.update(FEDEXP, received, {}, plain).upload.sums["model"].value
    change = one - there.model
    mean = (5 * change[0] + 4 * change[1]) / 9
    moved = (5 * change[0].square().sum() + 4 * change[1].square().sum()) / 9
    rate = max(1.0, float(moved / (2 * (mean.square().sum() + 1e-3))))
    torch.testing.assert_close(state["model"][0], there.model + rate * mean)

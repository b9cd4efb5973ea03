"""FedAdam and FedYogi, number by number."""

import math

import pytest
import torch

from fedsyn.core.wire import Upload
from fedsyn.methods.adaptive import FEDADAM, FEDYOGI, AdaptiveOptions

OWN = AdaptiveOptions(lr=0.1, betas=(0.9, 0.8), tau=0.5)
BOTH = FEDADAM, FEDYOGI
NAMES = tuple(method.name for method in BOTH)


@pytest.mark.parametrize("method", BOTH, ids=NAMES)
def test_three_rounds_by_hand(wire, plain, method):
    config = plain.changed(adaptive=OWN)
    state = method.init(None, torch.tensor([1.0, -2.0]), 3)
    w, m, v = [1.0, -2.0], [0.0, 0.0], [0.25, 0.25]
    for changes in ([[2.0, 0.1], [1.0, 0.3]], [[-1.0, 0.0], [0.0, 0.4]], [[0.2, 2.0], [0.1, 1.0]]):
        sent = []
        for client, (size, change) in enumerate(zip((1, 3), changes, strict=True)):
            one, model = wire.holding({client: size}), state["model"] + torch.tensor([change])
            sent.append((one, Upload(config.weighted(one, model=model))))
        state = method.server(None, state, wire.arrive(*sent), config, torch.Generator())
        for i in range(2):
            delta = (changes[0][i] + 3 * changes[1][i]) / 4
            m[i] = 0.9 * m[i] + 0.1 * delta
            if method is FEDADAM:
                v[i] = 0.8 * v[i] + 0.2 * delta**2
            else:
                v[i] -= 0.2 * delta**2 * math.copysign(1, v[i] - delta**2)
            w[i] += 0.1 * m[i] / (math.sqrt(v[i]) + 0.5)
        assert state["model"][0].tolist() == pytest.approx(w)
        assert state["first"][0].tolist() == pytest.approx(m, abs=1e-6)
        assert state["second"][0].tolist() == pytest.approx(v, abs=1e-6)


@pytest.mark.parametrize("method", BOTH, ids=NAMES)
def test_the_change_is_from_the_model_that_was_sent(wire, plain, method):
    """Which may be another than the last round's mean: a fine-tuned one."""
    config, one = plain.changed(adaptive=OWN), wire.holding({0: 2})
    state = method.init(None, torch.tensor([1.0]), 1)
    for tuned in (1.0, 5.0):
        state["model"] = torch.tensor([[tuned]])
        upload = Upload(config.weighted(one, model=state["model"].clone()))
        state = method.server(None, state, wire.arrive((one, upload)), config, torch.Generator())
        assert state["model"].tolist() == [[tuned]]


@pytest.mark.parametrize("method", BOTH, ids=NAMES)
def test_nobody_with_pairs_changes_nothing(world, plain, method):
    there = world(0, 0)
    state, _ = there.play(method, plain)
    assert torch.equal(state["model"][0], there.model) and set(state) == {"model"}

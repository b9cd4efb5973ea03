"""FedAdam and FedYogi, number by number."""

import math

import pytest
import torch

from fedsyn.config import AdaptiveConfig, MethodConfig
from fedsyn.methods import METHODS

OWN = AdaptiveConfig(lr=0.1, betas=(0.9, 0.8), tau=0.5)


@pytest.mark.parametrize("name", ["fedadam", "fedyogi"])
def test_three_rounds_by_hand(name):
    method, config = METHODS[name], MethodConfig(adaptive=OWN)
    state = method.init(None, torch.tensor([1.0, -2.0]), 3)
    w, m, v = [1.0, -2.0], [0.0, 0.0], [0.25, 0.25]
    for changes in ([[2.0, 0.1], [1.0, 0.3]], [[-1.0, 0.0], [0.0, 0.4]], [[0.2, 2.0], [0.1, 1.0]]):
        heard = {}
        for client, (size, change) in enumerate(zip((1, 3), changes, strict=True)):
            sent = {"model": state["model"] + torch.tensor([change])}
            heard = method.hear(heard, (client,), sent, torch.tensor([size]), config)
        state = method.server(None, state, heard, config, torch.Generator())
        for i in range(2):
            delta = (changes[0][i] + 3 * changes[1][i]) / 4
            m[i] = 0.9 * m[i] + 0.1 * delta
            if name == "fedadam":
                v[i] = 0.8 * v[i] + 0.2 * delta**2
            else:
                v[i] -= 0.2 * delta**2 * math.copysign(1, v[i] - delta**2)
            w[i] += 0.1 * m[i] / (math.sqrt(v[i]) + 0.5)
        assert state["model"][0].tolist() == pytest.approx(w)
        assert state["first"][0].tolist() == pytest.approx(m, abs=1e-6)
        assert state["second"][0].tolist() == pytest.approx(v, abs=1e-6)


@pytest.mark.parametrize("name", ["fedadam", "fedyogi"])
def test_the_change_is_from_the_model_that_was_sent(name):
    """Which may be another than the last round's mean: a fine-tuned one."""
    method, config = METHODS[name], MethodConfig(adaptive=OWN)
    state = method.init(None, torch.tensor([1.0]), 1)
    for tuned in (1.0, 5.0):
        state["model"] = torch.tensor([[tuned]])
        heard = method.hear({}, (0,), {"model": torch.tensor([[tuned]])}, torch.tensor([2]), config)
        state = method.server(None, state, heard, config, torch.Generator())
        assert state["model"].tolist() == [[tuned]]


@pytest.mark.parametrize("name", ["fedadam", "fedyogi"])
def test_nobody_with_pairs_changes_nothing(world, plain, name):
    there = world(0, 0)
    state, _ = there.play(name, plain)
    assert torch.equal(state["model"][0], there.model) and set(state) == {"model"}

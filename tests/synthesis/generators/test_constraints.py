"""The losses that constrain generated pairs, by hand."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from fedsyn.synthesis.generators.constraints import ConstraintOptions, constraint_losses


class TestConstraintLosses:
    east, north = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    alive = torch.tensor([[True, True, False]])
    prototype = torch.stack([east, north, east])[None]

    def loss(self, image, text, temperature=0.3, **weights):
        return constraint_losses(
            image[None],
            text[None],
            self.prototype,
            self.alive,
            ConstraintOptions(**weights),
            temperature,
        ).item()

    def test_direct_is_log_batch_where_all_pairs_are_the_same(self):
        same = self.east.expand(5, 2)
        assert self.loss(same, same, direct=2.0) == pytest.approx(2 * math.log(5), rel=1e-6)

    def test_indirect_by_hand(self):
        tau = 0.5
        image = text = self.east.expand(3, 2)
        expected = -math.log(1 / (1 + math.exp(-1 / tau)))
        assert self.loss(image, text, indirect=1.0, temperature=tau) == pytest.approx(
            expected, rel=1e-5
        )

    def test_jsd_is_zero_for_agreeing_and_ln_two_for_opposed_modalities(self):
        east, north = self.east.expand(3, 2), self.north.expand(3, 2)
        assert self.loss(east, east, jsd=1.0) == pytest.approx(0, abs=1e-6)
        assert self.loss(east, north, jsd=1.0, temperature=0.01) == pytest.approx(math.log(2))

    def test_gradients_reach_the_pair(self):
        pair = normalize(torch.randn(4, 2), dim=-1).requires_grad_()
        every = ConstraintOptions(direct=1, indirect=1, jsd=1)
        other = normalize(torch.randn(1, 4, 2), dim=-1)
        constraint_losses(
            pair[None], other, self.prototype, self.alive, every, 0.3
        ).sum().backward()
        assert pair.grad.isfinite().all() and pair.grad.abs().sum() > 0

"""PCME's soft contrast: every image and text of a batch either match or do not."""

import numpy as np
import pytest
import torch

from fedsyn.objectives.pairs.base import PairBatch, Sizes
from fedsyn.objectives.pairs.pcme import PCME, PCMEOptions

SIZES = Sizes(4, 3, 6, False)


def learnt(scale, shift, clients=2):
    """a and b of every client."""
    a, b = (torch.full((clients, 1), v, dtype=torch.float64) for v in (scale, shift))
    return {"distance_scale": a, "distance_shift": b}


def build(**config):
    return PCME.pairs(PCMEOptions(**config), SIZES)


def by_hand(image, text, a, b):
    """Match by match, as the formula reads."""
    loss = 0.0
    for i, v in enumerate(image):
        for j, t in enumerate(text):
            s = -a * np.sqrt(((v - t) ** 2).sum()) + b
            match = np.exp(s) / (np.exp(s) + np.exp(-s))
            loss -= np.log(match if i == j else 1 - match)
    return loss / len(image)


@pytest.mark.parametrize(("a", "b"), [(15.0, 15.0), (3.0, 2.0), (0.5, -1.0)])
def test_agrees_with_the_formula(stack, each, a, b):
    made = stack(hashing=False)
    found = build()(learnt(a, b), made.batch)
    expected = [by_hand(image, text, a, b) for image, text, _ in each(made.batch)]
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-9)


def test_a_and_b_start_where_configured_and_are_learnt(stack):
    start = build(scale=4.0, shift=3.0).parameters(torch.Generator())
    assert {name: value.tolist() for name, value in start.items()} == {
        "distance_scale": [4.0],
        "distance_shift": [3.0],
    }
    params = {name: value.requires_grad_() for name, value in learnt(4.0, 3.0).items()}
    losses = build()(params, stack(hashing=False).batch)
    for gradient in torch.autograd.grad(losses[0], list(params.values())):
        assert gradient[0] != 0 and gradient[1] == 0


def test_a_pair_that_lies_in_one_point_has_a_finite_gradient():
    image = torch.eye(3, dtype=torch.float64)[None].requires_grad_()
    text = torch.eye(3, dtype=torch.float64)[None].requires_grad_()
    loss = build()(learnt(15.0, 15.0, 1), PairBatch(image, text, image))
    for gradient in torch.autograd.grad(loss.sum(), (image, text)):
        assert gradient.isfinite().all()

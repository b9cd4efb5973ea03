"""Alignment and uniformity by the definition, pair by pair."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from fedsyn.objectives.pairs.alignment_uniformity import AlignmentUniformityLoss
from fedsyn.objectives.pairs.base import PairBatch

LOSS = AlignmentUniformityLoss()


def batch(image, text, valid=None):
    return PairBatch(image, text, torch.zeros(*image.shape[:-1], 1), valid)


def by_definition(image, text):
    """One client's loss, in float64."""
    image, text = image.double(), text.double()
    size = len(image)
    loss = sum(float((u - v) @ (u - v)) for u, v in zip(image, text, strict=True)) / size
    for rows in (image, text):
        kernel = [
            math.exp(-2 * float((rows[i] - rows[j]) @ (rows[i] - rows[j])))
            for i in range(size)
            for j in range(size)
            if i != j
        ]
        loss += 0.5 * math.log(sum(kernel) / len(kernel))
    return loss


@given(st.lists(st.integers(2, 6), min_size=1, max_size=3), st.integers(0, 99))
def test_every_client_has_the_loss_of_its_own_pairs(sizes, seed):
    draw = torch.Generator().manual_seed(seed)
    image, text = normalize(torch.randn(2, len(sizes), 6, 3, generator=draw), dim=-1)
    valid = torch.arange(6) < torch.tensor(sizes)[:, None]
    found = LOSS({}, batch(image, text, valid))
    for client, size in enumerate(sizes):
        expected = by_definition(image[client, :size], text[client, :size])
        assert found[client].item() == pytest.approx(expected, abs=1e-4)


def test_without_a_mask_all_rows_count():
    image, text = normalize(
        torch.randn(2, 1, 5, 3, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    assert LOSS({}, batch(image, text)).item() == pytest.approx(by_definition(image[0], text[0]))


@pytest.mark.parametrize("pairs", [0, 1])
def test_a_client_with_nothing_to_compare_has_no_gradient_of_uniformity(pairs):
    image = normalize(torch.ones(1, 3, 2), dim=-1).requires_grad_()
    valid = torch.arange(3)[None] < pairs
    loss = LOSS({}, batch(image, image.detach(), valid))
    assert loss.item() == 0
    (gradient,) = torch.autograd.grad(loss.sum(), image)
    assert gradient.isfinite().all()

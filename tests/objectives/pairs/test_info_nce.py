"""The objective's temperature: fixed, or learnt within its bound."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from fedsyn import ops
from fedsyn.objectives.pairs.base import PairBatch, Sizes
from fedsyn.objectives.pairs.info_nce import INFO_NCE, InfoNCEOptions

SIZES = Sizes(image=3, text=2, code=4, hashing=False)


def embeddings(seed):
    draw = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(2, 6, 4, generator=draw), dim=-1)


def batch(image, text):
    """These embeddings; the features do not matter."""
    return PairBatch(image, text, torch.zeros(*image.shape[:-1], 5))


def test_a_fixed_temperature_has_no_parameters():
    objective = INFO_NCE.pairs(InfoNCEOptions(temperature=0.5), SIZES)
    assert objective.parameters(torch.Generator()) == {}
    image, text = embeddings(0), embeddings(1)
    torch.testing.assert_close(objective({}, batch(image, text)), ops.info_nce(image, text, 2.0))


def test_a_learnt_temperature_starts_where_configured_and_has_a_gradient_a_client():
    objective = INFO_NCE.pairs(InfoNCEOptions(temperature=0.5, learnable=True), SIZES)
    (name, start), *_ = objective.parameters(torch.Generator()).items()
    scale = start.expand(2, 1).clone().requires_grad_()
    image, text = embeddings(0), embeddings(1)
    losses = objective({name: scale}, batch(image, text))
    torch.testing.assert_close(losses, ops.info_nce(image, text, 2.0))
    (gradient,) = torch.autograd.grad(losses[0], scale)
    assert gradient[0] != 0 and gradient[1] == 0


def test_a_learnt_temperature_does_not_fall_below_a_hundredth():
    objective = INFO_NCE.pairs(InfoNCEOptions(learnable=True), SIZES)
    image, text = embeddings(0), embeddings(1)
    extreme = {"log_scale": torch.full((2, 1), math.log(1e6))}
    assert objective(extreme, batch(image, text)).tolist() == pytest.approx(
        ops.info_nce(image, text, 100.0).tolist(), rel=1e-4
    )

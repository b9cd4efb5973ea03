"""Quotas add up, and candidates are scored by what all clients' prototypes say."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from fedsyn import ops, streams
from fedsyn.models.retrieval import fuse
from fedsyn.synthesis import scores
from fedsyn.synthesis.scores import GlobalPrototypes

masses = st.lists(st.floats(0, 1), min_size=1, max_size=8)


@given(masses, st.integers(0, 500), st.floats(0, 1))
def test_quotas_split_the_budget_exactly(mass, budget, balance):
    quotas = scores.quotas(mass, budget, balance)
    alive = any(m > 0 and m ** (1 - balance) > 0 for m in mass)
    assert sum(quotas) == (budget if alive else 0)
    assert all(quota == 0 for quota, m in zip(quotas, mass, strict=True) if m == 0)


def test_balance_runs_from_proportional_to_uniform():
    assert scores.quotas([0.1, 0.9], 100, 0.0) == [10, 90]
    assert scores.quotas([0.1, 0.9], 100, 1.0) == [50, 50]


def test_scores_by_hand():
    east, north = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    embedded = torch.stack([east[None], north[None]])  # client 0 knows east, client 1 north
    there = GlobalPrototypes(torch.stack([east, north]), torch.tensor([0.5, 0.5]))
    found = scores.score(
        image=torch.stack([east, east]),
        text=torch.stack([east, north]),
        maker=torch.tensor([0, 1]),
        embedded=embedded,
        counts=torch.ones(2, 1).long(),
        world=there,
        scale=100.0,
    )
    half = math.sqrt(0.5)
    torch.testing.assert_close(found.divergence, torch.tensor([0.0, math.log(2)]))
    torch.testing.assert_close(found.realism, torch.tensor([1.0, half]))
    torch.testing.assert_close(found.agreement, torch.tensor([0.5, half]))
    assert found.prototype[0] == 0


def test_scores_against_the_global_prototypes_follow_their_formulas():
    generator = torch.Generator().manual_seed(0)
    image, text, centroids = (
        normalize(torch.randn(rows, 16, generator=generator), dim=-1) for rows in (200, 200, 12)
    )
    found = scores.score(
        image=image,
        text=text,
        maker=torch.zeros(200).long(),
        embedded=centroids[None],
        counts=torch.ones(1, 12).long(),
        world=GlobalPrototypes(centroids, torch.full((12,), 1 / 12)),
        scale=15.0,
    )
    p, q = ((15.0 * (u @ centroids.T).double()).softmax(-1) for u in (image, text))
    torch.testing.assert_close(
        found.divergence.double(), ops.js_divergence(p, q), rtol=0, atol=1e-6
    )
    assert torch.equal(found.prototype, (fuse(image, text) @ centroids.T).argmax(-1))


def test_global_prototypes_weigh_what_they_stand_for():
    embedded = normalize(torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.1], [0.0, 0.0]]]), dim=-1)
    counts = torch.tensor([[30, 50], [20, 0]])
    found = scores.global_prototypes(embedded, counts, 2, streams.generator(0, "x"))
    assert sorted(found.mass.tolist()) == pytest.approx([0.5, 0.5])
    torch.testing.assert_close(found.centroids.norm(dim=-1), torch.ones(2))


def test_more_global_prototypes_than_there_are_prototypes():
    embedded = torch.eye(3)[None]
    found = scores.global_prototypes(
        embedded, torch.ones(1, 3).long(), 24, streams.generator(0, "x")
    )
    assert len(found.mass) == 3

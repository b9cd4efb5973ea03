"""The server's filter keeps its quotas and nothing implausible."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from fedsyn import ops, streams
from fedsyn.config import SynthesisConfig
from fedsyn.models.retrieval import fuse
from fedsyn.synthesis import filtering
from fedsyn.synthesis.filtering import GlobalPrototypes, Scores

masses = st.lists(st.floats(0, 1), min_size=1, max_size=8)


@given(masses, st.integers(0, 500), st.floats(0, 1))
def test_quotas_split_the_budget_exactly(mass, budget, balance):
    quotas = filtering.quotas(mass, budget, balance)
    alive = any(m > 0 and m ** (1 - balance) > 0 for m in mass)
    assert sum(quotas) == (budget if alive else 0)
    assert all(quota == 0 for quota, m in zip(quotas, mass, strict=True) if m == 0)


def test_balance_runs_from_proportional_to_uniform():
    assert filtering.quotas([0.1, 0.9], 100, 0.0) == [10, 90]
    assert filtering.quotas([0.1, 0.9], 100, 1.0) == [50, 50]


def scores(size, groups, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Scores(
        divergence=torch.rand(size, generator=generator) * math.log(2),
        realism=torch.rand(size, generator=generator),
        agreement=torch.rand(size, generator=generator),
        prototype=torch.randint(groups, (size,), generator=generator),
    )


def world(groups):
    mass = torch.arange(1.0, groups + 1)
    return GlobalPrototypes(torch.eye(groups), mass / mass.sum())


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(1, 6), st.floats(0, 0.5), st.floats(0, 1), st.floats(0, 1))
def test_quotas_are_kept(size, groups, quantile, keep, balance):
    config = SynthesisConfig(quantile=quantile, keep=keep, balance=balance)
    found, there = scores(size, groups), world(groups)
    kept = filtering.select(found, there, config, streams.generator(0, "filter"))
    allowed = filtering.quotas(there.mass.tolist(), round(keep * size), balance)
    used = torch.bincount(found.prototype[kept], minlength=groups)
    assert (used <= torch.tensor(allowed)).all()
    assert kept.unique().numel() == len(kept)
    if len(kept):
        assert found.divergence[kept].max() <= found.divergence.quantile(1 - quantile)
        assert found.realism[kept].min() >= found.realism.quantile(quantile)


def test_hard_quotas_take_the_most_divergent_of_the_plausible():
    config = SynthesisConfig(filter="hard", quantile=0.1, keep=0.3, balance=1.0)
    found, there = scores(60, 3), world(3)
    kept = filtering.select(found, there, config, streams.generator(0, "filter"))
    plausible = (found.divergence <= found.divergence.quantile(0.9)) & (
        found.realism >= found.realism.quantile(0.1)
    )
    for prototype in range(3):
        able = (plausible & (found.prototype == prototype)).nonzero().squeeze(-1)
        hardest = able[found.divergence[able].argsort(descending=True)][:6]  # 0.3 · 60 / 3
        taken = kept[found.prototype[kept] == prototype]
        assert set(taken.tolist()) == set(hardest.tolist())


def test_no_filter_keeps_everything():
    kept = filtering.select(
        scores(7, 2), world(2), SynthesisConfig(filter="none"), streams.generator(0, "filter")
    )
    assert kept.tolist() == list(range(7))


def test_agreement_keeps_what_fits_all_clients():
    found = scores(40, 3)
    config = SynthesisConfig(filter="agreement", keep=0.25)
    kept = filtering.select(found, world(3), config, streams.generator(0, "filter"))
    assert set(kept.tolist()) == set(found.agreement.topk(10).indices.tolist())


def test_scores_by_hand():
    east, north = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    embedded = torch.stack([east[None], north[None]])  # client 0 knows east, client 1 north
    there = GlobalPrototypes(torch.stack([east, north]), torch.tensor([0.5, 0.5]))
    found = filtering.score(
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
    found = filtering.score(
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


def test_the_quota_is_drawn_in_the_order_of_a_permutation():
    found, there = scores(300, 4), world(4)
    config = SynthesisConfig(quantile=0.1, keep=0.4)
    kept = filtering.select(found, there, config, streams.generator(0, "filter"))
    plausible = (found.divergence <= found.divergence.quantile(0.9)) & (
        found.realism >= found.realism.quantile(0.1)
    )
    rows = plausible.nonzero().flatten()
    shuffled = rows[torch.randperm(len(rows), generator=streams.generator(0, "filter"))]
    allowed = filtering.quotas(there.mass.tolist(), 120, config.balance)
    expected = [shuffled[found.prototype[shuffled] == g][:most] for g, most in enumerate(allowed)]
    assert torch.equal(kept, torch.cat(expected).sort().values)


def test_global_prototypes_weigh_what_they_stand_for():
    embedded = normalize(torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.1], [0.0, 0.0]]]), dim=-1)
    counts = torch.tensor([[30, 50], [20, 0]])
    found = filtering.global_prototypes(embedded, counts, 2, streams.generator(0, "x"))
    assert sorted(found.mass.tolist()) == pytest.approx([0.5, 0.5])
    torch.testing.assert_close(found.centroids.norm(dim=-1), torch.ones(2))


def test_more_global_prototypes_than_there_are_prototypes():
    embedded = torch.eye(3)[None]
    found = filtering.global_prototypes(
        embedded, torch.ones(1, 3).long(), 24, streams.generator(0, "x")
    )
    assert len(found.mass) == 3

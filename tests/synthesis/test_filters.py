"""The server's filter keeps its quotas and nothing implausible."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsyn import streams
from fedsyn.synthesis.extension import SYNTHESIS
from fedsyn.synthesis.filters import AGREEMENT, HARD, NONE, QUANTILE, QUOTA
from fedsyn.synthesis.scores import CandidateScores, GlobalPrototypes, quotas

SECTION = SYNTHESIS.section


def scores(size, groups, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return CandidateScores(
        divergence=torch.rand(size, generator=generator) * math.log(2),
        realism=torch.rand(size, generator=generator),
        agreement=torch.rand(size, generator=generator),
        prototype=torch.randint(groups, (size,), generator=generator),
    )


def world(groups):
    mass = torch.arange(1.0, groups + 1)
    return GlobalPrototypes(torch.eye(groups), mass / mass.sum())


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 6), st.floats(0, 0.5), st.floats(0, 1), st.floats(0, 1))
def test_quotas_are_kept(size, groups, quantile, keep, balance):
    config = SECTION(quantile=quantile, keep=keep, balance=balance)
    found, there = scores(size, groups), world(groups)
    kept = QUOTA.select(found, there, config, streams.generator(0, "filter"))
    allowed = quotas(there.mass.tolist(), round(keep * size), balance)
    used = torch.bincount(found.prototype[kept], minlength=groups)
    assert (used <= torch.tensor(allowed)).all()
    assert kept.unique().numel() == len(kept)
    if len(kept):
        assert found.divergence[kept].max() <= found.divergence.quantile(1 - quantile)
        assert found.realism[kept].min() >= found.realism.quantile(quantile)


def test_hard_quotas_take_the_most_divergent_of_the_plausible():
    config = SECTION(quantile=0.1, keep=0.3, balance=1.0)
    found, there = scores(60, 3), world(3)
    kept = HARD.select(found, there, config, streams.generator(0, "filter"))
    plausible = (found.divergence <= found.divergence.quantile(0.9)) & (
        found.realism >= found.realism.quantile(0.1)
    )
    for prototype in range(3):
        able = (plausible & (found.prototype == prototype)).nonzero().squeeze(-1)
        hardest = able[found.divergence[able].argsort(descending=True)][:6]  # 0.3 · 60 / 3
        taken = kept[found.prototype[kept] == prototype]
        assert set(taken.tolist()) == set(hardest.tolist())


def test_no_filter_keeps_everything():
    kept = NONE.select(scores(7, 2), world(2), SECTION(), streams.generator(0, "filter"))
    assert kept.tolist() == list(range(7))


def test_quantile_keeps_all_that_is_plausible():
    found = scores(60, 3)
    kept = QUANTILE.select(found, world(3), SECTION(quantile=0.1), streams.generator(0, "filter"))
    plausible = (found.divergence <= found.divergence.quantile(0.9)) & (
        found.realism >= found.realism.quantile(0.1)
    )
    assert torch.equal(kept, plausible.nonzero().squeeze(-1)) and len(kept) < 60


def test_agreement_keeps_what_fits_all_clients():
    found = scores(40, 3)
    config = SECTION(keep=0.25)
    kept = AGREEMENT.select(found, world(3), config, streams.generator(0, "filter"))
    assert set(kept.tolist()) == set(found.agreement.topk(10).indices.tolist())


def test_the_quota_is_drawn_in_the_order_of_a_permutation():
    found, there = scores(300, 4), world(4)
    config = SECTION(quantile=0.1, keep=0.4)
    kept = QUOTA.select(found, there, config, streams.generator(0, "filter"))
    plausible = (found.divergence <= found.divergence.quantile(0.9)) & (
        found.realism >= found.realism.quantile(0.1)
    )
    rows = plausible.nonzero().flatten()
    shuffled = rows[torch.randperm(len(rows), generator=streams.generator(0, "filter"))]
    allowed = quotas(there.mass.tolist(), 120, config.balance)
    expected = [shuffled[found.prototype[shuffled] == g][:most] for g, most in enumerate(allowed)]
    assert torch.equal(kept, torch.cat(expected).sort().values)

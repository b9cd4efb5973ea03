"""The server's step: candidates by share, fine-tuning, and doing nothing with nothing."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsyn import objectives, streams
from fedsyn.config import ModelConfig, ObjectiveConfig, SynthesisConfig
from fedsyn.core.cohort import Cohort
from fedsyn.models.retrieval import build
from fedsyn.objectives.pairs.base import Batch, Sizes
from fedsyn.synthesis import generators, server

NET = build(ModelConfig(hidden=(8,), dim=4), 3, 2, {})
OBJECTIVE = objectives.build(ObjectiveConfig(), Sizes(0, 0, 0, False))
FEATURES = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
MODEL = NET.init(torch.Generator().manual_seed(0))[None]
CONFIG = SynthesisConfig(
    prototypes=3, noise=4, candidates=90, generator="gaussian", server_steps=3, server_batch=8
)


def library(*sizes, config=CONFIG):
    bounds = np.cumsum([0, *sizes])
    held = tuple(np.arange(a, b) for a, b in itertools.pairwise(bounds))
    cohort = Cohort(tuple(range(len(sizes))), held, 0, 1)
    sent = generators.init(FEATURES, cohort, config, NET.code)

    def take(ids, names):
        return {name: sent[name][list(ids)] for name in names}

    return server.Library(cohort.ids, take), sent["counts"]


def sampler(*sizes, config=CONFIG, stack=10):
    held, counts = library(*sizes, config=config)
    return server.Sampler(held, counts, config, 0, 1, stack)


def everything(made):
    pairs, maker = zip(*made.all(), strict=True)
    return torch.cat(pairs), torch.cat(maker)


def real(count):
    return server.Pool(count, lambda at: FEATURES[at])


@pytest.mark.parametrize("kind", ["gaussian", "wgan-gp"])
def test_candidates_follow_the_clients_shares_whatever_the_stack(kind):
    config = CONFIG.model_copy(update={"generator": kind, "candidates": 900})
    pairs, maker = everything(sampler(40, 15, 5, config=config))
    counts = library(40, 15, 5, config=config)[1].sum(-1)
    share = 900 * counts / counts.sum()
    assert (maker.bincount() - share).abs().max() < 1
    assert pairs.shape == (900, 5)
    for stack in (1, 2):
        again, _ = everything(sampler(40, 15, 5, config=config, stack=stack))
        assert torch.equal(again, pairs)


@given(st.lists(st.integers(0, 899), min_size=1, max_size=60), st.integers(1, 5))
def test_candidates_made_again_are_the_same(at, stack):
    config = CONFIG.model_copy(update={"generator": "wgan-gp", "candidates": 900})
    made = sampler(40, 15, 5, config=config, stack=stack)
    pairs, _ = everything(made)
    assert torch.equal(made.take(torch.tensor(at)), pairs[at])


def test_candidates_have_their_clients_mean_and_covariance():
    config = CONFIG.model_copy(update={"candidates": 20000, "noise": 5, "truncation": 1.0})
    pairs, _ = everything(sampler(60, config=config))
    torch.testing.assert_close(pairs.mean(0), FEATURES.mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(pairs.T.cov(), FEATURES.T.cov(), atol=0.12, rtol=0)


def test_an_empty_set_leaves_the_model_unchanged():
    for rows in (0, 1):
        generator = streams.generator(0, "x")
        tuned, _ = server.fine_tune(NET, OBJECTIVE, MODEL, real(rows), CONFIG, generator)
        assert torch.equal(tuned, MODEL)


def test_clients_without_prototypes_give_an_empty_set():
    held, _ = library(1, 0)
    made = server.synthesise(NET, MODEL, held, CONFIG, 0, 1, 4)
    assert made.size == 0 and made.candidates == 0


def test_nobody_heard_from_gives_an_empty_set():
    held = server.Library((), lambda ids, names: {})
    assert server.synthesise(NET, MODEL, held, CONFIG, 0, 1, 4).size == 0


def test_what_a_broken_generator_makes_is_left_out():
    held, _ = library(40, 15)

    def broken(ids, names):
        sent = held.take(ids, names)
        if "basis" in sent:
            sent["basis"][torch.tensor(ids) == 1] = torch.nan
        return sent

    config = CONFIG.model_copy(update={"filter": "none"})
    whole = server.synthesise(NET, MODEL, held, config, 0, 1, 4)
    made = server.synthesise(NET, MODEL, server.Library(held.ids, broken), config, 0, 1, 4)
    assert whole.size == whole.candidates == made.candidates == 90
    assert 0 < made.size < 90
    assert made.take(torch.arange(made.size)).isfinite().all()


@pytest.mark.parametrize("stack", [1, 3])
def test_the_pool_is_what_the_filter_keeps_whatever_the_stack(stack):
    config = CONFIG.model_copy(update={"candidates": 2000, "keep": 0.5})
    held, _ = library(40, 15, 5, config=config)
    pools = [server.synthesise(NET, MODEL, held, config, 0, 1, n) for n in (stack, 50)]
    assert pools[0].size == pools[1].size <= 1000
    at = torch.arange(pools[0].size)
    assert torch.equal(pools[0].take(at), pools[1].take(at))


def test_fine_tuning_lowers_the_objective_and_leaves_its_input_alone():
    before = MODEL.clone()
    config = CONFIG.model_copy(update={"server_steps": 60, "server_lr": 1e-2})
    tuned, _ = server.fine_tune(NET, OBJECTIVE, MODEL, real(60), config, streams.generator(0, "x"))

    def loss(model):
        return OBJECTIVE({}, Batch(*NET.embed(model, FEATURES[None]), FEATURES[None])).item()

    assert loss(tuned) < loss(MODEL)
    assert torch.equal(MODEL, before)


@pytest.mark.parametrize(("pairs", "steps"), [(60, 0), (1, 3), (0, 3)])
def test_without_steps_or_pairs_to_contrast_the_model_comes_back(pairs, steps):
    config = CONFIG.model_copy(update={"server_steps": steps})
    tuned, _ = server.fine_tune(NET, OBJECTIVE, MODEL, real(pairs), config, torch.Generator())
    assert tuned is MODEL


def test_the_proximal_term_holds_the_model_back():
    def distance(mu):
        config = CONFIG.model_copy(update={"proximal": mu, "server_steps": 30})
        tuned, _ = server.fine_tune(
            NET, OBJECTIVE, MODEL, real(60), config, streams.generator(0, "x")
        )
        return (tuned - MODEL).norm()

    assert distance(10.0) < 0.5 * distance(0.0)

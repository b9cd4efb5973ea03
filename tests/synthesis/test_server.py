"""The server's step: candidates by share, fine-tuning, and doing nothing with nothing."""

import itertools

import numpy as np
import pytest
import torch

from fedsyn import objectives, streams
from fedsyn.config import ModelConfig, ObjectiveConfig, SynthesisConfig
from fedsyn.core.cohort import Cohort
from fedsyn.models.retrieval import build
from fedsyn.synthesis import generators, server

NET = build(ModelConfig(hidden=(8,), dim=4), 3, 2, {})
OBJECTIVE = objectives.build(ObjectiveConfig())
FEATURES = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
MODEL = NET.init(torch.Generator().manual_seed(0))[None]
CONFIG = SynthesisConfig(
    prototypes=3, noise=4, candidates=90, generator="gaussian", server_steps=3, server_batch=8
)


def library(*sizes, config=CONFIG):
    bounds = np.cumsum([0, *sizes])
    held = tuple(np.arange(a, b) for a, b in itertools.pairwise(bounds))
    cohort = Cohort(tuple(range(len(sizes))), held, 0, 1)
    return generators.upload(generators.init(FEATURES, cohort, config)), cohort.ids


@pytest.mark.parametrize("kind", ["gaussian", "wgan-gp"])
def test_candidates_follow_the_clients_shares_whatever_the_stack(kind):
    config = CONFIG.model_copy(update={"generator": kind})
    held, ids = library(40, 15, 5, config=config)
    pairs, maker = server.sample(held, ids, config, 0, 1, stack=10)
    assert torch.bincount(maker).tolist() == [60, 23, 7] or maker.bincount().sum() == 90
    assert pairs.shape == (90, 5)
    for stack in (1, 2):
        again, _ = server.sample(held, ids, config, 0, 1, stack=stack)
        assert torch.equal(again, pairs)


def test_candidates_have_their_clients_mean_and_covariance():
    config = CONFIG.model_copy(update={"candidates": 20000, "noise": 5, "truncation": 1.0})
    held, ids = library(60, config=config)
    pairs, _ = server.sample(held, ids, config, 0, 1, stack=1)
    torch.testing.assert_close(pairs.mean(0), FEATURES.mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(pairs.T.cov(), FEATURES.T.cov(), atol=0.12, rtol=0)


def test_an_empty_set_leaves_the_model_unchanged():
    for rows in (0, 1):
        tuned, _ = server.fine_tune(
            NET, OBJECTIVE, MODEL, FEATURES[:rows], CONFIG, streams.generator(0, "x")
        )
        assert torch.equal(tuned, MODEL)


def test_clients_without_prototypes_give_an_empty_set():
    held, ids = library(1, 0)
    made = server.synthesise(NET, MODEL, held, ids, CONFIG, 0, 1, 4)
    assert len(made.pairs) == 0 and made.candidates == 0


def test_fine_tuning_lowers_the_objective_and_leaves_its_input_alone():
    before = MODEL.clone()
    config = CONFIG.model_copy(update={"server_steps": 60, "server_lr": 1e-2})
    tuned, _ = server.fine_tune(NET, OBJECTIVE, MODEL, FEATURES, config, streams.generator(0, "x"))

    def loss(model):
        named = NET.layout.views(model)
        return OBJECTIVE(named, *NET.embed(named, FEATURES[None]), None).item()

    assert loss(tuned) < loss(MODEL)
    assert torch.equal(MODEL, before)


def test_the_proximal_term_holds_the_model_back():
    def distance(mu):
        config = CONFIG.model_copy(update={"proximal": mu, "server_steps": 30})
        tuned, _ = server.fine_tune(
            NET, OBJECTIVE, MODEL, FEATURES, config, streams.generator(0, "x")
        )
        return (tuned - MODEL).norm()

    assert distance(10.0) < 0.5 * distance(0.0)

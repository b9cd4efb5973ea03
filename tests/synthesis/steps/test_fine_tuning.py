"""Fine-tuning goes down the objective, is held back, and does nothing with nothing."""

import pytest
import torch

from fedsyn import streams
from fedsyn.core.extension import Pool
from fedsyn.objectives.pairs.base import PairBatch
from fedsyn.synthesis.steps.fine_tuning import FineTuningOptions, fine_tune

OPTIONS = FineTuningOptions(server_steps=3, server_batch=8)


def tuned(toy, count, options=OPTIONS):
    """The model, fine-tuned on so many real pairs."""
    pool = Pool(count, lambda at: toy.features[at])
    stream = streams.generator(0, "x")
    model, _ = fine_tune(toy.net, toy.problem.objective, toy.models[:1], pool, options, stream)
    return model


def test_fine_tuning_lowers_the_objective_and_leaves_its_input_alone(toy):
    before = toy.models[:1].clone()
    found = tuned(toy, 60, OPTIONS.changed(server_steps=60, server_lr=1e-2))

    def loss(model):
        pairs = toy.features[None]
        return toy.problem.objective({}, PairBatch(*toy.net.embed(model, pairs), pairs)).item()

    assert loss(found) < loss(before)
    assert torch.equal(toy.models[:1], before)


@pytest.mark.parametrize(("pairs", "steps"), [(60, 0), (1, 3), (0, 3)])
def test_without_steps_or_pairs_to_contrast_the_model_comes_back(toy, pairs, steps):
    model, pool = toy.models[:1], Pool(pairs, lambda at: toy.features[at])
    options = OPTIONS.changed(server_steps=steps)
    found, loss = fine_tune(toy.net, toy.problem.objective, model, pool, options, torch.Generator())
    assert found is model and loss == 0


def test_the_proximal_term_holds_the_model_back(toy):
    def distance(mu):
        found = tuned(toy, 60, OPTIONS.changed(proximal=mu, server_steps=30))
        return (found - toy.models[:1]).norm()

    assert distance(10.0) < 0.5 * distance(0.0)

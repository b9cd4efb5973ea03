"""What every objective promises, by the batch alone and with what it remembers."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsyn.core.cohort import Cohort
from fedsyn.core.training import Training
from fedsyn.models.retrieval import build
from fedsyn.models.settings import ModelConfig
from fedsyn.objectives import OBJECTIVES
from fedsyn.objectives.base import ObjectiveConfig
from fedsyn.objectives.pairs.base import Held, PairBatch, Sizes
from fedsyn.settings.plugins import composed
from fedsyn.tasks.retrieval import RetrievalProblem

pytestmark = pytest.mark.parametrize("hashing", [False, True])
OF_PAIRS = {one.name: one for one in OBJECTIVES if one.pairs is not None}
OPTIONS = composed(ObjectiveConfig, OBJECTIVES)()
every_objective = pytest.mark.parametrize("name", OF_PAIRS)
STEP = torch.tensor(9)  # beyond every client's first pass


def prepared(name, sizes, clients):
    """An objective, and its parameters once a client."""
    objective = OF_PAIRS[name].pairs(OPTIONS, sizes)
    start = objective.parameters(torch.Generator().manual_seed(0))
    return objective, {
        key: value.double().expand(clients, *value.shape).clone().requires_grad_()
        for key, value in start.items()
    }


def losses(name, made):
    """By the batch alone, and in the second pass of a local training."""
    clients = torch.arange(len(made.place))
    objective, params = prepared(name, made.sizes, len(clients))
    memory = objective.remember(made.held)
    if memory is None:
        return [objective(params, made.batch)]
    memory(params, made.batch, clients, made.place, 0 * STEP)
    return [objective(params, made.batch), memory(params, made.batch, clients, made.place, STEP)]


def one_client(made, c):
    """The same for one client, without the rows that pad it."""
    taken, exists = made.batch.valid[c], made.held.valid[c]
    batch = PairBatch(*(field[c : c + 1, taken] for field in made.batch))
    index, steps = made.held.index[c : c + 1, exists], made.held.steps[c : c + 1]
    held = Held(made.held.features, index, torch.ones_like(index, dtype=torch.bool), steps)
    return made._replace(batch=batch, held=held, place=made.place[c : c + 1, taken])


@every_objective
@settings(max_examples=15, deadline=None)
@given(
    held=st.lists(st.integers(2, 9), min_size=1, max_size=3),
    share=st.floats(0.3, 1),
    seed=st.integers(0, 99),
)
def test_stacked_clients_have_the_losses_they_have_alone(stack, name, hashing, held, share, seed):
    taken = [max(2, int(share * n)) for n in held]
    made = stack(hashing, held, taken, [1] * len(held), seed)
    together = losses(name, made)
    for c in range(len(held)):
        for loss, alone in zip(together, losses(name, one_client(made, c)), strict=True):
            torch.testing.assert_close(loss[c : c + 1], alone)


@every_objective
def test_rows_that_pad_a_batch_take_no_part(stack, name, hashing):
    made = stack(hashing, held=(8, 6), batch=(5, 3))
    padding = ~made.batch.valid[..., None]
    other = [field.masked_fill(padding, 7.0) for field in made.batch[:3]]
    assert padding.any()
    others = made._replace(batch=PairBatch(*other, made.batch.valid))
    for loss, same in zip(losses(name, made), losses(name, others), strict=True):
        torch.testing.assert_close(loss, same)
        for rows in made.batch[:2]:
            (gradient,) = torch.autograd.grad(loss.sum(), rows, retain_graph=True)
            assert not gradient.masked_select(padding).any()


@every_objective
def test_both_modalities_of_each_client_are_trained_and_no_other_client(stack, name, hashing):
    made = stack(hashing)
    for loss in losses(name, made):
        for rows in made.batch[:2]:
            (gradient,) = torch.autograd.grad(loss[0], rows, retain_graph=True)
            assert gradient.isfinite().all()
            assert gradient[0].any() and not gradient[1].any()


@every_objective
def test_a_client_without_pairs_has_no_loss(stack, name, hashing):
    made = stack(hashing, held=(6, 0), batch=(4, 0))
    for loss in losses(name, made):
        assert loss[1] == 0 and loss[0] != 0
        (gradient,) = torch.autograd.grad(loss.sum(), made.batch.image, retain_graph=True)
        assert gradient.isfinite().all() and not gradient[1].any()


@every_objective
def test_a_batch_without_a_mask_is_whole(stack, name, hashing):
    made = stack(hashing, batch=(4, 4))
    objective, params = prepared(name, made.sizes, 2)
    whole = objective(params, made.batch._replace(valid=None))
    torch.testing.assert_close(whole, objective(params, made.batch))


class Task(NamedTuple):
    """Pairs of which both halves show the same meaning, and the model to start from."""

    problem: RetrievalProblem
    start: torch.Tensor  # [P]

    def train(self, cohort, epochs):
        start = self.start.expand(len(cohort.ids), -1)
        return self.problem.train(start, cohort, Training(epochs=epochs, batch=8))


def problem(name, hashing):
    draw = torch.Generator().manual_seed(0)
    meaning = torch.randn(120, 5, generator=draw)
    mixed = [meaning @ torch.randn(5, d, generator=draw) for d in (12, 9)]
    features = torch.cat(mixed, -1) + 0.1 * torch.randn(120, 21, generator=draw)
    objective = OF_PAIRS[name].pairs(OPTIONS, Sizes(12, 9, 8, hashing))
    model = ModelConfig(hidden=(16,), dim=8, bits=8 * hashing)
    net = build(model, 12, 9, objective.parameters(draw))
    made = RetrievalProblem(features=features, net=net, objective=objective, criterion=objective)
    return Task(made, net.init(draw))


@every_objective
def test_local_training_lowers_the_objective_on_pairs_that_it_has_not_seen(name, hashing):
    made, rows = problem(name, hashing), np.arange(120)
    trained, _ = made.train(
        Cohort((0, 1), (rows[:50], rows[50:90]), seed=0, round_number=1), epochs=15
    )
    before, after = (
        made.problem.held_out(model, [rows[90:]] * 2, 16)[0]
        for model in (made.start.expand(2, -1), trained)
    )
    assert (after < before).all()


@every_objective
def test_clients_trained_together_are_those_trained_alone(name, hashing):
    """Rows in any order, and clients with unequal numbers of steps, one pair and none."""
    made, order = problem(name, hashing), np.random.default_rng(0).permutation(120)
    rows = tuple(np.split(order, (19, 20, 20, 55)))
    cohort = Cohort(tuple(range(5)), rows, seed=0, round_number=1)
    trained, loss = made.train(cohort, epochs=3)
    assert torch.equal(trained[[1, 2]], made.start.expand(2, -1)) and not loss[[1, 2]].any()
    for c in range(5):
        alone, its_loss = made.train(cohort.take([c]), epochs=3)
        torch.testing.assert_close(trained[c : c + 1], alone, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(loss[c : c + 1], its_loss, rtol=1e-4, atol=1e-5)

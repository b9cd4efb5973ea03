"""Local training where clients were sent extra pairs."""

import numpy as np
import torch

from fedsyn.core.cohort import Cohort, Extra
from fedsyn.core.training import Training
from fedsyn.models.retrieval import build
from fedsyn.models.settings import ModelConfig
from fedsyn.objectives.pairs.info_nce import InfoNCELoss
from fedsyn.tasks.retrieval import RetrievalProblem

NET = build(ModelConfig(hidden=(8,), dim=4), 3, 2, {})
OBJECTIVE = InfoNCELoss(0.5)
FEATURES = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
START = NET.init(torch.Generator().manual_seed(0))
TRAINING = Training(epochs=2, batch=8)
ROWS = (np.arange(20, 39), np.array([41, 3, 7]), np.array([50]), np.array([], dtype=int))


def cohort(extra=None, ids=(0, 1, 2, 3)):
    return Cohort(ids, tuple(ROWS[client] for client in ids), 0, 1, extra)


def trained(held, features=FEATURES, objective=OBJECTIVE, **options):
    start = START.expand(len(held.ids), -1)
    problem = RetrievalProblem(features=features, net=NET, objective=objective, criterion=objective)
    return problem.train(start, held, TRAINING, **options)


EXTRA = Extra(np.arange(8, 18), 4)


def test_extra_pairs_change_what_is_learnt_by_those_who_train():
    plain, extra = trained(cohort())[0], trained(cohort(EXTRA))[0]
    assert [torch.equal(a, b) for a, b in zip(plain, extra, strict=True)] == [False] * 2 + [
        True
    ] * 2


def test_the_operator_and_the_differentiated_objective_agree_on_extra_pairs():
    fast = trained(cohort(EXTRA))
    slow = trained(cohort(EXTRA), penalty=lambda clients, batch: batch.image.new_zeros(()))
    torch.testing.assert_close(fast, slow, atol=2e-5, rtol=1e-4)


def test_each_client_learns_the_same_alone():
    together, _ = trained(cohort(EXTRA))
    for client in range(4):
        alone, _ = trained(cohort(EXTRA, ids=(client,)))
        torch.testing.assert_close(alone[0], together[client], atol=1e-6, rtol=1e-5)


class Remembering:
    """An objective that notes what its memory is told."""

    def __init__(self):
        self.held = self.agrees = None

    def parameters(self, generator):
        return {}

    def __call__(self, params, batch):
        raise AssertionError("a memory takes its place")

    def remember(self, held):
        self.held, self.agrees = held, []

        def memory(params, batch, clients, place, step):
            found = held.pairs[clients[:, None], place]
            self.agrees.append(bool((found == batch.pairs)[batch.valid].all()))
            valid = held.valid[clients[:, None], place]
            self.agrees.append(bool(valid[batch.valid].all()))
            return OBJECTIVE(params, batch)

        return memory


def test_a_memory_holds_the_extra_pairs_and_finds_them():
    for extra, more in ((None, 0), (EXTRA, 10)):
        objective = Remembering()
        trained(cohort(extra), objective=objective)
        assert objective.held.valid.sum(-1).tolist() == [len(rows) + more for rows in ROWS]
        assert objective.held.steps.tolist() == [3, 1, 0, 0]
        assert objective.agrees and all(objective.agrees)

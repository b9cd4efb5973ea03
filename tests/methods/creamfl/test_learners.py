"""Who learns what with a network of its own."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedsyn.core.cohort import Cohort
from fedsyn.methods.creamfl.learners import OfOne, OfPairs, learners, most_parameters
from fedsyn.models.retrieval import build
from fedsyn.models.settings import ModelConfig
from fedsyn.objectives.pairs.info_nce import InfoNCELoss
from fedsyn.tasks.retrieval import RetrievalProblem

NET, WIDE = (build(ModelConfig(hidden=hidden, dim=2), 3, 2, {}) for hidden in ((4,), (9, 5)))
PRESENT = torch.tensor([[True, True], [True, False], [False, True]]).repeat_interleave(3, 0)
PROBLEM = RetrievalProblem(
    features=torch.randn(9, 5, generator=torch.Generator().manual_seed(0)),
    net=NET,
    objective=InfoNCELoss(1.0),
    criterion=InfoNCELoss(1.0),
    variants=(NET, WIDE),
    present=PRESENT,
    category=torch.arange(9) % 4,
    classes=4,
)
PAIRS, IMAGES, TEXTS, NOTHING = np.arange(3), np.arange(3, 6), np.arange(6, 9), np.arange(0)


def found(ids, *rows, problem=PROBLEM):
    groups = learners(problem, Cohort(ids, rows, 0, 1))
    kinds = {OfPairs: lambda one: "pairs", OfOne: lambda one: one.modality}
    return {
        (kinds[type(one)](one), one.problem.net is WIDE): positions for one, positions in groups
    }


def test_clients_are_together_that_hold_the_same_and_have_the_same_network():
    rows = PAIRS, IMAGES, TEXTS, IMAGES, PAIRS, NOTHING
    assert found((0, 1, 2, 3, 4, 6), *rows) == {
        ("pairs", False): [0, 4, 5],
        ("image", True): [1, 3],
        ("text", False): [2],
    }


def test_everybody_holds_pairs_where_nothing_is_missing():
    whole = replace(PROBLEM, present=None)
    assert found((0, 2), IMAGES, TEXTS, problem=whole) == {("pairs", False): [0, 1]}


def test_there_is_room_for_the_largest_network():
    sizes = [WIDE.layout.size, NET.layout.size]
    assert most_parameters(PROBLEM) == max(sizes)
    many = replace(PROBLEM, variants=(NET,), classes=500)
    assert most_parameters(many) == 3 * 4 + 4 + 4 * 2 + 2 + 500 * 2


@pytest.mark.parametrize("rows", [IMAGES, TEXTS], ids=["image", "text"])
def test_a_half_that_is_not_held_is_not_looked_at(plain, rows):
    cohort = Cohort((0,), (rows,), 0, 1)
    hidden = torch.where(PRESENT.repeat_interleave(torch.tensor([3, 2]), 1), PROBLEM.features, 1e9)
    steps = []
    for features in (PROBLEM.features, hidden):
        ((one, _),) = learners(replace(PROBLEM, features=features), cohort)
        params = one.init(torch.Generator().manual_seed(1))[None].requires_grad_()
        index, valid = torch.from_numpy(rows)[None], torch.ones(1, 3, dtype=torch.bool)
        loss = one.loss(cohort, plain)(params, torch.arange(1), index, valid, 0)
        (slope,) = torch.autograd.grad(loss.sum(), params)
        steps.append((loss.detach(), slope, *one.represent(params, features[index]).values()))
    for seen, unseen in zip(*steps, strict=True):
        torch.testing.assert_close(seen, unseen)
        assert seen.isfinite().all()

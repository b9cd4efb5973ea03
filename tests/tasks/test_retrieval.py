"""Local training where clients were sent extra pairs; how models are judged on held-out ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedsyn.core.cohort import Cohort, Extra
from fedsyn.core.training import Training
from fedsyn.federation.config import parse
from fedsyn.models.retrieval import build
from fedsyn.models.settings import ModelConfig
from fedsyn.objectives.pairs.base import PairBatch
from fedsyn.objectives.pairs.info_nce import InfoNCELoss
from fedsyn.tasks import retrieval
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
    problem = RetrievalProblem(features=features, net=NET, objective=objective)
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


# ---- Judging ------------------------------------------------------------------------------------

PROBLEM = RetrievalProblem(features=FEATURES, net=NET, objective=OBJECTIVE)
HELD = (np.array([0, 1, 2, 3]), np.array([], dtype=int), np.array([9]))
AMONG = (np.arange(20, 50), np.arange(3), np.array([], dtype=int))
MODELS = torch.stack([NET.init(torch.Generator().manual_seed(seed)) for seed in range(3)])


def by_hand(problem, model, own, more):
    """Ranks of the partners of held-out pairs, both ways, by counting; who ties is before them."""
    rows = np.concatenate([own, more])
    embedded = problem.net.embed(model[None], problem.features[rows][None])
    image, text = (u[0].numpy() for u in embedded)
    if problem.net.bits:
        image, text = np.where(image >= 0, 1, -1), np.where(text >= 0, 1, -1)
    found = []
    for query, gallery in ((image, text), (text, image)):
        for place in range(len(own)):
            alike = [float(query[place] @ other) for other in gallery]
            found.append(sum(one >= alike[place] - 1e-6 for one in alike))
    return np.array(found)


@pytest.mark.parametrize("bits", [0, 3])
def test_the_criterion_is_the_mean_log_rank_of_partners_among_the_clients_own_pairs(bits):
    """With pairs that are there twice, and codes so short that many are the same."""
    features = FEATURES.clone()
    features[[1, 25, 30]] = FEATURES[0]
    net = build(ModelConfig(hidden=(8,), dim=4, bits=bits), 3, 2, {})
    problem = replace(PROBLEM, features=features, net=net)
    models = torch.stack([net.init(torch.Generator().manual_seed(seed)) for seed in range(3)])
    found = problem.held_out(models, HELD, 8, AMONG)
    assert found.rows.tolist() == [4, 0, 1]
    assert found.criterion[1] == found.recall[1] == 0
    for client in (0, 2):
        ranks = by_hand(problem, models[client], HELD[client], AMONG[client])
        assert found.criterion[client].item() == pytest.approx(np.log(ranks).mean())
        assert found.recall[client].item() == pytest.approx((ranks <= 10).mean())
    assert found.criterion[0] > np.log(2)  # who ties comes first: the pair that is there four times
    assert found.criterion[2] == 0  # nothing to be confused with


def test_without_other_pairs_held_out_ones_are_ranked_among_themselves():
    found = PROBLEM.held_out(MODELS, HELD, 8)
    ranks = by_hand(PROBLEM, MODELS[0], HELD[0], HELD[1])
    assert found.criterion[0].item() == pytest.approx(np.log(ranks).mean())
    assert found.recall[0] == 1


def test_a_client_with_many_pairs_ranks_among_every_so_manieth(monkeypatch):
    monkeypatch.setattr(retrieval, "AMONG", 11)
    found = PROBLEM.held_out(MODELS[:1], HELD[:1], 8, AMONG[:1])
    ranks = by_hand(PROBLEM, MODELS[0], HELD[0], AMONG[0][::3])
    assert found.criterion[0].item() == pytest.approx(np.log(ranks).mean())


def test_each_client_is_judged_the_same_alone():
    together = PROBLEM.held_out(MODELS, HELD, 8, AMONG)
    for client in range(3):
        mine = slice(client, client + 1)
        alone = PROBLEM.held_out(MODELS[mine], HELD[mine], 8, AMONG[mine])
        assert [part.tolist() for part in alone] == [part[mine].tolist() for part in together]


def test_a_criterion_takes_the_place_of_the_rank_and_recall_stays():
    problem = replace(PROBLEM, criterion=InfoNCELoss(0.2))
    found, ranked = (one.held_out(MODELS, HELD, 8, AMONG) for one in (problem, PROBLEM))
    assert torch.equal(found.recall, ranked.recall)
    pairs = FEATURES[HELD[0]][None]
    loss = problem.criterion({}, PairBatch(*NET.embed(MODELS[:1], pairs), pairs))
    torch.testing.assert_close(found.criterion[:1].float(), loss)
    assert found.rows.tolist() == [4, 0, 0]  # one pair alone has nothing to contrast


@pytest.mark.parametrize(("named", "criterion"), [("", None), ("objective", 0.5), ("ucch", True)])
def test_clients_judge_by_rank_unless_the_run_names_something_else(built, pairs, named, criterion):
    sections = {"data": {"path": str(pairs)}, "run": {"criterion": named} if named else {}}
    _, problem = built(parse({"objective": {"temperature": 0.5}, **sections}))
    if criterion is True:
        assert type(problem.criterion) is not type(problem.objective)
    else:
        assert getattr(problem.criterion, "temperature", None) == criterion

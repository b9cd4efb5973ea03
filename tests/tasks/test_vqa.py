"""Questions about pictures: what is trained on, what of, and how it is judged."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedsyn.core.cohort import Cohort
from fedsyn.core.training import Training
from fedsyn.errors import ConfigError
from fedsyn.federation.config import parse
from fedsyn.models.answers import build
from fedsyn.models.settings import ModelConfig
from fedsyn.objectives.classes.losses import cross_entropy
from fedsyn.tasks.vqa import QUESTION_ONLY, VQAProblem

DRAW = torch.Generator().manual_seed(0)
NET = build(ModelConfig(hidden=(4,), dim=3), 3, 2, 4)
LABEL = torch.tensor([0, 1, 2, 3, 1, 0, 2, 2, 3])
PROBLEM = VQAProblem(
    features=torch.randn(9, 5, generator=DRAW, dtype=torch.float64), net=NET, label=LABEL
)
MODEL = NET.init(DRAW).double()
PLAIN = Training(optimizer="sgd", lr=0.5, epochs=1, batch=16)


def surprise(model, rows):
    """−log softmax of the right answers, row by row."""
    found = []
    for row in rows:
        logits = NET(model[None], PROBLEM.features[None, row : row + 1])[0, 0]
        found.append(logits.exp().sum().log() - logits[LABEL[row]])
    return torch.stack(found)


def cohort(*rows):
    return Cohort(tuple(range(len(rows))), tuple(np.array(own) for own in rows), 0, 1)


def test_a_step_lowers_the_cross_entropy_of_the_answers():
    held = ([0, 3, 4, 8], [5, 7])
    start = MODEL.expand(2, -1)
    trained, losses = PROBLEM.train(start, cohort(*held), PLAIN)
    for client, rows in enumerate(held):
        leaf = MODEL.clone().requires_grad_()
        loss = surprise(leaf, rows).mean()
        (slope,) = torch.autograd.grad(loss, leaf)
        torch.testing.assert_close(trained[client], MODEL - 0.5 * slope)
        torch.testing.assert_close(losses[client], loss.detach().float())


def test_a_penalty_sees_the_logits_of_the_batch():
    seen = []

    def penalty(clients, logits):
        seen.append((clients.tolist(), tuple(logits.shape)))
        return 2.0 * torch.ones(len(clients))

    _, plain = PROBLEM.train(MODEL[None], cohort([1, 2, 6]), PLAIN)
    _, more = PROBLEM.train(MODEL[None], cohort([1, 2, 6]), PLAIN, penalty=penalty)
    torch.testing.assert_close(more, plain + 2)
    assert seen == [([0], (1, 16, 4))]


def test_held_out_rows_are_judged_by_the_cross_entropy():
    rows = [np.array([2, 5]), np.array([], dtype=int), np.array([7])]
    with torch.no_grad():
        loss, count, recall = PROBLEM.held_out(MODEL.expand(3, -1), rows, 16)
        expected = torch.stack([surprise(MODEL, [2, 5]).mean(), *surprise(MODEL, [7])])
    assert count.tolist() == [2, 0, 1] and loss[1] == 0 and recall is None
    torch.testing.assert_close(loss[[0, 2]], expected)


def test_what_is_minimised_and_judged_by_is_the_objective():
    twice = replace(PROBLEM, objective=lambda *batch: 2 * cross_entropy(*batch))
    _, plain = PROBLEM.train(MODEL[None], cohort([1, 2, 6]), PLAIN)
    _, doubled = twice.train(MODEL[None], cohort([1, 2, 6]), PLAIN)
    torch.testing.assert_close(doubled, 2 * plain)
    held = [np.array([2, 5])]
    plain, doubled = (one.held_out(MODEL[None], held, 16)[0] for one in (PROBLEM, twice))
    torch.testing.assert_close(doubled, 2 * plain)


def test_accuracy_is_of_the_likeliest_answers_and_of_the_question_alone():
    guess = torch.tensor([3, 3, 2, 3, 1, 3, 3, 3, 3])
    problem = VQAProblem(features=PROBLEM.features, net=NET, label=LABEL, guess=guess)
    rows = torch.tensor([2, 4, 7, 8])
    (answers,) = problem.outputs(MODEL, rows)
    for row, answer in zip(rows, answers, strict=True):
        assert answer == NET(MODEL[None], PROBLEM.features[None, row : row + 1]).argmax()
    found = problem.score((torch.tensor([2, 0, 2, 0]),), rows)
    assert found == {"accuracy": 0.5, QUESTION_ONLY: 0.75}
    assert PROBLEM.score((torch.tensor([2, 0, 2, 3]),), rows) == {"accuracy": 0.75}
    (one, none) = problem.score_clients(
        (torch.tensor([2, 0, 2, 0]),), rows, [np.array([0, 1]), np.array([3])]
    )
    assert one == {"accuracy": 0.5, QUESTION_ONLY: 1.0} and none["accuracy"] == 0


def test_a_row_is_taken_with_the_guess_about_it():
    guess = torch.arange(9)
    problem = VQAProblem(features=PROBLEM.features, net=NET, label=LABEL, guess=guess)
    assert problem.take(torch.tensor([4, 1])).guess.tolist() == [4, 1]


@pytest.fixture(scope="module")
def loaded(built):
    """``loaded(objective={...})``: the glyphs, asked about."""

    def load(**sections):
        sections["data"] = {"cache": "", "questions": 30, **sections.get("data", {})}
        return built(parse({"task": {"name": "vqa"}, **sections}))

    return load


def test_the_question_alone_wins_no_more_than_a_guess_among_its_answers(loaded):
    data, problem = loaded(data={"public": 0.3})
    test = torch.from_numpy(data.test)
    by_question = {}
    for row, text in zip(test, data.pairs.text[data.test], strict=True):
        by_question.setdefault(text, set()).add(int(problem.label[row]))
    chance = np.mean([1 / len(by_question[text]) for text in data.pairs.text[data.test]])
    found = problem.score((problem.guess[test],), test)
    assert found[QUESTION_ONLY] == found["accuracy"] == pytest.approx(chance, abs=0.05)
    assert (problem.guess[torch.from_numpy(data.public)] == -1).all()


def test_without_public_rows_there_is_no_guess(loaded):
    _, problem = loaded(data={"public": 0.0})
    assert problem.guess is None


def test_variants_differ_in_their_hidden_layers_alone(loaded):
    _, problem = loaded(model={"hidden": [9], "dim": 5, "variants": [[7], [6, 4]]})
    assert [net.image.widths[1:] for net in problem.variants] == [(7, 5), (6, 4, 5)]
    assert [net.text.widths[1:] for net in problem.variants] == [(7, 5), (6, 4, 5)]
    _, plain = loaded(model={"hidden": [9], "dim": 5})
    assert plain.variants == (plain.net,)


def test_other_objectives_are_refused(loaded):
    with pytest.raises(ConfigError, match=r"objective.name = 'info_nce' is not of .*'vqa'"):
        loaded(objective={"name": "info_nce"})

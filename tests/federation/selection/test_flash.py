"""FLASH chooses clients by what earlier rounds gained."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsyn import streams
from fedsyn.errors import ConfigError
from fedsyn.federation import config, records
from fedsyn.federation.runner import Silent, run
from fedsyn.federation.selection import flash
from fedsyn.federation.selection.base import Heard


def stream(seed):
    return torch.Generator().manual_seed(seed)


def options(prior=1.0, exploration=1.0):
    """The section ``[run]`` with these options."""
    words = [f"run.flash.prior={prior}", f"run.flash.exploration={exploration}"]
    return config.load(None, words).run


def told(memory, round, ids, losses, rows, criterion, heard=None):
    """What is known after a round in which these clients were asked."""
    heard = ids if heard is None else heard
    losses, rows = torch.tensor(losses), torch.tensor(rows)
    return flash.learn(memory, Heard(round, ids, heard, losses, rows, criterion))


def standardised(values):
    """By hand; what is missing becomes the mean, 0."""
    known = [value for value in values if value is not None]
    mean = sum(known) / len(known) if known else 0.0
    deviation = math.sqrt(sum((value - mean) ** 2 for value in known) / max(len(known), 1)) or 1.0
    return [0.0 if value is None else (value - mean) / deviation for value in values]


def test_two_rounds_and_a_choice_by_hand():
    prior, exploration = 0.5, 0.7
    run = options(prior, exploration)
    memory = flash.begin(4, run)
    memory = told(memory, 1, (0, 1), [2.0, 3.0], [10, 20], 5.0)  # nothing to compare 5 with
    memory = told(memory, 2, (1, 2), [1.0, 4.0], [20, 40], 4.4)
    memory = told(memory, 3, (0, 2), [1.5, 3.0], [10, 40], 4.2)
    # What was known of the clients when they were asked in rounds 2 and 3.
    log = [math.log(1 + rows) for rows in (10, 20, 40)]
    columns = {
        2: [[2, 3, None, None], [None] * 4, [log[0], log[1], None, None], [1, 1, 2, 2]],
        3: [[2, 1, 4, None], [None, 2, None, None], [*log, None], [2, 1, 1, 3]],
        4: [[1.5, 1, 3, None], [0.5, 2, 1, None], [*log, None], [1, 2, 1, 4]],
    }
    x = {
        at: [[1, *row] for row in zip(*map(standardised, known), strict=True)]
        for at, known in columns.items()
    }
    gains = {2: 5.0 - 4.4, 3: 4.4 - 4.2}
    d = flash.FEATURES
    precision = [[prior * (i == j) for j in range(d)] for i in range(d)]
    response = [0.0] * d
    for at, ids in ((2, (1, 2)), (3, (0, 2))):
        for client in ids:
            row = x[at][client]
            for i in range(d):
                response[i] += gains[at] * row[i]
                for j in range(d):
                    precision[i][j] += row[i] * row[j]
    A, b = (torch.tensor(value, dtype=torch.float64) for value in (precision, response))
    torch.testing.assert_close(memory["precision"], A)
    torch.testing.assert_close(memory["response"], b)
    torch.testing.assert_close(flash.contexts(memory, 4), torch.tensor(x[4], dtype=torch.float64))
    # Client 3 was never asked and goes first; the others are the best by a draw of N(A⁻¹b, s²A⁻¹).
    s = exploration * math.sqrt(sum(gain**2 for gain in gains.values()) / 2)
    L = torch.linalg.cholesky(A)
    for seed in range(50):
        generator = streams.generator(seed, "selection", 4)
        torch.randperm(4, generator=generator)
        noise = torch.randn(d, 1, generator=generator, dtype=torch.float64)[:, 0]
        theta = (A.inverse() @ b + s * (L.inverse().T @ noise)).tolist()
        value = [sum(v * t for v, t in zip(x[4][k], theta, strict=True)) for k in range(3)]
        first, second, _ = sorted(range(3), key=lambda k: -value[k])
        chosen = flash.choose(memory, 4, 3, 4, run.changed(seed=seed))
        assert chosen == tuple(sorted((first, second, 3)))


def test_of_two_clients_each_is_chosen_as_often_as_the_posterior_says():
    draw, run = stream(3), options(prior=2.0)
    memory = flash.begin(2, run)
    for round in range(1, 8):
        ids = (0, 1) if round == 1 else (round % 2,)
        losses = torch.rand(len(ids), generator=draw).tolist()
        memory = told(memory, round, ids, losses, [5, 9][: len(ids)], -(round % 2) - round / 9)
    x = flash.contexts(memory, 8)
    inverse = memory["precision"].inverse()
    mean = x @ inverse @ memory["response"]
    gains, squares = memory["gains"].tolist()
    apart = x[0] - x[1]
    deviation = math.sqrt(squares / gains * float(apart @ inverse @ apart))
    expected = 0.5 * math.erfc(-float(mean[0] - mean[1]) / deviation / math.sqrt(2))
    chosen = [flash.choose(memory, 2, 1, 8, run.changed(seed=seed)) for seed in range(2000)]
    assert 0.6 < expected < 0.9
    assert chosen.count((0,)) / 2000 == pytest.approx(expected, abs=0.04)


def played(clients, number, rounds, seed, gain):
    """How often each client was chosen, where ``gain(ids)`` is what a round brings."""
    draw, run = stream(seed), options().changed(seed=seed)
    loss, rows = (
        torch.rand(clients, generator=draw),
        torch.randint(1, 99, (clients,), generator=draw),
    )
    memory, criterion = flash.begin(clients, run), 0.0
    times = torch.zeros(clients)
    for round in range(1, rounds + 1):
        ids = flash.choose(memory, clients, number, round, run)
        assert len(ids) == number == len(set(ids)) and list(ids) == sorted(ids)
        criterion -= gain(ids)
        at = list(ids)
        memory = flash.learn(memory, Heard(round, ids, ids, loss[at], rows[at], criterion))
        times[at] += 1
    return times


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 15), st.data())
def test_with_equal_gains_everybody_is_chosen_again_and_again(clients, data):
    number = data.draw(st.integers(1, clients - 1))
    seed = data.draw(st.integers(0, 99))
    turns = 40
    times = played(clients, number, math.ceil(turns * clients / number), seed, lambda ids: 0.1)
    assert times.min() >= 4  # of 40 in turn


@pytest.mark.parametrize("seed", range(4))
def test_whoever_brings_more_is_chosen_more_and_the_unit_does_not_matter(seed):
    draw = stream(seed)
    torch.rand(12, generator=draw)
    rows = torch.randint(1, 99, (12,), generator=draw)
    large = rows.argsort(descending=True)[:4]

    def gain(ids):
        return len(set(ids) & set(large.tolist())) / 4

    some = played(12, 3, 120, seed, gain)
    same = played(12, 3, 120, seed, lambda ids: 1024 * gain(ids))
    assert torch.equal(some, same)
    assert some[large].sum() > some.sum() / 2  # a third of the clients


def test_without_exploration_the_best_by_what_is_known_are_chosen():
    draw, run = stream(0), options(exploration=0.0)
    memory = flash.begin(6, run)
    for round in range(1, 9):
        ids = tuple(sorted(torch.randperm(6, generator=draw)[:3].tolist()))
        losses = torch.rand(3, generator=draw).tolist()
        memory = told(memory, round, ids, losses, [client + 1 for client in ids], 10.0 - round**2)
    assert memory["asked"].min() > 0
    weights = memory["precision"].inverse() @ memory["response"]
    value = flash.contexts(memory, 5) @ weights
    best = tuple(sorted(value.topk(2).indices.tolist()))
    assert {flash.choose(memory, 6, 2, 5, run.changed(seed=k)) for k in range(9)} == {best}


def test_a_client_that_does_not_answer_is_asked_but_not_judged():
    memory = told(flash.begin(3, options()), 1, (0, 1), [1.0, 2.0], [5, 6], 3.0)
    after = told(memory, 2, (1, 2), [4.0], [6], 2.0, heard=(1,))
    x = flash.contexts(memory, 2)[1]
    torch.testing.assert_close(after["precision"], memory["precision"] + torch.outer(x, x))
    assert after["asked"].tolist() == [1, 2, 2]
    assert after["rows"].isnan().tolist() == [False, False, True]


@pytest.mark.parametrize("nothing", [math.nan, math.inf])
def test_a_round_without_a_criterion_teaches_nothing_of_gains(nothing):
    memory = told(flash.begin(3, options()), 1, (0, 1), [1.0, 2.0], [5, 6], 3.0)
    after = told(memory, 2, (0, 2), [1.0, math.nan], [5, 6], nothing)
    for name in ("precision", "response", "gains", "criterion"):
        assert torch.equal(after[name], memory[name])
    assert after["loss"].tolist()[:2] == [1.0, 2.0]
    assert flash.contexts(after, 3).isfinite().all()


# ---- Whole runs ------------------------------------------------------------------------------

FLASH = ["run.fraction=0.3", "run.selection=flash", "synthesis.enabled=false", "run.rounds=6"]


def rows(out):
    """The rounds after the start, without their times."""
    lines = (out / records.METRICS).read_text().splitlines()[1:]
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


class Interrupt(Silent):
    def phase(self, round_number, name):
        if (round_number, name) == (5, "local"):
            raise KeyboardInterrupt


def test_a_run_asks_everybody_once_then_chooses_and_resumes_to_the_same(make, tmp_path):
    run(make(*FLASH), tmp_path / "whole")
    found = rows(tmp_path / "whole")
    assert [len(row["clients"]) for row in found] == [3] * 6
    assert len({client for row in found[:3] for client in row["clients"]}) == 9
    with pytest.raises(KeyboardInterrupt):
        run(make(*FLASH), tmp_path / "parts", observer=Interrupt())
    run(make(*FLASH), tmp_path / "parts", resume=True)
    assert rows(tmp_path / "parts") == found
    run(make(*FLASH, "run.seed=1"), tmp_path / "other")
    assert rows(tmp_path / "other") != found


def test_what_is_learnt_decides(make, tmp_path):
    chosen = []
    for exploration in (0.0, 1.0, 100.0):
        out = tmp_path / str(exploration)
        run(make(*FLASH, f"run.flash.exploration={exploration}"), out)
        chosen.append([row["clients"] for row in rows(out)])
    assert chosen[0][:3] == chosen[1][:3] == chosen[2][:3]  # who was never asked, first
    assert chosen[0] != chosen[2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run.selection=flash"], "needs run.fraction below 1, got 1"),
        (["run.selection=flash", "run.fraction=0.5", "data.holdout=0"], "data.holdout = 0"),
    ],
)
def test_without_a_choice_or_without_gains_it_is_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        config.load(None, words)


def test_clients_that_receive_no_model_cannot_be_chosen_by_its_gains(make, tmp_path):
    with pytest.raises(ConfigError, match=r"'flash' rests on .* 'creamfl' receive no model"):
        run(make("method=creamfl", "run.selection=flash", "run.fraction=0.5"), tmp_path)

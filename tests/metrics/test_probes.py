"""Probes read off a representation as much as is in it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from fedsyn import streams
from fedsyn.metrics import probes


def clusters(rows, spread, dimensions=6, classes=4, seed=0):
    """Rows around one centre a class."""
    draw = torch.Generator().manual_seed(seed)
    centres = 3 * torch.eye(classes, dimensions)
    label = torch.arange(rows) % classes
    return centres[label] + spread * torch.randn(rows, dimensions, generator=draw), label


def evaluate(training, label, test, truth):
    return probes.judge(probes.predict(training, label, test), truth)


def test_what_is_apart_is_told_apart_and_noise_is_not():
    training, label = clusters(400, 0.3)
    test, truth = clusters(80, 0.3, seed=1)
    found = evaluate(training, label, test, truth)
    assert set(found) == set(probes.METRICS)
    assert found.pop("semi_1") > 0.8 and min(found.values()) > 0.98
    noise = torch.randn(480, 6, generator=torch.Generator().manual_seed(2))
    found = evaluate(noise[:400], label, noise[400:], truth)
    assert max(found.values()) < 0.45


def test_the_linear_probe_minimises_its_penalised_loss():
    training, label = (value[:60] for value in clusters(60, 2.0, dimensions=4))
    weight = torch.zeros(4, 4, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    descent = torch.optim.LBFGS([weight, bias], max_iter=500, tolerance_change=1e-12)

    def loss():
        descent.zero_grad()
        logits = training.double() @ weight + bias
        value = cross_entropy(logits, label, reduction="sum") + weight.square().sum() / 2
        value.backward()
        return value

    descent.step(loss)
    test, _ = clusters(200, 2.0, dimensions=4, seed=1)
    expected = (test.double() @ weight + bias).argmax(-1)
    assert torch.equal(probes.linear(training, label, test), expected)


def test_the_linear_probe_does_not_see_units():
    training, label = clusters(120, 1.5)
    test, truth = clusters(60, 1.5, seed=1)
    units, shift = torch.tensor([1.0, 1e3, 1e-3, 10.0, 0.1, 1.0]), torch.arange(6.0)
    one = evaluate(training, label, test, truth)
    other = evaluate(training * units + shift, label, test * units + shift, truth)
    assert one["linear_probe"] == pytest.approx(other["linear_probe"], abs=0.02)


# Where the nearest alone, and where a count of neighbours, would say otherwise.
@pytest.mark.parametrize(("at", "nearest"), [(0.58, 0), (1.6, 1)])
def test_neighbours_vote_by_hand(at, nearest):
    turn = torch.tensor([0.0, 0.1, 0.2, 1.0, 1.1, *([3.0] * 16)])
    training = torch.stack([turn.cos(), turn.sin()], -1)
    label = torch.tensor([2, 2, 0, 1, 1, *([3] * 16)])
    test = 5 * torch.tensor([[math.cos(at), math.sin(at)]])
    votes = dict.fromkeys(range(4), 0.0)
    ranked = sorted(range(21), key=lambda row: -math.cos(turn[row] - at))
    for row in ranked[:20]:
        votes[int(label[row])] += math.exp(math.cos(turn[row] - at) / 0.07)
    assert label[ranked[0]] == nearest and max(votes, key=votes.get) == 1
    assert probes.nearest(training, label, test).tolist() == [1]


def test_unlabelled_rows_are_not_judged():
    training, label = clusters(200, 0.3)
    test, truth = clusters(40, 0.3, seed=1)
    wrong = truth.where(truth < 3, 0)
    assert evaluate(training, label, test, wrong)["knn"] == 0.75
    assert evaluate(training, label, test, wrong.masked_fill(truth == 3, -1))["knn"] == 1


def test_where_nothing_can_be_said_it_is_nan():
    x, label = clusters(20, 0.3)
    diverged = x.clone().index_fill_(0, torch.tensor([3]), math.inf)
    nothing = evaluate(diverged, label, x, label), evaluate(x, label, diverged, label)
    nothing += evaluate(x[:0], label[:0], x, label), evaluate(x, label, x, label - 9)
    nothing += (evaluate(x, label, x[:0], label[:0]),)
    for found in nothing:
        assert set(found) == set(probes.METRICS) and all(map(math.isnan, found.values()))


def test_one_class_and_constant_features_are_no_obstacle():
    x = torch.ones(10, 3)
    found = evaluate(x, torch.full((10,), 2), x, torch.tensor([2] * 6 + [0] * 4))
    assert set(found.values()) == {0.6}


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.floats(0.01, 1), st.integers(0, 99))
def test_few_labels_are_a_share_of_every_class(values, share, seed):
    label = torch.tensor(values)
    rows = probes.few_labels(label, share, streams.generator(seed, "rows"))
    assert len(rows.unique()) == len(rows)
    for one in set(values):
        count = int((label[rows] == one).sum())
        assert count == max(1, round(share * values.count(one)))


def test_few_labels_depend_on_the_stream_alone():
    label = torch.arange(100) % 5
    one, same, other = (probes.few_labels(label, 0.1, streams.generator(s, "x")) for s in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)

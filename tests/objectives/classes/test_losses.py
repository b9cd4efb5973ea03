"""Losses of logits, against the sums they stand for."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsyn.objectives.classes.losses import cross_entropy, distillation

DRAW = torch.Generator().manual_seed(0)
LOGITS = torch.randn(2, 5, 3, generator=DRAW, dtype=torch.float64)
TEACHER = torch.randn(2, 5, 3, generator=DRAW, dtype=torch.float64)
LABEL = torch.tensor([[0, 2, 1, 1, 0], [2, 2, 0, 1, 2]])
VALID = torch.tensor([[True, True, True, False, True], [False, True, False, True, False]])


def softmax(z):
    total = sum(math.exp(value) for value in z)
    return [math.exp(value) / total for value in z]


def mean_over_valid(loss):
    """Of ``loss(client, row)``."""
    means = []
    for client in range(2):
        rows = [row for row in range(5) if VALID[client, row]]
        means.append(sum(loss(client, row) for row in rows) / len(rows))
    return torch.tensor(means, dtype=torch.float64)


def test_cross_entropy_is_the_mean_surprise_at_the_labels():
    def loss(client, row):
        return -math.log(softmax(LOGITS[client, row].tolist())[LABEL[client, row]])

    torch.testing.assert_close(cross_entropy(LOGITS, LABEL, VALID), mean_over_valid(loss))


def test_weights_are_of_rows():
    weight = torch.rand(2, 5, generator=DRAW, dtype=torch.float64)

    def loss(client, row):
        surprise = -math.log(softmax(LOGITS[client, row].tolist())[LABEL[client, row]])
        return weight[client, row].item() * surprise

    torch.testing.assert_close(cross_entropy(LOGITS, LABEL, VALID, weight), mean_over_valid(loss))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_distillation_is_the_divergence_of_the_softened_teacher(temperature):
    def loss(client, row):
        p, q = (softmax((z[client, row] / temperature).tolist()) for z in (TEACHER, LOGITS))
        return temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))

    found = distillation(LOGITS, TEACHER, VALID, temperature)
    torch.testing.assert_close(found, mean_over_valid(loss))
    assert torch.equal(distillation(TEACHER, TEACHER, VALID, temperature), torch.zeros_like(found))


@given(st.integers(-1, 2))
def test_rows_that_take_no_part_may_hold_any_label_and_leave_no_gradient(label):
    leaf = LOGITS.clone().requires_grad_()
    other = LABEL.masked_fill(~VALID, label)
    losses = cross_entropy(leaf, other, VALID) + distillation(leaf, TEACHER, VALID, 2.0)
    losses.sum().backward()
    assert torch.equal(cross_entropy(LOGITS, other, VALID), cross_entropy(LOGITS, LABEL, VALID))
    assert (leaf.grad[~VALID] == 0).all() and (leaf.grad[VALID] != 0).all()


def test_a_client_without_rows_loses_nothing():
    nobody = torch.zeros_like(VALID)
    assert cross_entropy(LOGITS, LABEL, nobody).tolist() == [0, 0]
    assert distillation(LOGITS, TEACHER, nobody, 2.0).tolist() == [0, 0]

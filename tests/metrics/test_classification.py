"""Accuracy over rows, over classes, and over classes by their training rows."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from fedsyn.metrics.classification import discrepancy, evaluate


def test_three_groups_of_classes_by_hand():
    training = torch.tensor([500, 101, 100, 20, 19, 0])
    label = torch.tensor([0, 0, 0, 0, 1, 2, 3, 3, 4, 5])
    predicted = torch.tensor([0, 0, 0, 1, 1, 0, 3, 0, 0, 5])
    assert evaluate(predicted, label, training) == pytest.approx({
        "accuracy": 6 / 10,
        "balanced_accuracy": (3 / 4 + 1 + 0 + 1 / 2 + 0 + 1) / 6,
        "many_shot": (3 / 4 + 1) / 2,
        "medium_shot": (0 + 1 / 2) / 2,
        "few_shot": (0 + 1) / 2,
    })  # fmt: skip


def test_unlabelled_rows_are_not_judged():
    label, predicted = torch.tensor([0, -1, 1, -1]), torch.tensor([0, 0, 0, 1])
    assert evaluate(predicted, label) == {"accuracy": 0.5, "balanced_accuracy": 0.5}


def test_a_mean_of_nothing_is_nan():
    unlabelled = torch.tensor([-1, -1])
    assert all(map(math.isnan, evaluate(unlabelled, unlabelled, torch.tensor([3])).values()))
    few = evaluate(torch.tensor([0]), torch.tensor([0]), torch.tensor([200, 5]))
    assert few["many_shot"] == 1 and math.isnan(few["few_shot"])


@settings(deadline=None)
@given(
    st.integers(1, 30).flatmap(lambda n: hnp.arrays(np.int64, (2, n), elements=st.integers(0, 4)))
)
@pytest.mark.filterwarnings("ignore:(y_pred contains|A single label):UserWarning")
def test_both_accuracies_are_sklearns(values):
    label, predicted = values
    metrics = evaluate(torch.from_numpy(predicted), torch.from_numpy(label))
    assert metrics["accuracy"] == pytest.approx(accuracy_score(label, predicted))
    assert metrics["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(label, predicted))


@pytest.mark.parametrize(
    ("predicted", "label", "training", "message"),
    [
        ([0, 1], [0], None, r"predictions are \(2,\) and labels \(1,\)"),
        ([[0]], [[0]], None, r"predictions are \(1, 1\) and labels \(1, 1\)"),
        ([0], [2], [5, 5], "label 2 has no training count; expected labels below 2"),
    ],
)
def test_what_does_not_fit_is_refused(predicted, label, training, message):
    counts = None if training is None else torch.tensor(training)
    with pytest.raises(ValueError, match=message):
        evaluate(torch.tensor(predicted), torch.tensor(label), counts)


def test_the_discrepancy_is_of_the_true_classes_probabilities():
    image = torch.tensor([[[0.0, 0.0], [9.0, 9.0], [5.0, -5.0]]])  # 1/2, 1/2
    text = torch.tensor([[3.0, 0.0], [0.0, 1.0]]).log1p()  # 4/5, 1/3
    text = torch.cat([text, text[:1]])[None]
    label, mask = torch.tensor([[0, 0, 1]]), torch.tensor([[True, True, False]])
    expected = torch.tensor([(1 / 2 + 1 / 2) / (4 / 5 + 1 / 3)])
    torch.testing.assert_close(discrepancy(image, text, label, mask), expected)
    torch.testing.assert_close(discrepancy(text, image, label, mask), 1 / expected)


def test_the_discrepancy_is_finite_where_nothing_counts_or_nothing_is_right():
    logits, label = torch.tensor([[[200.0, 0.0]], [[0.0, 0.0]]]), torch.tensor([[1], [1]])
    nothing = torch.zeros(2, 1, dtype=torch.bool)
    assert discrepancy(logits, logits.flip(0), label, nothing).tolist() == [1, 1]
    both = discrepancy(logits, logits.flip(0), label, ~nothing)
    assert both.isfinite().all() and both[0] < 1 < both[1]

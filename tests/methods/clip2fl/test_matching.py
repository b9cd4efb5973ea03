"""A linear classifier's gradients in closed form, features that have them, what those teach."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, normalize

from fedsyn.core.batches import epochs
from fedsyn.methods.clip2fl.matching import (
    CLIP2FLOptions,
    CReFFOptions,
    class_gradients,
    distance,
    match,
    retrain,
)
from fedsyn.models.mlp import MLP

CLASSES, ROWS, DIM = 3, 6, 4


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_autograd(rows, label, classifier):
    """The gradient of the mean cross-entropy of ``rows [n, D]``."""
    leaf = classifier.clone().requires_grad_()
    logits = rows @ leaf[:-1] + leaf[-1]
    (slope,) = torch.autograd.grad(cross_entropy(logits, label.expand(len(rows))), leaf)
    return slope


@settings(max_examples=30, deadline=None)
@given(
    counts=st.lists(st.integers(0, ROWS), min_size=CLASSES, max_size=CLASSES),
    clients=st.integers(1, 2),
)
def test_gradients_are_those_of_each_class_in_each_client_by_autograd(counts, clients):
    features, classifiers = normal(clients, CLASSES, ROWS, DIM), normal(clients, DIM + 1, CLASSES)
    valid = torch.arange(ROWS) < torch.tensor(counts)[:, None]
    found = class_gradients(features, classifiers, valid.expand(clients, -1, -1))
    assert found.shape == (clients, CLASSES, DIM + 1, CLASSES)
    for client in range(clients):
        for label, count in enumerate(counts):
            expected = torch.zeros(DIM + 1, CLASSES, dtype=torch.float64)
            if count:
                rows = features[client, label, :count]
                expected = by_autograd(rows, torch.tensor(label), classifiers[client])
            torch.testing.assert_close(found[client, label], expected)


def test_without_a_mask_all_rows_count():
    features, classifier = normal(CLASSES, ROWS, DIM), normal(DIM + 1, CLASSES)
    everything = torch.ones(CLASSES, ROWS, dtype=torch.bool)
    assert torch.equal(
        class_gradients(features, classifier), class_gradients(features, classifier, everything)
    )


def test_the_distance_is_of_the_angles_of_each_logit_and_of_the_biases():
    one, other = normal(2, DIM + 1, CLASSES, seed=1), normal(2, DIM + 1, CLASSES, seed=2)

    def apart(a, b):
        return 1 - (a @ b) / (a.norm() * b.norm())

    for place in range(2):
        columns = [(one[place, :-1, k], other[place, :-1, k]) for k in range(CLASSES)]
        expected = sum(apart(a, b) for a, b in (*columns, (one[place, -1], other[place, -1])))
        torch.testing.assert_close(distance(one, other)[place], expected)
    assert distance(one, 5 * one).abs().max() < 1e-12


def loss_by_hand(features, gradients, known, classifier, prototypes, own):
    total = 0
    for label in range(CLASSES):
        if known[label]:
            rows = features[label]
            soft = (rows @ classifier[:-1] + classifier[-1]).softmax(-1)
            soft = soft - torch.eye(CLASSES, dtype=torch.float64)[label]
            slope = torch.cat([rows.T @ soft, soft.sum(0, keepdim=True)]) / len(rows)
            total = total + distance(slope, gradients[label])
    logits = features.flatten(0, 1) @ prototypes.T / own.contrast_temperature
    target = torch.arange(CLASSES).repeat_interleave(features.shape[1])
    return total + own.contrast * cross_entropy(logits, target)


def test_matching_is_descent_on_the_distances_and_the_contrast_with_prototypes():
    features, classifier = normal(CLASSES, ROWS, DIM), normal(DIM + 1, CLASSES, seed=1)
    gradients, known = normal(CLASSES, DIM + 1, CLASSES, seed=2), torch.tensor([True, False, True])
    gradients[~known] = 0
    prototypes = normalize(normal(CLASSES, DIM, seed=3), dim=-1)
    own = CLIP2FLOptions(contrast=0.7, contrast_temperature=0.5)
    expected = features
    for _ in range(3):
        leaf = expected.detach().requires_grad_()
        loss = loss_by_hand(leaf, gradients, known, classifier, prototypes, own)
        expected = expected - 0.2 * torch.autograd.grad(loss, leaf)[0]
    config = CReFFOptions(steps=3, lr=0.2)
    found = match(features, gradients, classifier, config, prototypes, own)
    torch.testing.assert_close(found, expected)


def test_a_class_that_nobody_has_stays_as_it_is_without_a_teacher():
    features, gradients = normal(CLASSES, ROWS, DIM), normal(CLASSES, DIM + 1, CLASSES, seed=2)
    known = torch.tensor([True, False, True])
    gradients[~known] = 0
    found = match(features, gradients, normal(DIM + 1, CLASSES), CReFFOptions(steps=2))
    assert torch.equal(found[1], features[1])
    assert (found[known] != features[known]).all()


def test_features_come_to_have_the_gradients_of_rows_that_were_never_sent():
    rows, classifier = normal(CLASSES, 40, DIM, seed=5), 0.3 * normal(DIM + 1, CLASSES, seed=6)
    gradients = class_gradients(rows, classifier)
    start = normal(CLASSES, ROWS, DIM)
    found = match(start, gradients, classifier, CReFFOptions(steps=300, lr=0.5))
    before, after = (
        distance(class_gradients(each, classifier), gradients).sum() for each in (start, found)
    )
    assert after < 0.05 * before


def test_a_classifier_trained_on_features_of_every_class_tells_them_apart():
    centres = 4 * normal(CLASSES, 1, DIM, seed=7)
    features = (centres + normal(CLASSES, 50, DIM, seed=8)).float()
    config = CReFFOptions(classifier_epochs=60, classifier_batch=16)
    found = retrain(features, torch.Generator().manual_seed(0), config)
    assert found.shape == (DIM + 1, CLASSES)
    logits = features.flatten(0, 1) @ found[:-1] + found[-1]
    label = torch.arange(CLASSES).repeat_interleave(50)
    assert (logits.argmax(-1) == label).float().mean() > 0.95
    again = retrain(features, torch.Generator().manual_seed(0), config)
    assert torch.equal(found, again)


def test_one_full_batch_of_retraining_is_a_step_down_the_cross_entropy():
    features = normal(CLASSES, ROWS, DIM)
    config = CReFFOptions(classifier_epochs=1, classifier_batch=CLASSES * ROWS, classifier_lr=0.5)
    still = config.changed(classifier_lr=1e-300)
    start, found = (retrain(features, torch.Generator().manual_seed(0), c) for c in (still, config))
    slope = sum(by_autograd(features[k], torch.tensor(k), start) for k in range(CLASSES)) / CLASSES
    torch.testing.assert_close(found, start - 0.5 * slope)


def test_retraining_goes_down_the_cross_entropy_of_batch_after_batch():
    features = normal(CLASSES, ROWS, DIM)
    rows, label = features.flatten(0, 1), torch.arange(CLASSES).repeat_interleave(ROWS)
    batch = 4  # which does not divide the rows
    config = CReFFOptions(classifier_epochs=2, classifier_batch=batch, classifier_lr=0.5)
    generator = torch.Generator().manual_seed(0)
    found = retrain(features, generator, config)
    generator = torch.Generator().manual_seed(0)
    net = MLP("classifier", (DIM, CLASSES))
    expected = net.layout.flatten(net.init(generator)).double().view(DIM + 1, CLASSES)
    plan = epochs([np.arange(len(rows))], batch, 2, [generator])
    for index, valid in zip(plan.index[:, 0], plan.valid[:, 0], strict=True):
        at = index[valid]
        expected = expected - 0.5 * by_autograd(rows[at], label[at], expected)
    assert set(plan.valid.sum((1, 2)).tolist()) == {3, 4}
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("seed", [0, 1])
def test_matching_leaves_its_start_unchanged(seed):
    features = normal(CLASSES, ROWS, DIM, seed=seed)
    before = features.clone()
    gradients = normal(CLASSES, DIM + 1, CLASSES, seed=2)
    match(features, gradients, normal(DIM + 1, CLASSES), CReFFOptions(steps=2))
    assert torch.equal(features, before)

"""Single halves become pairs with the other half of a synthetic pair like theirs."""

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsyn.core.cohort import Cohort
from fedsyn.synthesis import completion

DRAW = torch.Generator().manual_seed(0)
FEATURES = torch.randn(40, 5, generator=DRAW)
SHARED = torch.randn(30, 5, generator=DRAW)
IMAGE = 3  # of the five
IMAGES = (np.arange(6), np.empty(0, int), np.array([20]))
TEXTS = (np.arange(6, 9), np.arange(12, 18), np.empty(0, int))


def complete(images=IMAGES, texts=TEXTS, features=FEATURES, shared=SHARED, ids=(0, 1, 2)):
    cohort = Cohort(ids, tuple(np.empty(0, int) for _ in ids), 7, 3)
    return completion.complete(features, IMAGE, cohort, images, texts, shared)


def loop_oracle(half, shared):
    """Neighbours and weights by the formula, in loops of Python floats."""
    found = []
    for row in half.tolist():
        apart = [sum((a - b) ** 2 for a, b in zip(row, s, strict=True)) for s in shared.tolist()]
        nearest = sorted(range(len(apart)), key=apart.__getitem__)[: completion.NEIGHBOURS]
        found.append((nearest, [apart[i] for i in nearest]))
    width = sum(d[-1] - d[0] for _, d in found) / len(found)
    weights = []
    for _, d in found:
        raw = [math.exp(-x / width) for x in d]
        weights.append([x / sum(raw) for x in raw])
    return [nearest for nearest, _ in found], weights


def test_neighbours_and_their_weights_are_those_of_the_formula():
    half, shared = FEATURES[:9, :IMAGE].double(), SHARED[:, :IMAGE].double()
    near, probability = completion.neighbours(half, shared)
    expected, weights = loop_oracle(half, shared)
    assert near.tolist() == expected
    torch.testing.assert_close(probability, torch.tensor(weights, dtype=torch.float64))


def test_pairs_keep_the_real_half_and_get_one_of_a_neighbour():
    for made, images, texts in zip(complete(), IMAGES, TEXTS, strict=True):
        assert made.shape == (len(images) + len(texts), 5)
        for rows, part, own in (
            (images, made[: len(images)], slice(None, IMAGE)),
            (texts, made[len(images) :], slice(IMAGE, None)),
        ):
            real = FEATURES[rows, own]
            assert torch.equal(part[:, own], real)
            other = [i for i in range(5) if i not in range(5)[own]]
            near, _ = completion.neighbours(real, SHARED[:, own])
            for pair, candidates in zip(part, near, strict=True):
                assert (pair[other] == SHARED[candidates][:, other]).all(-1).any()


def test_how_often_a_neighbour_is_drawn_is_its_weight():
    rows = np.zeros(4000, int)
    (made,) = complete((rows,), (rows[:0],), ids=(0,))
    near, probability = completion.neighbours(FEATURES[rows, :IMAGE], SHARED[:, :IMAGE])
    hits = (made[:, None, IMAGE:] == SHARED[near[0]][:, IMAGE:]).all(-1).double().mean(0)
    torch.testing.assert_close(hits, probability[0], atol=0.03, rtol=0)


def test_the_hidden_halves_are_never_seen():
    blind = FEATURES.clone()
    for images, texts in zip(IMAGES, TEXTS, strict=True):
        blind[images, IMAGE:] = torch.nan
        blind[texts, :IMAGE] = torch.nan
    for made, seen in zip(complete(features=blind), complete(), strict=True):
        assert torch.equal(made, seen)


def test_each_client_completes_the_same_alone():
    together = complete()
    for client in range(3):
        (alone,) = complete((IMAGES[client],), (TEXTS[client],), ids=(client,))
        assert torch.equal(alone, together[client])


@given(st.integers(1, 8))
def test_few_or_equal_synthetic_pairs_are_enough(count):
    for shared in (SHARED[:count], SHARED[:1].expand(count, -1)):
        for made in complete(shared=shared):
            assert made.isfinite().all()


def test_equal_neighbours_are_drawn_evenly():
    _, probability = completion.neighbours(FEATURES[:2], SHARED[:1].expand(9, -1))
    torch.testing.assert_close(probability, torch.full((2, 5), 0.2, dtype=torch.float64))

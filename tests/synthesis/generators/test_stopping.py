"""Held-out pairs, their energy distance by another library, and what is kept by it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from fedsyn.core.batches import everything
from fedsyn.synthesis.generators import stopping
from fedsyn.synthesis.generators.stopping import Best, Judge, split


def energy(x, y):
    """As its definition reads, over different rows of the same sample."""

    def within(z):
        apart = cdist(z, z)
        return apart.sum() / (len(z) * (len(z) - 1))

    return 2 * cdist(x, y).mean() - within(x) - within(y)


def judged(toy, cohort, counts, noise):
    index, valid = everything(cohort.rows, toy.features.device)
    return Judge(toy.features[index], valid, cohort, counts, noise)


def test_the_distance_is_that_of_scipy_for_clients_of_any_size(toy):
    cohort, counts = toy.cohort(20, 7, 1), torch.tensor([[3, 4], [2, 0], [1, 1]])
    judge = judged(toy, cohort, counts, 4)
    made = torch.randn(3, stopping.MADE, 5, generator=torch.Generator().manual_seed(0))
    found = judge.distance(made)
    for client in range(2):
        rows = toy.features[cohort.rows[client]]
        expected = energy(made[client].numpy(), rows.numpy())
        assert found[client].item() == pytest.approx(expected, rel=1e-4)
    assert math.isnan(found[2])
    assert judge.noise.shape == (3, stopping.MADE, 4) and set(judge.kinds[1].tolist()) == {0}


def test_pairs_are_kept_in_every_round_the_same_and_of_a_client_with_few_none(toy):
    cohort = toy.cohort(20, 5, 3, 0)
    seen, kept = split(cohort, 0.2)
    assert [len(rows) for rows in kept] == [4, 2, 0, 0]
    for rows, one, other in zip(cohort.rows, seen, kept, strict=True):
        assert np.array_equal(np.sort(np.concatenate([one, other])), rows)
    later, alone = split(replace(cohort, round_number=5), 0.2), split(cohort.take([1]), 0.2)
    assert all(np.array_equal(*both) for both in zip(kept, later[1], strict=True))
    assert np.array_equal(alone[1][0], kept[1])
    seen, kept = split(cohort, 0.0)
    assert not any(map(len, kept)) and np.array_equal(seen[0], cohort.rows[0])


def test_a_client_keeps_the_nearest_of_its_candidates_and_its_start_where_none_is_judged(toy):
    cohort, counts = toy.cohort(20, 20, 0), torch.ones(3, 1, dtype=torch.long)
    judge = judged(toy, cohort, counts, 5)
    rows = torch.tensor([[0.5], [0.5], [0.5]])  # how far the noise is from where pairs are
    best = Best(rows, judge, lambda shift: judge.noise + shift[:, None])
    start = best.distance.clone()
    best.offer(torch.tensor([[0.1], [2.0], [0.1]]))
    assert rows.squeeze(-1).tolist() == pytest.approx([0.1, 0.5, 0.5])
    assert best.distance[0] < start[0] and best.distance[1] == start[1]
    best.offer(torch.tensor([[1.0], [0.1], [0.1]]))
    assert rows.squeeze(-1).tolist() == pytest.approx([0.1, 0.1, 0.5])


def test_prototypes_move_by_what_is_kept_aside():
    points = torch.tensor([[1.0, 0.0], [3.0, 2.0], [5.0, 5.0], [8.0, 1.0], [0.0, 9.0]])
    owner = torch.tensor([0, 1, 0, 0, 2])
    found = stopping.moved(points, owner, 3, 4)  # the last two are kept
    by_hand = [3.0 - 14 / 3, 2.5 - 2.0]
    torch.testing.assert_close(found, torch.tensor([by_hand, [0, 0], [0, 0], [0, 0]]))

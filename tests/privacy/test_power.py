"""How well scores tell members from strangers: against scikit-learn, by hand, and by chance."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from fedsyn.privacy.power import Scores, auc, power, tpr

LEVELS = st.lists(st.integers(-3, 3), min_size=2, max_size=60)


def scores(members, strangers):
    return Scores(*(torch.tensor(part, dtype=torch.float64) for part in (members, strangers)))


def chance(seed, sizes):
    """Members and strangers of one distribution, of clients of these sizes."""
    draw = torch.Generator().manual_seed(seed)
    return {
        client: Scores(*(torch.randn(n, generator=draw).double() for n in both))
        for client, both in enumerate(sizes)
    }


def reference(found):
    truth = np.r_[np.ones(len(found.members)), np.zeros(len(found.strangers))]
    return truth, np.r_[found.members.numpy(), found.strangers.numpy()]


@given(LEVELS, LEVELS)
def test_both_numbers_are_scikit_learns_whatever_ties_there_are(members, strangers):
    found = scores(members, strangers)
    truth, values = reference(found)
    assert auc(found) == pytest.approx(roc_auc_score(truth, values))
    for most in (0.01, 0.2, 0.5):
        false, true, _ = roc_curve(truth, values, drop_intermediate=False)
        expected = true[np.searchsorted(false, most + 1e-12, side="right") - 1]
        assert tpr(found, most) == pytest.approx(expected)


def test_ties_by_hand():
    # 9 comparisons: 3 lost (0 against 1, 1, 2), 2 even (1 against 1, 1), 1 lost, 3 won.
    found = scores([0, 1, 3], [1, 1, 2])
    assert auc(found) == pytest.approx((3 + 2 / 2) / 9)
    assert tpr(found) == pytest.approx(1 / 3)  # the 3 alone is above all strangers
    assert tpr(found, 0.34) == pytest.approx(1 / 3)  # one stranger may pass: above 1
    assert tpr(found, 1.0) == 1
    even = scores([5, 5], [5, 5, 5])
    assert auc(even) == 0.5 and tpr(even) == 0


def test_one_per_cent_of_a_round_number_is_what_it_says():
    strangers = torch.arange(2900).double()  # .01 · 2900 is a little less than 29 in floating point
    found = Scores(torch.tensor([2870.5, 2869.5]).double(), strangers)
    assert tpr(found) == 0.5


def test_over_clients_auc_is_a_mean_and_tpr_is_pooled():
    perfect, none = scores([3, 4], [0, 1]), scores([0, 1], [3, 4])
    found = power({0: perfect, 7: none})
    assert found.auc == 0.5 and found.tpr_mean == 0.5
    assert (found.members, found.strangers) == (4, 4)
    assert found.tpr_chance == pytest.approx(1 / 3)  # above both strangers of two
    alone = power({3: perfect})
    assert (alone.auc, alone.auc_low, alone.auc_high, alone.auc_pooled, alone.tpr) == (1,) * 5


def test_scales_and_offsets_of_clients_do_not_matter():
    clients = chance(0, [(80, 40), (50, 150), (30, 250)])
    moved = {
        client: Scores(*(part * 10.0**client - 5 * client for part in one))
        for client, one in clients.items()
    }
    one, other = power(clients), power(moved)
    for name in ("auc", "auc_low", "auc_high", "auc_pooled", "tpr", "tpr_low", "tpr_mean"):
        assert getattr(one, name) == pytest.approx(getattr(other, name)), name


@pytest.mark.parametrize("order", [(2, 0, 1), (5, 9, 3)])
def test_numbers_of_clients_do_not_matter(order):
    clients = chance(1, [(80, 40), (50, 150), (30, 250)])
    one = power(clients)
    other = power({number: clients[place] for place, number in enumerate(order)})
    for name in ("auc", "auc_pooled", "tpr", "tpr_mean", "tpr_chance"):
        assert getattr(one, name) == pytest.approx(getattr(other, name)), name
    assert other.auc_low == pytest.approx(one.auc_low, abs=0.02)  # other draws


def test_intervals_hold_what_they_should_and_chance_is_one_per_cent():
    sizes = [(33, 14), (42, 20), (247, 103), (64, 26), (120, 120)]
    found = [power(chance(seed, sizes)) for seed in range(60)]
    held = sum(one.auc_low <= 0.5 <= one.auc_high for one in found)
    assert held >= 52  # 57 on average
    assert all(one.auc_low <= one.auc <= one.auc_high for one in found)
    assert np.mean([one.tpr for one in found]) == pytest.approx(0.01, abs=0.004)
    # The mean over clients is far from it where strangers are few, which is said.
    assert np.mean([one.tpr_mean for one in found]) == pytest.approx(found[0].tpr_chance, abs=0.006)


def test_a_client_that_is_given_away_is_seen_among_others():
    clients = chance(2, [(200, 100)] * 4)
    given = Scores(torch.zeros(200).double(), clients[0].strangers - 100)
    found = power(clients | {4: given})
    assert found.tpr > 0.18 and found.tpr_low > 0.15  # 200 of 1,000


def test_equal_scores_are_calibrated_to_nothing():
    one = Scores(torch.ones(5).double(), torch.ones(4).double()).calibrated()
    assert not one.members.any() and not one.strangers.any()
    spread = Scores(torch.tensor([2.0]), torch.tensor([1.0] * 9 + [3.0])).calibrated()
    assert spread.members.isfinite().all() and spread.strangers.isfinite().all()

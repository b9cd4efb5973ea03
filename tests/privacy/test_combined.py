"""All attacks together: by other clients' members alone."""

import torch

from fedsyn.privacy.combined import combine, normal_scores
from fedsyn.privacy.power import Scores, auc


def clients(count, signal, seed=0):
    """Scores by three attacks, the first of which sees members; and who they are."""
    draw = torch.Generator().manual_seed(seed)
    truth = {c: torch.arange(60) < 40 for c in range(count)}
    scores = {}
    for c, member in truth.items():
        values = torch.randn(60, 3, generator=draw, dtype=torch.float64)
        values[:, 0] += signal * member
        scores[c] = values * 10.0**c  # of any scale
    return scores, truth


def areas(found, truth):
    return [auc(Scores(found[c][truth[c]], found[c][~truth[c]])) for c in found]


def test_what_one_attack_sees_all_together_see():
    scores, truth = clients(5, 3.0)
    assert min(areas(combine(scores, truth), truth)) > 0.93


def test_of_noise_nothing_is_learnt():
    found = [sum(areas(combine(*clients(6, 0.0, s)), clients(6, 0.0, s)[1])) / 6 for s in range(8)]
    assert abs(sum(found) / 8 - 0.5) < 0.04


def test_a_clients_own_members_have_no_say_in_its_scores():
    scores, truth = clients(4, 1.0)
    one = combine(scores, truth)[2]
    assert torch.equal(one, combine(scores, truth | {2: ~truth[2]})[2])


def test_numbers_of_clients_do_not_matter():
    scores, truth = clients(4, 1.0)
    one = combine(scores, truth)
    other = combine(*({9 - c: part[c] for c in part} for part in (scores, truth)))
    assert all(torch.allclose(one[c], other[9 - c], atol=1e-4) for c in one)


def test_an_attack_that_a_client_has_no_scores_of_is_left_out():
    scores, truth = clients(3, 3.0)
    scores[1][:, 1] = torch.nan
    found = combine(scores, truth)
    assert found[1].isfinite().all() and min(areas(found, truth)) > 0.9


def test_of_one_client_alone_pairs_are_judged_by_its_others():
    scores, truth = clients(1, 3.0)
    assert areas(combine(scores, truth), truth)[0] > 0.9
    noise, truth = clients(1, 0.0)
    assert areas(combine(noise, truth), truth)[0] < 0.7


def test_normal_scores_go_by_ranks_alone():
    values = torch.tensor([[1.0, 5.0], [100.0, 5.0], [3.0, 5.0]])
    found = normal_scores(values)
    assert torch.allclose(found, normal_scores(values.exp()))
    assert found[:, 0].argsort().tolist() == [0, 2, 1] and not found[:, 1].any()

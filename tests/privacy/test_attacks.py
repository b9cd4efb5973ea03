"""Attacks by shape: their formulas, and what they say of pairs that are in what was sent."""

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from fedsyn.privacy import attacks
from fedsyn.privacy.attacks import RIDGE, Metric, Mixture


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ridged(covariance):
    width = len(covariance)
    return covariance + RIDGE * covariance.trace() / width * torch.eye(width).double()


PAIRS, CENTRES = drawn(20, 6), drawn(4, 6, seed=1)
COUNTS = torch.tensor([3, 1, 5, 2])
COVARIANCE = drawn(9, 6, seed=2).T @ drawn(9, 6, seed=2) / 9


def test_nearest_and_mahalanobis_are_distances_to_the_nearest_centre():
    difference = PAIRS[:, None] - CENTRES
    assert torch.allclose(attacks.nearest(PAIRS, CENTRES), -difference.norm(dim=-1).amin(-1))
    inverse = torch.linalg.inv(ridged(COVARIANCE))
    square = torch.einsum("nmd,de,nme->nm", difference, inverse, difference)
    found = attacks.mahalanobis(PAIRS, CENTRES, Metric.of(COVARIANCE))
    assert torch.allclose(found, -square.sqrt().amin(-1))


def test_likelihood_is_that_of_a_mixture_and_the_ratio_that_to_all_others():
    def mixture(centres, counts):
        parts = MultivariateNormal(centres, ridged(COVARIANCE))
        return MixtureSameFamily(Categorical(counts.double()), parts)

    metric = Metric.of(COVARIANCE)
    own = Mixture(CENTRES, COUNTS, metric)
    expected = mixture(CENTRES, COUNTS).log_prob(PAIRS)
    assert torch.allclose(attacks.log_likelihood(PAIRS, own), expected)
    others = [(drawn(2, 6, seed=3), COUNTS[:2]), (drawn(3, 6, seed=4), COUNTS[:3])]
    together = mixture(*(torch.cat(parts) for parts in zip(*others, strict=True)))
    ratio = attacks.density_ratio(PAIRS, own, [Mixture(*one, metric) for one in others])
    assert torch.allclose(ratio, expected - together.log_prob(PAIRS))


def test_pairs_in_a_sum_lie_in_its_span():
    members, strangers = drawn(5, 12), drawn(30, 12, seed=1)
    second = members.T @ members
    assert attacks.span(second).shape == (12, 5)
    assert attacks.leverage(members, second).min() > attacks.leverage(strangers, second).max()
    assert torch.allclose(attacks.explained(members, second), torch.ones(5).double())
    assert attacks.explained(strangers, second).max() < 0.98
    centre = members.mean(0, keepdim=True)
    found = attacks.subspace(members, centre, members - centre)
    assert found.abs().max() < 1e-9
    assert attacks.subspace(strangers, centre, members - centre).max() < -0.1
    assert attacks.alignment(members, members.sum(0)).mean() > 0.3
    assert abs(attacks.alignment(strangers, members.sum(0)).mean()) < 0.2


def test_a_covariance_is_known_up_to_a_factor_where_only_ranks_matter():
    one, other = (attacks.leverage(PAIRS, scale * COVARIANCE) for scale in (1.0, 1e6))
    assert torch.equal(one.argsort(), other.argsort())


def test_of_nothing_there_are_scores_too():
    nothing = torch.zeros(6, 6)
    assert attacks.leverage(PAIRS, nothing).isfinite().all()
    assert attacks.explained(PAIRS, nothing).abs().max() == 0
    assert attacks.alignment(PAIRS, torch.zeros(6)).abs().max() == 0


def test_a_matrix_that_lapack_gives_up_on(monkeypatch):
    expected = attacks.eigen(COVARIANCE)[0]

    def gives_up(*arguments, **keys):
        raise torch.linalg.LinAlgError("the algorithm failed to converge")

    monkeypatch.setattr(torch.linalg, "eigh", gives_up)
    assert torch.allclose(attacks.eigen(COVARIANCE)[0], expected)


@pytest.mark.parametrize("order", [(2, 0, 3, 1), (3, 2, 1, 0)])
def test_the_order_of_prototypes_and_of_pairs_does_not_matter(order):
    metric, order = Metric.of(COVARIANCE), list(order)
    turned = Mixture(CENTRES[order], COUNTS[order], metric)
    plain = Mixture(CENTRES, COUNTS, metric)
    one = attacks.log_likelihood(PAIRS.flip(0), turned)
    assert torch.allclose(one, attacks.log_likelihood(PAIRS, plain).flip(0))

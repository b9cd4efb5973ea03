"""Prototypes and the closed-form Gaussian of a client."""

import itertools

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsyn.core.cohort import Cohort
from fedsyn.synthesis import prototypes
from fedsyn.synthesis.settings import SynthesisConfig


def features(rows=60, dim=5, seed=0):
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


def cohort(*sizes):
    bounds = np.cumsum([0, *sizes])
    held = tuple(np.arange(a, b) for a, b in itertools.pairwise(bounds))
    return Cohort(tuple(range(len(sizes))), held, 0, 0)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=3), st.integers(1, 6), st.integers(1, 4))
def test_prototypes_stand_for_all_pairs_and_never_for_too_few(sizes, k, least):
    config = SynthesisConfig(prototypes=k, min_cluster=least, noise=3)
    fitted = prototypes.fit(features(), cohort(*sizes), config)
    for size, counts in zip(sizes, fitted["counts"], strict=True):
        assert counts.sum() == (size if size >= least else 0)
        assert all(count == 0 or count >= least for count in counts.tolist())


def test_a_prototype_is_the_mean_of_its_pairs():
    x = features(30)
    fitted = prototypes.fit(x, cohort(30), SynthesisConfig(prototypes=3, noise=2))
    owner = prototypes.assign(x[None], fitted["prototypes"], fitted["counts"] > 0)[0]
    for cluster in range(3):
        members = x[owner == cluster]
        if len(members) == fitted["counts"][0, cluster]:  # the final step moved nobody
            torch.testing.assert_close(fitted["prototypes"][0, cluster], members.mean(0))


def test_the_basis_has_the_pooled_within_cluster_covariance():
    x = features(60)
    fitted = prototypes.fit(x, cohort(60), SynthesisConfig(prototypes=1, noise=5))
    covariance = fitted["basis"][0].T @ fitted["basis"][0]
    torch.testing.assert_close(covariance, torch.cov(x.T), atol=1e-5, rtol=1e-4)


def test_directions_are_found_where_divide_and_conquer_gives_up(monkeypatch):
    rows = torch.randn(40, 6, generator=torch.Generator().manual_seed(3))
    rows[:, 4:] = 0  # singular
    cohort = Cohort((0,), (np.arange(40),), 0, 1)
    config = SynthesisConfig(prototypes=3, noise=4)
    plain = prototypes.fit(rows, cohort, config)["basis"][0]

    def give_up(*arguments, **options):
        raise torch.linalg.LinAlgError("the algorithm failed to converge")

    monkeypatch.setattr(torch.linalg, "svd", give_up)
    other = prototypes.fit(rows, cohort, config)["basis"][0]
    torch.testing.assert_close(other.mT @ other, plain.mT @ plain)
    torch.testing.assert_close(other.norm(dim=-1), plain.norm(dim=-1))


def test_a_clients_prototypes_do_not_depend_on_company():
    config = SynthesisConfig(prototypes=4, noise=3)
    together = prototypes.fit(features(), cohort(20, 9, 31), config)
    rows = cohort(20, 9, 31)
    for client in range(3):
        alone = prototypes.fit(features(), rows.take([client]), config)
        for name, value in alone.items():
            assert torch.equal(value[0], together[name][client])

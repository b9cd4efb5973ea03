"""Prototypes of a client, and its part of the directions."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsyn.core.cohort import Cohort
from fedsyn.synthesis import prototypes
from fedsyn.synthesis.settings import SynthesisConfig

own = partial(SynthesisConfig, clusters="own")


def features(rows=60, dim=5, seed=0):
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


def cohort(*sizes):
    bounds = np.cumsum([0, *sizes])
    held = tuple(np.arange(a, b) for a, b in itertools.pairwise(bounds))
    return Cohort(tuple(range(len(sizes))), held, 0, 0)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=3), st.integers(1, 6), st.integers(1, 4))
def test_prototypes_stand_for_all_pairs_and_never_for_too_few(sizes, k, least):
    config = own(prototypes=k, min_cluster=least, noise=3)
    fitted = prototypes.fit(features(), cohort(*sizes), config)
    for size, counts in zip(sizes, fitted["counts"], strict=True):
        assert counts.sum() == (size if size >= least else 0)
        assert all(count == 0 or count >= least for count in counts.tolist())


def test_a_prototype_is_the_mean_of_its_pairs():
    x = features(30)
    fitted = prototypes.fit(x, cohort(30), own(min_cluster=3, prototypes=3, noise=2))
    owner = prototypes.assign(x[None], fitted["prototypes"], fitted["counts"] > 0)[0]
    for cluster in range(3):
        members = x[owner == cluster]
        if len(members) == fitted["counts"][0, cluster]:  # the final step moved nobody
            torch.testing.assert_close(fitted["prototypes"][0, cluster], members.mean(0))


def test_the_basis_has_the_pooled_within_cluster_covariance():
    x = features(60)
    config = own(directions="own", prototypes=1, noise=5)
    fitted = prototypes.fit(x, cohort(60), config)
    covariance = fitted["basis"][0].T @ fitted["basis"][0]
    torch.testing.assert_close(covariance, torch.cov(x.T), atol=1e-5, rtol=1e-4)


def test_directions_are_found_where_divide_and_conquer_gives_up(monkeypatch):
    rows = torch.randn(40, 6, generator=torch.Generator().manual_seed(3))
    rows[:, 4:] = 0  # singular
    cohort = Cohort((0,), (np.arange(40),), 0, 1)
    config = own(directions="own", prototypes=3, noise=4)
    plain = prototypes.fit(rows, cohort, config)["basis"][0]

    def give_up(*arguments, **options):
        raise torch.linalg.LinAlgError("the algorithm failed to converge")

    monkeypatch.setattr(torch.linalg, "svd", give_up)
    other = prototypes.fit(rows, cohort, config)["basis"][0]
    torch.testing.assert_close(other.mT @ other, plain.mT @ plain)
    torch.testing.assert_close(other.norm(dim=-1), plain.norm(dim=-1))


PARTS = {"own": {"basis"}, "pooled": {"scatter", "freedom"}, "none": set()}


@pytest.mark.parametrize("directions", PARTS)
def test_what_a_client_finds_does_not_depend_on_company(directions):
    config = own(min_cluster=3, prototypes=4, noise=3, directions=directions)
    together = prototypes.fit(features(), cohort(20, 9, 31), config)
    assert together.keys() == {"prototypes", "counts"} | PARTS[directions]
    rows = cohort(20, 9, 31)
    for client in range(3):
        alone = prototypes.fit(features(), rows.take([client]), config)
        for name, value in alone.items():
            assert torch.equal(value[0], together[name][client])


def test_prototypes_are_shrunk_to_the_clients_mean_as_if_that_counted_too():
    x, held = features(40), cohort(30, 2)
    plain, shrunk = (
        prototypes.fit(x, held, own(min_cluster=3, prototypes=3, noise=2, shrinkage=weight))
        for weight in (0.0, 5.0)
    )
    number, mean = plain["counts"][0, :, None], x[:30].mean(0)
    expected = (number * plain["prototypes"][0] + 5 * mean) / (number + 5)
    torch.testing.assert_close(shrunk["prototypes"][0], expected)
    assert torch.equal(shrunk["counts"], plain["counts"])
    assert torch.equal(shrunk["scatter"], plain["scatter"])  # around where they really are
    assert not shrunk["prototypes"][1].any()


def test_noise_on_prototypes_has_the_deviation_asked_for_and_is_drawn_once():
    x, held = features(40, dim=400), cohort(30, 9)
    config = own(min_cluster=3, prototypes=3, noise=2)
    fitted = prototypes.fit(x, held, config)
    plain, alive = fitted["prototypes"], fitted["counts"] > 0
    noisy = prototypes.fit(x, held, config.changed(disclosed_noise=0.5))["prototypes"]
    added = (noisy - plain)[alive]
    assert torch.equal(noisy[~alive], plain[~alive])
    assert added.std().item() == pytest.approx(0.5, rel=0.1)
    assert added.mean().item() == pytest.approx(0, abs=0.05)
    alone = prototypes.fit(x, held.take([0]), config.changed(disclosed_noise=0.5))["prototypes"]
    assert torch.equal(alone[0], noisy[0])

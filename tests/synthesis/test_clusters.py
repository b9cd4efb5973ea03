"""Clusters of all clients' pairs by sums, beside k-means of pooled rows."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsyn.core.cohort import Cohort
from fedsyn.core.wire import Intake, Upload, send
from fedsyn.data.moments import pair_moments
from fedsyn.data.preprocessing import add
from fedsyn.synthesis import clusters
from fedsyn.synthesis.settings import SynthesisConfig

WIDTH = 5


def told(**keys):
    return SynthesisConfig(clusters="all", directions="pooled", **{"noise": WIDTH, **keys})


def features(rows=60, seed=0):
    return torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(seed))


def cohort(*sizes):
    bounds = np.cumsum([0, *sizes])
    held = tuple(np.arange(a, b) for a, b in itertools.pairwise(bounds))
    return Cohort(tuple(range(len(sizes))), held, 0, 1)


def begun(x, held, config, seed=0):
    return clusters.begin(add(pair_moments(x, held.rows)), config, seed)


def sent(x, held, state, config):
    """What these clients' sums add up to, as the server reads it."""
    found = clusters.assign(x, held, state["centres"], config.min_cluster)
    intake = Intake({})
    upload = Upload(clusters.sums(*found))
    intake.take(held.ids, send(upload, torch.ones(len(held.ids), dtype=torch.bool)))
    return intake.uploads(), found


def played(x, held, config, rounds, fraction=1.0):
    state = begun(x, held, config)
    for _ in range(rounds):
        state = clusters.update(state, sent(x, held, state, config)[0], config, fraction)
    return state


def lloyd(rows, centres, rounds):
    """The same on pooled rows; a centre without rows stays where it is."""
    for _ in range(rounds):
        owner = ((rows[:, None] - centres) ** 2).sum(-1).argmin(1)
        numbers = np.bincount(owner, minlength=len(centres))
        near = [rows[owner == g] for g in range(len(centres))]
        centres = np.array(
            [own.mean(0) if len(own) else c for own, c in zip(near, centres, strict=True)]
        )
    return centres, numbers


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=3), st.integers(1, 7))
def test_every_pair_takes_part_once_in_all_rounds(sizes, number):
    """Else the difference of two rounds would be the pairs that have moved."""
    held = cohort(*sizes)
    parts = [clusters.part(held, left, number) for left in range(number, 0, -1)]
    for client, rows in enumerate(held.rows):
        taken = [part.rows[client] for part in parts]
        assert sorted(np.concatenate(taken).tolist()) == rows.tolist()
        assert len(taken[-1]) == (len(rows) + 1) // 2 or number == 1  # half of them in the last
        assert all(np.array_equal(each, np.sort(each)) for each in taken)
    assert not any(len(rows) for rows in clusters.part(held, 0, number).rows)


def test_a_clients_parts_depend_neither_on_the_round_nor_on_company():
    held = cohort(20, 9, 31)
    for left in (3, 1):
        together = clusters.part(held, left, 3)
        for client in range(3):
            alone = clusters.part(cohort(20, 9, 31).take([client]), left, 3)
            later = clusters.part(replace(held, round_number=7), left, 3)
            assert np.array_equal(alone.rows[0], together.rows[client])
            assert np.array_equal(later.rows[client], together.rows[client])


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=3), st.integers(2, 6), st.integers(1, 4))
def test_sums_give_the_k_means_of_pooled_rows(sizes, number, rounds):
    x, held, config = features(), cohort(*sizes), told(prototypes=number, min_cluster=1)
    state = begun(x, held, config)
    centres, numbers = lloyd(x[: sum(sizes)].double().numpy(), state["centres"].numpy(), rounds)
    found = played(x, held, config, rounds)
    np.testing.assert_allclose(found["centres"], centres, atol=1e-4)
    assert found["counts"].tolist() == numbers.tolist()
    assert int(found["left"]) == config.cluster_rounds - rounds


def test_so_they_do_where_every_client_has_enough_pairs_of_each():
    blob = torch.arange(60) % 3
    x = features() + 40.0 * torch.eye(3, WIDTH)[blob]
    held, config = cohort(24, 15, 21), told(prototypes=3, min_cluster=5)
    state = begun(x, held, config)
    state["centres"] = x[:3].clone()
    for _ in range(2):
        state = clusters.update(state, sent(x, held, state, config)[0], config, 1.0)
    expected = torch.stack([x[blob == g].mean(0) for g in range(3)])
    torch.testing.assert_close(state["centres"], expected)
    assert state["counts"].tolist() == [20, 20, 20]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 15), min_size=1, max_size=4), st.integers(1, 6), st.integers(1, 5))
def test_no_client_adds_to_a_centre_of_which_it_has_too_few(sizes, number, least):
    x, held = features(), cohort(*sizes)
    centres = features(number, seed=1)
    points, owner, counts = clusters.assign(x, held, centres, least)
    sums = clusters.sums(points, owner, counts)
    numbers, members = sums["numbers"].value, sums["members"].value
    for client, (size, rows) in enumerate(zip(sizes, held.rows, strict=True)):
        assert counts[client].sum() == (size if size >= least else 0)
        assert sums["members"].weight[client] == float(size >= least)
        for g in range(number):
            assert counts[client, g] == numbers[client, g]
            assert counts[client, g] == 0 or counts[client, g] >= least
            own = x[rows][owner[client, :size] == g].double()
            assert len(own) == counts[client, g]
            torch.testing.assert_close(members[client, g], own.sum(0))


def test_pairs_of_a_centre_with_too_few_go_to_the_nearest_that_has_enough():
    x = torch.zeros(8, WIDTH)
    x[:, 0] = torch.tensor([0.0, 0.1, 0.2, 4.0, 9.0, 9.1, 9.2, 9.3])
    centres = torch.zeros(4, WIDTH)
    centres[:, 0] = torch.tensor([0.0, 4.0, 9.0, 99.0])
    _, owner, _ = clusters.assign(x, cohort(8), centres, 3)
    assert owner[0].tolist() == [0, 0, 0, 0, 2, 2, 2, 2]
    _, owner, _ = clusters.assign(x, cohort(8), centres, 5)  # none has: the largest
    assert owner[0].tolist() == [2] * 8
    _, owner, counts = clusters.assign(x, cohort(8), centres, 9)  # too few in all
    assert owner[0].tolist() == [-1] * 8 and not counts.any()


def test_scatter_is_the_total_without_what_lies_between_centres():
    x, held, config = features(), cohort(25, 20, 15), told(prototypes=4, min_cluster=3)
    before = played(x, held, config, 2)
    uploads, (points, owner, _) = sent(x, held, before, config)
    state = clusters.update(before, uploads, config, 1.0)
    residual = torch.cat(
        [(p - state["centres"][o])[o >= 0] for p, o in zip(points, owner, strict=True)]
    ).double()
    freedom = 60 - int((state["counts"] > 0).sum())
    basis = state["basis"].double()
    torch.testing.assert_close(
        basis.T @ basis, residual.T @ residual / freedom, atol=1e-5, rtol=1e-4
    )
    spread = (basis**2).sum(1)
    assert (spread[:-1] >= spread[1:]).all()  # the leading ones first


def test_of_few_directions_the_leading_ones_are_kept():
    whole, few = (begun(features(), cohort(60), told(prototypes=4, noise=n)) for n in (9, 2))
    assert whole["basis"].shape == (9, WIDTH) and not whole["basis"][WIDTH:].any()
    torch.testing.assert_close(few["basis"], whole["basis"][:2])


def test_one_prototype_is_the_mean_of_all_pairs_and_needs_no_rounds():
    x, held = features(), cohort(31, 9)
    state = begun(x, held, told(prototypes=1))
    rows = x[:40]
    torch.testing.assert_close(state["centres"], rows.mean(0, keepdim=True))
    assert (int(state["left"]), state["counts"].tolist()) == (0, [40])
    torch.testing.assert_close(
        state["basis"].T @ state["basis"], rows.T.cov(), atol=1e-5, rtol=1e-4
    )


def test_centres_are_drawn_from_the_gaussian_of_all_pairs():
    x = features() @ torch.diag(torch.tensor([3.0, 1.0, 0.5, 0.1, 0.0])) + 2
    state = begun(x, cohort(60), told(prototypes=20_000))
    torch.testing.assert_close(state["centres"].mean(0), x.mean(0), atol=0.1, rtol=0)
    torch.testing.assert_close(state["centres"].T.cov(), x.T.cov(), atol=0.3, rtol=0)
    assert not state["counts"].any()
    other, again = (begun(x, cohort(60), told(prototypes=4), seed)["centres"] for seed in (1, 1))
    assert torch.equal(other, again)
    assert not torch.equal(other, begun(x, cohort(60), told(prototypes=4))["centres"])


def test_where_a_share_of_the_clients_does_a_round_earlier_sums_count_on():
    x, config = features(), told(prototypes=2, min_cluster=1)
    everybody, fraction = cohort(25, 20, 15), 0.25
    state = begun(x, everybody, config)
    members, numbers = torch.zeros(2, WIDTH).double(), torch.zeros(2).double()
    for ids in ([0], [2], [1]):
        uploads, _ = sent(x, everybody.take(ids), state, config)
        members = 0.75 * members + uploads.sums["members"]
        numbers = 0.75 * numbers + uploads.sums["numbers"]
        state = clusters.update(state, uploads, config, fraction)
        expected = (members / numbers[:, None]).float()
        torch.testing.assert_close(state["centres"][numbers >= 1], expected[numbers >= 1])
        assert state["counts"].tolist() == numbers.where(numbers >= 1, 0).round().tolist()
    assert "members" not in played(x, everybody, config, 2)  # nothing to be kept of everybody's


def test_a_centre_that_nobody_is_near_stays_and_counts_nothing():
    x, held, config = features(), cohort(30), told(prototypes=3, min_cluster=2)
    state = begun(x, held, config)
    state["centres"][1] = 1000.0
    found = clusters.update(state, sent(x, held, state, config)[0], config, 1.0)
    assert (found["centres"][1] == 1000).all() and found["counts"][1] == 0
    assert found["counts"].sum() == 30


def test_a_round_in_which_nobody_adds_anything_changes_nothing():
    x, held, config = features(), cohort(4, 0), told(prototypes=3, min_cluster=5)
    state = begun(x, held, config)
    assert clusters.update(state, Intake({}).uploads(), config, 1.0) is state
    assert clusters.update(state, sent(x, held, state, config)[0], config, 1.0) is state


@pytest.mark.parametrize("least", [1, 4])
def test_what_a_client_adds_does_not_depend_on_company(least):
    x, held, centres = features(), cohort(20, 9, 31), features(4, seed=1)
    together = clusters.sums(*clusters.assign(x, held, centres, least))
    for client in range(3):
        alone = clusters.sums(*clusters.assign(x, held.take([client]), centres, least))
        for name, one in alone.items():
            torch.testing.assert_close(one.value[0], together[name].value[client])
            assert one.weight[0] == together[name].weight[client] and not one.weighted


def test_while_no_centre_has_pairs_the_mean_of_all_is_the_only_prototype():
    x, held, config = features(), cohort(30), told(prototypes=3, min_cluster=2)
    state = begun(x, held, config)
    found = clusters.known(state)
    assert found["counts"].tolist() == [30, 0, 0]
    torch.testing.assert_close(found["prototypes"][0], x[:30].mean(0))
    after = clusters.update(state, sent(x, held, state, config)[0], config, 1.0)
    found = clusters.known(after)
    assert torch.equal(found["prototypes"], after["centres"])
    assert torch.equal(found["counts"], after["counts"])

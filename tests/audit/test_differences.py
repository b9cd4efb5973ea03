"""Sums of one client, seen alone or as the difference of two; and statistics found among sums."""

from pathlib import Path

import pytest
import torch

from fedsyn.audit import differences, sums
from fedsyn.audit.priors import Source
from fedsyn.audit.recorded import Recorded
from fedsyn.audit.statistics import Statistic, moments_of
from fedsyn.audit.subjects import Subject
from fedsyn.audit.totals import Total
from fedsyn.privacy.power import auc
from fedsyn.synthesis.clusters import MEMBERS, NUMBERS

from .test_recorded import write

WIDTH = 20


def subject(client, members=12, strangers=30):
    draw = torch.Generator().manual_seed(client)
    pairs = torch.randn(members + strangers, WIDTH, generator=draw)
    return Subject(client, torch.arange(len(pairs)).numpy(), pairs, members)


MANY = 20
PEOPLE = [subject(client) for client in range(MANY)]


def second(*clients, without=()):
    """Second moments of all members of clients, but for some rows."""
    rows = [PEOPLE[c].pairs[: PEOPLE[c].members] for c in clients]
    kept = torch.cat(rows).double()
    kept = kept[[place for place in range(len(kept)) if place not in without]]
    return kept.T @ kept


def statistic(*rounds):
    """One that was received in rounds: of each a list of (clients, matrix)."""
    received = tuple(
        tuple(Total(number, frozenset(ids), value, 1.0) for ids, value in arrived)
        for number, arrived in enumerate(rounds, 1)
    )
    return Statistic("part", "second", slice(0, WIDTH), received)


def areas(attacks):
    """AUC of each client's scores, by attack and view."""
    return {
        (one.name, one.views): {
            client: auc(PEOPLE[client].scores(values)) for client, values in one.scores.items()
        }
        for one in attacks
        if one.scores
    }


def test_a_sum_says_more_the_fewer_it_is_of():
    arrived = [((client,), second(client)) for client in range(MANY)]
    found = areas(sums.moments(statistic(arrived), PEOPLE))
    alone = found["leverage, part/second", ("raw",)]
    together = found["leverage, part/second", ("sums",)]
    assert min(alone.values()) == 1
    assert max(together.values()) < 0.9


def test_a_client_that_is_new_alone_is_alone_among_sums_too():
    others = tuple(range(1, MANY))
    first = [(others, second(*others))]
    found = areas(sums.moments(statistic(first, [((0,), second(0))]), PEOPLE))
    assert found["leverage, part/second", ("sums",)][0] == 1
    assert found["leverage, part/second", ("sums",)][1] < 0.8


def test_sums_over_clients_of_which_one_has_one_more_give_that_one_away():
    both = statistic([((0, 1, 2), second(0, 1, 2))], [((0, 1), second(0, 1))])
    found = areas(differences.of_statistic(both, PEOPLE))
    assert found == {
        ("difference of one client, part/second", (view,)): {2: 1.0} for view in ("raw", "sums")
    }


def test_sums_of_one_client_that_differ_by_few_rows_give_those_away():
    changed = statistic([((0,), second(0))], [((0,), second(0, without=(3, 7)))])
    attacks = {one.views: one for one in differences.of_statistic(changed, PEOPLE) if one.scores}
    scores = attacks[("raw",)].scores[0]
    assert attacks[("raw",)].name == "difference of few rows, part/second"
    assert sorted(scores.argsort(descending=True)[:2].tolist()) == [3, 7]
    assert torch.allclose(scores[[3, 7]], torch.ones(2).double())
    assert scores.sort().values[-3] < 0.9


def test_equal_sums_and_unlike_clients_differ_by_nothing():
    same = statistic([((0, 1), second(0, 1))], [((0, 1), second(0, 1))], [((2,), second(2))])
    assert not areas(differences.of_statistic(same, PEOPLE))


def test_a_first_moment_of_one_row_less_is_that_row():
    rows = PEOPLE[0].pairs[:12].double()
    received = [((0,), rows.sum(0))], [((0,), rows[1:].sum(0))]
    found = list(differences.of_statistic(statistic(*received), PEOPLE))
    (scores,) = (one.scores[0] for one in found if one.scores and one.views == ("raw",))
    assert scores.argmax() == 0 and scores[0] == pytest.approx(1)


def test_matrices_are_found_in_whatever_form_they_travel():
    whole = second(0)
    row, column = torch.triu_indices(WIDTH, WIDTH)
    widths = {WIDTH, 8, 12}
    assert torch.equal(moments_of(whole[row, column], widths), whole)
    assert torch.equal(moments_of(whole, widths), whole)
    assert moments_of(whole.triu(), widths) is None  # not symmetric: no moments
    assert moments_of(torch.ones(7, dtype=torch.float64), widths) is None
    assert moments_of(torch.ones(12), widths).shape == (12,)
    assert moments_of(torch.ones(3, WIDTH), widths) is None


def test_a_pair_that_changes_its_cluster_is_what_a_cluster_has_won(tmp_path):
    """Two rounds of clusters in which client 0's pair 5 has gone from cluster 0 to cluster 1."""
    before, after = torch.zeros(12).long(), torch.zeros(12).long()
    before[6:], after[6:], after[5] = 1, 1, 1
    for number, owner in enumerate((before, after), 1):
        record = {}
        for client in range(3):
            mine = PEOPLE[client].pairs[:12].double()
            groups = [mine[(owner if client == 0 else before) == g] for g in range(2)]
            total = torch.stack([group.sum(0) for group in groups])
            count = torch.tensor([float(len(group)) for group in groups]).double()
            for name, value in ((MEMBERS, total), (NUMBERS, count)):
                record[f"{client}/synthesis/sums/{name}"] = value[None]
                record[f"{client}/synthesis/weights/{name}"] = torch.ones(1).double()
        write(tmp_path, number, record)
    source = Source(Recorded.of(Path(tmp_path)), "synthesis", None, WIDTH, 0, 1.0)
    raw, pooled = differences.of_clusters(source, PEOPLE[:3])
    assert raw.scores.keys() == {0} and pooled.scores.keys() == {0, 1, 2}
    for scores in (raw.scores[0], pooled.scores[0]):
        assert scores.argmax() == 5 and scores[5] == pytest.approx(0, abs=1e-6)
        assert scores.sort().values[-2] < -1

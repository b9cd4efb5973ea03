from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsyn.data.pairs import Pairs
from fedsyn.data.partition import long_tail, partition
from fedsyn.data.sections import PartitionConfig
from fedsyn.errors import DataError

SCHEMES = ("dirichlet", "dirichlet-clusters", "lineage", "pathological", "column", "iid")


def divide(pairs: Pairs, test_share: float = 0.25, seed: int = 0, **keys: object):
    rows = np.random.default_rng(5).permutation(len(pairs))
    test = np.sort(rows[: int(test_share * len(pairs))])
    train = np.setdiff1d(rows, test)
    config = PartitionConfig(**{"clients": 4, "clusters": 3, "min_size": 2, **keys})
    return train, test, partition(pairs, pairs.image, train, test, config, seed)


def labelled(label: np.ndarray) -> Pairs:
    x = np.random.default_rng(0).normal(size=(len(label), 3)).astype(np.float32)
    number = label.shape[1] if label.ndim == 2 else max(0, int(label.max()) + 1)
    names = tuple(map(str, range(number)))
    return Pairs("made", image=x, text=x, label=label, label_names=names)


def shares(label: np.ndarray, parts) -> np.ndarray:
    """[clients, labels] each label's share with each client."""
    number = int(label.max()) + 1
    table = np.stack([np.bincount(label[rows], minlength=number) for rows in parts])
    return table / table.sum(axis=0)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("variant", ["consistent", "code"])
def test_every_row_has_exactly_one_client(toy, scheme, variant):
    train, test, division = divide(toy, scheme=scheme, variant=variant, column="site")
    assert np.array_equal(np.sort(np.concatenate(division.train)), train)
    assert np.array_equal(np.sort(np.concatenate(division.test)), test)
    assert all(np.array_equal(part, np.sort(part)) for part in division.train + division.test)
    assert len(division.train) == len(division.test) == (3 if scheme == "column" else 4)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_seed_alone_decides(toy, scheme):
    np.random.seed(1)
    *_, one = divide(toy, scheme=scheme, column="site")
    np.random.seed(2)
    *_, same = divide(toy, scheme=scheme, column="site")
    *_, other = divide(toy, scheme=scheme, column="site", seed=1)
    assert all(map(np.array_equal, one.train + one.test, same.train + same.test))
    if scheme != "column":
        assert not all(map(np.array_equal, one.train, other.train))


@settings(max_examples=60, deadline=None)
@given(
    label=st.lists(st.integers(-1, 4), min_size=40, max_size=120).map(np.array),
    clients=st.integers(1, 8),
    alpha=st.floats(1e-3, 1e3),
    min_size=st.integers(0, 3),
    scheme=st.sampled_from(["dirichlet", "pathological", "iid"]),
    seed=st.integers(0, 99),
)
def test_a_partition_is_a_partition_and_the_guard_holds(
    label, clients, alpha, min_size, scheme, seed
):
    train, test, division = divide(
        labelled(label), scheme=scheme, clients=clients, alpha=alpha, min_size=min_size, seed=seed,
        classes=1 if clients > 5 or scheme != "pathological" else _all_of(label),
    )  # fmt: skip
    assert np.array_equal(np.sort(np.concatenate(division.train)), train)
    tested = test if scheme == "iid" else test[np.isin(label[test], label[train])]
    assert np.array_equal(np.sort(np.concatenate(division.test)), tested)
    assert min(map(len, division.train)) >= min_size


@pytest.mark.parametrize("clients", [2, 8])
def test_the_largest_clients_top_up_the_smallest_where_no_draw_is_good_enough(clients):
    label = np.arange(120) % 2
    train, _, division = divide(
        labelled(label), scheme="dirichlet", clients=clients, alpha=1e-3, min_size=90 // clients
    )
    assert min(map(len, division.train)) == 90 // clients
    assert np.array_equal(np.sort(np.concatenate(division.train)), train)


def _all_of(label: np.ndarray) -> int:
    """The number of labels among the training rows that `divide` picks."""
    rows = np.random.default_rng(5).permutation(len(label))
    return len(np.unique(label[rows[int(0.25 * len(label)) :]]))


def test_test_rows_do_not_change_who_trains_on_what(toy):
    train, test = np.arange(90), np.arange(90, 120)
    for scheme in SCHEMES:
        config = PartitionConfig(scheme=scheme, clients=4, clusters=3, min_size=2, column="site")
        one = partition(toy, toy.image, train, test, config, 0)
        two = partition(toy, toy.image, train, test[:9], config, 0)
        assert all(map(np.array_equal, one.train, two.train))


@pytest.mark.parametrize("scheme", ["dirichlet", "pathological"])
def test_test_rows_follow_the_shares_of_the_training_rows(scheme):
    label = np.arange(8000) % 4
    _, _, division = divide(labelled(label), scheme=scheme, alpha=0.5)
    assert np.allclose(shares(label, division.train), shares(label, division.test), atol=0.01)


def test_small_alpha_is_skewed_and_large_alpha_is_even():
    label = np.arange(4000) % 4
    *_, skewed = divide(labelled(label), scheme="dirichlet", alpha=0.05)
    *_, even = divide(labelled(label), scheme="dirichlet", alpha=1e4)
    assert shares(label, skewed.train).max() > 0.8
    assert np.allclose(shares(label, even.train), 0.25, atol=0.03)


def test_a_label_with_one_row_goes_to_clients_by_their_shares():
    label = np.zeros(400, dtype=int)
    owners = []
    for single in range(40):
        alone = label.copy()
        alone[single] = 1
        train = np.arange(400)
        config = PartitionConfig(scheme="dirichlet", clients=4, alpha=1e4, min_size=0)
        division = partition(labelled(alone), np.empty(0), train, train[:0], config, seed=single)
        owners.append(next(c for c, rows in enumerate(division.train) if single in rows))
    assert len(set(owners)) == 4


def test_a_client_may_hold_nothing_where_the_guard_allows_it():
    label = np.zeros(30, dtype=int)
    _, _, division = divide(labelled(label), scheme="dirichlet", alpha=1e-3, min_size=0)
    assert sorted(map(len, division.train))[0] == 0


def test_unlabelled_rows_are_one_more_label():
    label = np.array([-1, 0] * 200)
    _, _, division = divide(labelled(label), scheme="pathological", clients=2, classes=1)
    assert {len(set(label[rows])) for rows in division.train} == {1}


def test_a_row_with_several_labels_counts_for_the_rarest():
    label = np.zeros((300, 3), dtype=bool)
    label[:, 0] = True
    label[:60, 1] = True
    label[290:] = False
    _, _, division = divide(labelled(label), scheme="pathological", clients=3, classes=1)
    sides = [{(tuple(label[row])) for row in rows} for rows in division.train]
    assert all(len(side) == 1 for side in sides)


def test_pathological_clients_have_few_labels_and_every_label_an_owner():
    label = np.arange(2000) % 10
    _, _, division = divide(labelled(label), scheme="pathological", clients=7, classes=2)
    assert all(len(set(label[rows])) == 2 for rows in division.train)
    assert len(set(label[np.concatenate(division.train)])) == 10


def test_column_values_are_the_clients(toy):
    _, _, division = divide(toy, scheme="column", column="site", clients=9, min_size=1000)
    site = toy.columns["site"]
    assert [set(site[rows]) for rows in division.train] == [{"north"}, {"south"}, {"west"}]
    assert [set(site[rows]) for rows in division.test] == [{"north"}, {"south"}, {"west"}]


def test_test_rows_of_a_value_without_training_rows_have_no_client(toy):
    site = np.array(["a"] * 100 + ["z"] * 20)
    pairs = replace(toy, columns={"site": site})
    config = PartitionConfig(scheme="column", column="site")
    division = partition(pairs, pairs.image, np.arange(80), np.arange(80, 120), config, 0)
    assert len(division.train) == 1 and np.array_equal(division.test[0], np.arange(80, 100))


def test_clusters_ignore_labels(toy):
    unlabelled = replace(toy, label=None, label_names=())
    for scheme in ("dirichlet-clusters", "lineage", "iid"):
        *_, one = divide(toy, scheme=scheme)
        *_, other = divide(unlabelled, scheme=scheme)
        assert all(map(np.array_equal, one.train, other.train))


def test_lineage_is_consistent_or_as_the_code(toy):
    *_, consistent = divide(toy, scheme="lineage", variant="consistent")
    *_, clusters = divide(toy, scheme="dirichlet-clusters")
    *_, code = divide(toy, scheme="lineage", variant="code")
    assert all(map(np.array_equal, consistent.train, code.train))
    assert all(map(np.array_equal, consistent.test, clusters.test))
    assert not all(map(np.array_equal, consistent.test, code.test))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"clients": 50},
            r"clients = 50 with partition\.min_size = 2 needs 100 .* the data has 90",
        ),
        ({"scheme": "column", "column": "city"}, r"'city' is not a column of toy; .*: site"),
        ({"scheme": "lineage", "clusters": 99}, r"partition\.clusters = 99 is more than the 90"),
        ({"scheme": "pathological", "classes": 5}, r"classes = 5 is more than the 4 labels"),
        ({"scheme": "pathological", "classes": 1, "clients": 3}, "some of the 4 labels to nobody"),
    ],
)
def test_what_cannot_be_divided_is_said(toy, keys, message):
    with pytest.raises(DataError, match=message):
        divide(toy, **keys)


def test_schemes_by_label_need_labels(toy):
    with pytest.raises(DataError, match="'dirichlet' needs labels and toy has none"):
        divide(replace(toy, label=None), scheme="dirichlet")


def test_columns_of_several_values_are_refused(toy):
    pairs = replace(toy, columns={"wide": np.array([["a", "b"]] * 120)})
    with pytest.raises(DataError, match=r"has shape \[120, 2\]; expected one value a pair"):
        divide(pairs, scheme="column", column="wide")


def test_a_long_tail_decays_geometrically_from_the_largest_label():
    label = np.repeat([2, 0, 1, -1], [100, 100, 100, 7])
    rows = long_tail(labelled(label), np.arange(len(label)), imbalance=100, seed=0)
    assert np.bincount(label[rows] + 1).tolist() == [7, 100, 10, 1]


def test_a_label_with_fewer_rows_than_its_place_in_the_tail_keeps_them_all():
    label = np.repeat([0, 1, 2], [64, 3, 30])
    rows = long_tail(labelled(label), np.arange(len(label)), imbalance=4, seed=0)
    assert np.bincount(label[rows]).tolist() == [64, 3, 30]
    rows = long_tail(labelled(label), np.arange(len(label)), imbalance=64, seed=0)
    assert np.bincount(label[rows]).tolist() == [64, 1, 8]


@settings(max_examples=60, deadline=None)
@given(
    label=st.lists(st.integers(-1, 4), min_size=1, max_size=80).map(np.array),
    imbalance=st.floats(1, 1e4),
    further=st.floats(1, 10),
    seed=st.integers(0, 99),
)
def test_a_longer_tail_takes_rows_away_and_no_label(label, imbalance, further, seed):
    pairs, train = labelled(label), np.arange(len(label))[::2]
    kept = long_tail(pairs, train, imbalance, seed)
    assert np.array_equal(np.unique(kept), kept) and np.isin(kept, train).all()
    assert np.array_equal(np.unique(label[kept]), np.unique(label[train]))
    assert np.isin(long_tail(pairs, train, imbalance * further, seed), kept).all()
    assert np.array_equal(long_tail(pairs, train, 1, seed), train)


def test_a_row_with_several_labels_is_of_the_rarest_in_the_tail():
    label = np.zeros((30, 2), dtype=bool)
    label[:, 0], label[:10, 1] = True, True
    rows = long_tail(labelled(label), np.arange(30), imbalance=10, seed=0)
    assert label[rows].sum(axis=0).tolist() == [22, 2]


def test_a_long_tail_needs_labels(toy):
    with pytest.raises(DataError, match=r"partition\.imbalance = 10 needs labels and toy has none"):
        long_tail(replace(toy, label=None), np.arange(10), 10, 0)

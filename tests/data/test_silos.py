import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsyn.data.sections import PartitionConfig
from fedsyn.data.silos import silo, single_modality
from fedsyn.errors import ConfigError

ROWS = np.arange(100, 300)
NOTHING = np.empty(0, dtype=np.int64)


def make(rows=ROWS, test=NOTHING, holdout=0.1, seed=0, client=0, **shares):
    return silo(rows, test, PartitionConfig(**shares), holdout, seed, client)


@given(
    size=st.integers(0, 60),
    image=st.floats(0, 0.33),
    text=st.floats(0, 0.33),
    unpaired=st.floats(0, 0.33),
    holdout=st.floats(0, 0.49),
)
def test_every_row_is_used_once_and_shares_hold(size, image, text, unpaired, holdout):
    rows = ROWS[:size]
    mine = make(rows, holdout=holdout, missing_image=image, missing_text=text, unpaired=unpaired)
    both = np.intersect1d(mine.images, mine.texts)
    no_image, no_text = np.setdiff1d(mine.texts, both), np.setdiff1d(mine.images, both)
    parts = [mine.pairs, mine.holdout, no_image, no_text, both]
    assert np.array_equal(np.sort(np.concatenate(parts)), rows)
    assert np.array_equal(mine.training, rows)
    left = size - len(mine.holdout)
    for part, share in zip((no_image, no_text, both), (image, text, unpaired), strict=True):
        assert abs(len(part) - share * left) <= 1
    for part in (mine.pairs, mine.holdout, mine.images, mine.texts, mine.test):
        assert part.dtype == np.int64 and np.array_equal(part, np.sort(part))


@pytest.mark.parametrize(
    ("size", "share", "held"),
    [(200, 0.1, 20), (10, 0.01, 1), (9, 0.4, 0), (200, 0.0, 0), (0, 0.1, 0)],
)
def test_the_holdout_is_a_share_and_at_least_one_of_ten(size, share, held):
    assert len(make(ROWS[:size], holdout=share).holdout) == held


def test_draws_belong_to_seed_and_client_not_to_the_order_of_rows():
    one = make()
    assert np.array_equal(make(rows=ROWS[::-1]).holdout, one.holdout)
    assert not np.array_equal(make(client=1).holdout, one.holdout)
    assert not np.array_equal(make(seed=1).holdout, one.holdout)


def test_overlays_leave_the_holdout_alone():
    assert np.array_equal(make(missing_image=0.5, unpaired=0.3).holdout, make().holdout)


def test_test_rows_are_kept_sorted():
    assert make(test=np.array([7, 3])).test.tolist() == [3, 7]


def test_shares_above_one_are_refused():
    with pytest.raises(ConfigError, match=r"missing_text \+ partition\.unpaired = 1\.2; expected"):
        make(missing_image=0.6, unpaired=0.6)


@given(st.integers(1, 23), st.floats(0, 0.99))
def test_a_share_of_the_clients_holds_one_modality_alone(clients, share):
    before = [make(ROWS[: 5 * (c + 1)], client=c, missing_text=0.2) for c in range(clients)]
    after = single_modality(before, share)
    alone = [c for c in range(clients) if after[c] is not before[c]]
    assert len(alone) == round(share * clients)
    for turn, client in enumerate(alone):
        one = after[client]
        kept, gone = (one.images, one.texts) if turn % 2 == 0 else (one.texts, one.images)
        assert len(gone) == len(one.pairs) == len(one.holdout) == 0
        lost = before[client].images if turn % 2 else NOTHING  # rows that had no text before
        assert np.array_equal(kept, np.setdiff1d(before[client].training, lost))
        assert kept.dtype == np.int64
        assert np.array_equal(one.test, before[client].test)


def test_clients_of_one_modality_are_spread_evenly():
    silos = [make(client=c) for c in range(10)]
    after = single_modality(silos, 0.5)
    assert [c for c in range(10) if len(after[c].texts)] == [3, 7]
    assert [c for c in range(10) if len(after[c].images)] == [1, 5, 9]
    assert single_modality(silos, 0.0) == tuple(silos)

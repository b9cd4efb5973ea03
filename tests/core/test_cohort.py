"""Clients that are computed together, in chunks."""

import numpy as np

from fedsyn.core.cohort import Cohort, Extra, chunks


def test_chunks_cover_the_cohort_in_order():
    cohort = Cohort((1, 4, 5, 9, 11), tuple(np.arange(k) for k in range(5)), 0, 1)
    pieces = chunks(cohort, 2)
    assert [piece.ids for piece in pieces] == [(1, 4), (5, 9), (11,)]
    assert pieces[1].sizes == [2, 3]


def test_every_chunk_has_the_extra_rows():
    extra = Extra(np.arange(7), 2)
    cohort = Cohort((1, 4), (np.arange(2), np.arange(3)), 0, 1, extra)
    assert all(piece.extra is extra for piece in chunks(cohort, 1))


def test_workers_have_equally_many_chunks_of_nearly_equal_size():
    cohort = Cohort(tuple(range(7)), tuple(np.arange(k) for k in range(7)), 0, 1)
    assert [piece.ids for piece in chunks(cohort, 2, workers=2)] == [
        (0, 1), (2, 3), (4, 5), (6,),
    ]  # fmt: skip
    assert [len(piece.ids) for piece in chunks(cohort, 8, workers=3)] == [3, 2, 2]
    assert [piece.ids for piece in chunks(cohort.take([5]), 8, workers=4)] == [(5,)]


def test_streams_are_the_clients_own_whatever_the_cohort():
    cohort = Cohort((3, 8), (np.arange(2), np.arange(5)), seed=4, round_number=6)
    together, alone = cohort.streams("x"), cohort.take([1]).streams("x")
    draws = [stream.initial_seed() for stream in (*together, *alone)]
    assert draws[1] == draws[2] != draws[0]
    assert cohort.streams("y")[1].initial_seed() != draws[1]
    later = Cohort((8,), (np.arange(5),), seed=4, round_number=7)
    assert later.streams("x")[0].initial_seed() != draws[1]

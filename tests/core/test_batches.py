"""Batches of a cohort: every row in its turn, padded, and extra rows behind."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsyn import streams
from fedsyn.core import batches


def generators(count):
    return [streams.generator(0, "test", 0, client) for client in range(count)]


class TestBatches:
    @settings(deadline=None)
    @given(
        st.lists(st.integers(0, 70), min_size=1, max_size=5), st.integers(2, 20), st.integers(1, 3)
    )
    def test_every_epoch_visits_every_row_once(self, sizes, batch, count):
        held = [np.arange(size) + 100 * client for client, size in enumerate(sizes)]
        plan = batches.epochs(held, batch, count, generators(len(sizes)))
        assert torch.equal(plan.steps, batches.steps(sizes, batch, count))
        for client, mine in enumerate(held):
            seen = plan.index[:, client][plan.valid[:, client]].tolist()
            expected = sorted(mine.tolist() * count) if len(mine) > 1 else []
            assert sorted(seen) == expected
            taken = plan.valid[:, client].any(-1)
            assert taken.sum() == plan.steps[client]
            assert not taken[plan.steps[client] :].any()

    def test_everything_is_padded_to_the_most_of_any(self):
        device = torch.device("cpu")
        index, valid = batches.everything([np.array([4, 7]), np.array([], int)], device)
        assert index.tolist() == [[4, 7], [0, 0]]
        assert valid.tolist() == [[True, True], [False, False]]
        assert batches.everything([np.array([], int)], device)[0].shape == (1, 1)

    @given(st.integers(2, 200))
    def test_batches_of_an_epoch_are_nearly_equal(self, size):
        plan = batches.epochs([np.arange(size)], 64, 1, generators(1))
        lengths = plan.valid.sum(-1)
        assert lengths.max() - lengths.min() <= 1


class TestJoinedBatches:
    EXTRA = np.arange(1000, 1012)

    @settings(deadline=None)
    @given(
        st.lists(st.integers(0, 40), min_size=1, max_size=4), st.integers(2, 9), st.integers(1, 12)
    )
    def test_every_batch_is_followed_by_as_many_unlike_extra_rows(self, sizes, batch, count):
        held = [np.arange(size) + 100 * client for client, size in enumerate(sizes)]
        plan = batches.epochs(held, batch, 2, generators(len(sizes)))
        joined = batches.join(plan, self.EXTRA, count, generators(len(sizes)))
        assert joined.steps is plan.steps
        for step in range(len(plan.index)):
            for client in range(len(sizes)):
                own = plan.index[step, client][plan.valid[step, client]].tolist()
                length = len(own) + count if own else 0
                expected = [position < length for position in range(batch + count)]
                assert joined.valid[step, client].tolist() == expected  # the leading ones
                row = joined.index[step, client].tolist()
                assert row[: len(own)] == own
                extra = row[len(own) : length]
                assert len(set(extra)) == len(extra) and set(extra) <= set(self.EXTRA.tolist())

    def test_all_extra_rows_are_drawn_at_times(self):
        plan = batches.epochs([np.arange(60)], 4, 2, generators(1))
        joined = batches.join(plan, self.EXTRA, 3, generators(1))
        assert set(joined.index[joined.index >= 1000].tolist()) == set(self.EXTRA.tolist())

    def test_a_client_draws_the_same_alone(self):
        held, streams_ = [np.arange(5), np.arange(17)], generators(2)
        together = batches.join(batches.epochs(held, 8, 1, streams_), self.EXTRA, 4, streams_)
        one = generators(2)[1:]
        alone = batches.join(batches.epochs(held[1:], 8, 1, one), self.EXTRA, 4, one)
        assert torch.equal(together.index[:, 1], alone.index[:, 0])

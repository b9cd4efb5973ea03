"""A share of the clients at random."""

from hypothesis import given
from hypothesis import strategies as st

from fedsyn.federation.selection.base import round_half_up, sampled


@given(st.integers(1, 200), st.floats(0.01, 1.0), st.integers(0, 5), st.integers(1, 9))
def test_sampling_takes_the_share_of_clients_in_order(clients, fraction, seed, round):
    ids = sampled(clients, fraction, seed, round)
    assert len(ids) == max(1, round_half_up(fraction * clients))
    assert list(ids) == sorted(set(ids))
    assert all(0 <= client < clients for client in ids)


def test_rounds_sample_different_clients():
    drawn = {sampled(50, 0.1, 0, round) for round in range(1, 20)}
    assert len(drawn) > 10

"""A stream belongs to its entity and to nothing else."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsyn import streams

entities = st.tuples(
    st.integers(0, 10**6),
    st.sampled_from(["a", "b", "a/1"]),
    st.integers(0, 100),
    st.integers(0, 100),
)


@given(entities, entities)
def test_distinct_entities_have_distinct_keys(one, other):
    assert (streams.key(*one) == streams.key(*other)) == (one == other)


def test_a_client_draws_the_same_alone_and_in_company():
    def draw(clients):
        return streams.normal([streams.generator(7, "noise", 3, c) for c in clients], 5)

    assert torch.equal(draw([0, 1, 2])[1], draw([1])[0])


def test_the_global_generator_plays_no_part():
    torch.manual_seed(0)
    before = torch.randn(3, generator=streams.generator(1, "x"))
    torch.manual_seed(1)
    assert torch.equal(before, torch.randn(3, generator=streams.generator(1, "x")))

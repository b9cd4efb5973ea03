"""Commitment to neighbours, feature by feature."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from fedsyn.methods.ccl.fused import neighbourhood


def draw(queries, features, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def unit(rows):
        x = torch.randn(2, rows, 3, generator=generator, dtype=torch.float64)
        return normalize(x, dim=-1)

    return unit(queries), unit(features), torch.rand(2, features, generator=generator) < 0.8


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 4), st.integers(2, 7), st.integers(1, 9), st.integers(0, 99))
def test_the_entropy_over_the_nearest_by_hand(queries, count, neighbours, seed):
    query, features, exist = draw(queries, count, seed)
    own = torch.arange(queries).expand(2, -1) % count
    own[1, 0] = -1  # a row that takes no part
    exist.scatter_(1, own.clamp(min=0), True)
    found = neighbourhood(query, features, exist, own, neighbours, scale=2.0)
    for client in range(2):
        entropies = []
        for i in range(queries):
            if own[client, i] < 0:
                continue
            others = [j for j in range(count) if exist[client, j] and j != own[client, i]]
            if not others:
                entropies.append(math.log(min(neighbours, count)))  # all are as far as can be
                continue
            s = sorted(
                (float(query[client, i] @ features[client, j]) for j in others), reverse=True
            )
            weight = [math.exp(2 * value) for value in s[:neighbours]]
            p = [one / sum(weight) for one in weight]
            entropies.append(-sum(one * math.log(one) for one in p))
        expected = sum(entropies) / max(len(entropies), 1)
        torch.testing.assert_close(found[client].item(), expected)


def test_a_query_is_drawn_to_its_nearest_neighbour():
    features = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.6, -0.8]]])
    query = normalize(torch.tensor([[[1.0, 0.3]]]), dim=-1).requires_grad_()
    own = torch.tensor([[2]])
    loss = neighbourhood(query, features, torch.ones(1, 3, dtype=torch.bool), own, 2, scale=5.0)
    (slope,) = torch.autograd.grad(loss.sum(), query)
    nearer = normalize(query - 0.1 * slope, dim=-1)
    assert (nearer[0, 0] @ features[0, 0]) > (query[0, 0] @ features[0, 0])


def test_gradients_are_finite_where_features_are_missing():
    query, features, _ = draw(2, 4)
    query.requires_grad_()
    few = torch.tensor([[True, False, False, False], [True, True, False, False]])
    own = torch.zeros(2, 2, dtype=torch.long)
    (slope,) = torch.autograd.grad(neighbourhood(query, features, few, own, 3, 2.0).sum(), query)
    assert slope.isfinite().all()

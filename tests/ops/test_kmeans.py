"""Batched k-means: what it finds, and that a client's clusters are its own affair."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from fedsyn import ops, streams


def generators(count, seed=0):
    return [streams.generator(seed, "test", 0, client) for client in range(count)]


def blobs(seed=0, per=20):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    return (centres[:, None] + torch.randn(3, per, 2, generator=generator)).flatten(0, 1)


def test_finds_separated_blobs():
    x = blobs()
    _, owner, counts = ops.kmeans(x[None], 3, generators(1))
    assert sorted(counts[0].tolist()) == [20, 20, 20]
    assert all(owner[0, 20 * b : 20 * b + 20].unique().numel() == 1 for b in range(3))


def test_is_no_worse_than_scikit_learn():
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(1))
    found = []
    for seed in range(8):
        centroids, owner, _ = ops.kmeans(x[None], 7, generators(1, seed), iterations=100)
        found.append((x - centroids[0, owner[0]]).square().sum().item())
    peer = [KMeans(7, n_init=1, random_state=s).fit(x.numpy()).inertia_ for s in range(8)]
    assert min(found) <= 1.02 * min(peer)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=4), st.integers(1, 6))
@example([0, 0, 24, 14], 4)  # a tie between two seeds that rounding used to break
def test_ragged_clients_cluster_as_if_alone(sizes, k):
    width = max(1, *sizes) if len(sizes) > 1 else max(1, sizes[0])
    x = torch.randn(len(sizes), width, 3, generator=torch.Generator().manual_seed(2))
    valid = torch.arange(width) < torch.tensor(sizes)[:, None]
    centroids, owner, counts = ops.kmeans(x, k, generators(len(sizes)), valid=valid)
    for client, size in enumerate(sizes):
        assert counts[client].sum() == size
        assert (owner[client, size:] == -1).all()
        if size:
            alone = ops.kmeans(x[client : client + 1, :size], k, [generators(4)[client]])
            torch.testing.assert_close(alone[0][0], centroids[client])
            assert torch.equal(alone[1][0], owner[client, :size])


def test_fewer_distinct_rows_than_clusters_gives_fewer_clusters():
    x = torch.tensor([[1.0, 0.0]] * 4 + [[0.0, 1.0]] * 2)
    _, _, counts = ops.kmeans(x[None], 5, generators(1))
    assert sorted(counts[0].tolist()) == [0, 0, 0, 2, 4]


def test_a_centroid_is_the_weighted_mean_of_its_rows():
    x = torch.tensor([[[0.0], [1.0]]])
    centroids, _, _ = ops.kmeans(x, 1, generators(1), weight=torch.tensor([[1.0, 3.0]]))
    assert centroids.item() == pytest.approx(0.75)


def test_spherical_centroids_are_unit_rows():
    centroids, _, _ = ops.kmeans(blobs()[None] + 1, 3, generators(1), spherical=True)
    torch.testing.assert_close(centroids.norm(dim=-1), torch.ones(1, 3))


@pytest.mark.parametrize(
    ("shape", "k", "streams_"), [((4, 2), 2, 1), ((1, 4, 2), 0, 1), ((2, 4, 2), 2, 1)]
)
def test_refuses_what_does_not_fit(shape, k, streams_):
    with pytest.raises(ValueError, match="kmeans: expected"):
        ops.kmeans(torch.zeros(shape), k, generators(streams_))

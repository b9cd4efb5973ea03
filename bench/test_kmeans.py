"""k-means on the CPU: many small clients, one large problem; faiss, scikit-learn, the reference.

Run with ``pytest bench/test_kmeans.py``; the first size once on one thread and once on as many as
PyTorch takes, faiss and scikit-learn on the same number. The peers loop over the clients and seed
as they do by default: faiss by random rows, scikit-learn by k-means++, greedy like ours. All end
with every row's cluster. The extra column ``inertia`` is the mean over the clients.
"""

from collections.abc import Callable

import numpy
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from threadpoolctl import threadpool_limits
from torch import Tensor

from fedsyn import streams
from fedsyn.ops import kmeans
from formulas import forced
from peers import faiss

ITERATIONS = 25
CLIENTS, SERVER = (100, 500, 128, 24), (1, 100_000, 128, 240)  # [clients, rows, width, k]
Size = tuple[int, int, int, int]


def ours(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    generators = [streams.generator(0, "bench", 0, client) for client in range(len(x))]
    return kmeans(x, k, generators, iterations=ITERATIONS)[:2]


def by_faiss(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    centroids, owners = [], []
    for rows in x.numpy():
        found = faiss().Kmeans(
            *(rows.shape[1], k),
            niter=ITERATIONS,
            seed=1,
            min_points_per_centroid=1,
            max_points_per_centroid=len(rows),  # no subsampling
        )
        found.train(rows)
        centroids.append(torch.from_numpy(found.centroids))
        owners.append(torch.from_numpy(found.index.search(rows, 1)[1][:, 0]))
    return torch.stack(centroids), torch.stack(owners)


def scikit_learn(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    from sklearn.cluster import KMeans

    found = []
    with threadpool_limits(torch.get_num_threads()):
        for rows in x.numpy():
            found.append(KMeans(k, n_init=1, max_iter=ITERATIONS, random_state=0).fit(rows))
    return (
        torch.from_numpy(numpy.stack([f.cluster_centers_ for f in found])),
        torch.from_numpy(numpy.stack([f.labels_ for f in found]).astype(numpy.int64)),
    )


CONTENDERS: dict[str, Callable[[Tensor, int], tuple[Tensor, Tensor]]] = {
    "kernel": forced("cpu", ours),
    "faiss": by_faiss,
    "scikit-learn": scikit_learn,
    "reference": forced("reference", ours),
}


def mixture(clients: int, rows: int, width: int, k: int) -> Tensor:
    """Overlapping clusters, about as many as are looked for."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(clients, k, width, generator=generator)
    index = torch.randint(0, k, (clients, rows, 1), generator=generator)
    return centres.take_along_dim(index, 1) + 2 * torch.randn(
        clients, rows, width, generator=generator
    )


def inertia(x: Tensor, centroids: Tensor, owners: Tensor) -> float:
    """Mean over the clients, in float64."""
    total = 0.0
    for rows, centres, owner in zip(x, centroids, owners, strict=True):
        total += (rows.double() - centres.double()[owner]).square().sum().item()
    return total / len(x)


@pytest.fixture(scope="module")
def data() -> dict[Size, Tensor]:
    return {size: mixture(*size) for size in (CLIENTS, SERVER)}


@pytest.fixture(scope="module")
def best() -> dict[Size, float]:
    """Inertia of the kernel by size, which the peers' must not be below by a hundredth."""
    return {}


@pytest.mark.parametrize(
    ("size", "threads"),
    [(CLIENTS, 1), (CLIENTS, None), (SERVER, None)],
    ids=["clients, one thread", "clients", "server"],
)
@pytest.mark.parametrize("name", CONTENDERS)
def test_cluster(
    benchmark: BenchmarkFixture,
    data: dict[Size, Tensor],
    best: dict[Size, float],
    name: str,
    size: Size,
    threads: int | None,
) -> None:
    if name == "reference" and size == SERVER:
        pytest.skip("the reference holds all distances, in float64")
    x, k = data[size], size[-1]
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        benchmark.group = f"kmeans {list(size)}, threads: {torch.get_num_threads()}"
        found = benchmark.pedantic(
            CONTENDERS[name], (x, k), rounds=5 if size == CLIENTS else 1, warmup_rounds=1
        )
    finally:
        torch.set_num_threads(before)
    benchmark.extra_info["inertia"] = reached = inertia(x, *found)
    assert reached >= 0.99 * best.setdefault(size, reached)

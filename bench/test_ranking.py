"""Rankings on the CPU: kernels, PyTorch in chunks, faiss.

Run with ``pytest bench/test_ranking.py``. One thread each; ``bench/retrieval.py`` takes all, for
many more queries and items. Every contender must find the kernel's ranking.
"""

from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.nn.functional import normalize

from fedsyn.ops import average_precision, pack_bits, top_k
from fedsyn.ops.ranking import rows_of
from formulas import forced
from sorting import sorted_average_precision

QUERIES, ITEMS, WIDTH, CLASSES, DEPTH = 500, 100_000, 64, 100, 50
CHUNK = 8  # queries of which PyTorch stores all scores: the fastest of 8 to 256
World = tuple[Tensor, Tensor, Tensor, Tensor]  # queries, their labels; items, their labels

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def world() -> World:
    """Queries and items about their classes' centres."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(CLASSES, WIDTH, generator=generator)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        label = torch.randint(CLASSES, (count,), generator=generator)
        noise = torch.randn(count, WIDTH, generator=generator)
        return normalize(centres[label] + 2 * noise, dim=-1), label

    return *draw(QUERIES), *draw(ITEMS)


# ---- Contenders ---------------------------------------------------------------------------------


def by_torch(query: Tensor, gallery: Tensor) -> tuple[Tensor, Tensor]:
    parts = ((rows @ gallery.T).topk(DEPTH) for rows in query.split(CHUNK))
    score, index = zip(*parts, strict=True)
    return torch.cat(score), torch.cat(index)


def faiss_of_this_many_threads() -> ModuleType:
    faiss: ModuleType = pytest.importorskip("faiss")
    faiss.omp_set_num_threads(torch.get_num_threads())
    return faiss


def by_faiss(query: Tensor, gallery: Tensor) -> tuple[Tensor, Tensor]:
    faiss = faiss_of_this_many_threads()
    index = faiss.IndexFlatIP(query.shape[1])
    index.add(gallery.numpy())
    score, item = map(torch.from_numpy, index.search(query.numpy(), DEPTH))
    return score, item


def codes_by_torch(query: Tensor, gallery: Tensor) -> tuple[Tensor, Tensor]:
    """By products of signs, which are width - 2 distances."""
    score, index = by_torch(rows_of(query), rows_of(gallery))
    return (score - WIDTH) / 2, index


def codes_by_faiss(query: Tensor, gallery: Tensor) -> tuple[Tensor, Tensor]:
    faiss = faiss_of_this_many_threads()
    index = faiss.IndexBinaryFlat(64 * query.shape[1])
    index.add(gallery.view(torch.uint8).numpy())
    distance, item = map(torch.from_numpy, index.search(query.view(torch.uint8).numpy(), DEPTH))
    return -distance.float(), item


NAMES = ["kernel", "eager", "faiss"]
best = forced("cpu", partial(top_k, k=DEPTH))
FLOATS = dict(zip(NAMES, [best, by_torch, by_faiss], strict=True))
CODES = dict(zip(NAMES, [best, codes_by_torch, codes_by_faiss], strict=True))
WHOLE = {"kernel": forced("cpu", average_precision), "sorting": sorted_average_precision}


def run(
    benchmark: BenchmarkFixture, name: str, call: Callable[..., object], operands: Sequence[Tensor]
) -> None:
    benchmark.pedantic(call, operands, rounds=10 if name == "kernel" else 3, warmup_rounds=0)


# ---- Benchmarks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_top_k(benchmark: BenchmarkFixture, name: str, world: World) -> None:
    query, _, gallery, _ = world
    benchmark.group = f"top_k [{QUERIES}, {ITEMS}, {WIDTH}], k={DEPTH}"
    found = FLOATS[name](query, gallery)[0]
    torch.testing.assert_close(found, FLOATS["kernel"](query, gallery)[0], rtol=0, atol=2e-6)
    run(benchmark, name, FLOATS[name], (query, gallery))


@pytest.mark.parametrize("name", NAMES)
def test_top_k_of_codes(benchmark: BenchmarkFixture, name: str, world: World) -> None:
    query, _, gallery, _ = world
    operands = pack_bits(query >= 0), pack_bits(gallery >= 0)
    benchmark.group = f"top_k [{QUERIES}, {ITEMS}], codes of {WIDTH} bits, k={DEPTH}"
    assert torch.equal(CODES[name](*operands)[0], CODES["kernel"](*operands)[0])
    run(benchmark, name, CODES[name], operands)


@pytest.mark.parametrize("name", WHOLE)
def test_average_precision(benchmark: BenchmarkFixture, name: str, world: World) -> None:
    query, query_label, gallery, gallery_label = world
    operands = query, gallery, query_label, gallery_label
    benchmark.group = f"average_precision [{QUERIES}, {ITEMS}, {WIDTH}]"
    found, expected = (call(*operands) for call in (WHOLE[name], WHOLE["kernel"]))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    run(benchmark, name, WHOLE[name], operands)

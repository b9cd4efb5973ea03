"""Rankings on the CPU: kernels, PyTorch in chunks, faiss.

Run with ``pytest bench/test_ranking.py``. One thread each; ``bench/retrieval.py`` takes all, for
many more queries and items. Every contender must find the kernel's ranking.
"""

from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from fedsyn.ops import average_precision, pack_bits, top_k
from fedsyn.ops.ranking import rows_of
from formulas import forced
from rankings import (
    WIDTH,
    World,
    by_faiss,
    by_torch,
    codes_by_faiss,
    sorted_average_precision,
    world,
)

QUERIES, ITEMS, DEPTH = 500, 100_000, 50
Ranked = Callable[..., tuple[Tensor, Tensor]]  # scores and items
CHUNK = 8  # queries of which PyTorch stores all scores: the fastest of 8 to 256

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def drawn() -> World:
    return world(torch.Generator().manual_seed(0), QUERIES, ITEMS)


# ---- Contenders ---------------------------------------------------------------------------------


def codes_by_torch(query: Tensor, gallery: Tensor) -> tuple[Tensor, Tensor]:
    """By products of signs, which are width - 2 distances."""
    score, index = by_torch(rows_of(query), rows_of(gallery), DEPTH, CHUNK)
    return (score - WIDTH) / 2, index


best = forced("cpu", partial(top_k, k=DEPTH))
FLOATS: dict[str, Ranked] = {
    "kernel": best,
    "eager": partial(by_torch, k=DEPTH, chunk=CHUNK),
    "faiss": partial(by_faiss, k=DEPTH),
}
CODES: dict[str, Ranked] = {
    "kernel": best,
    "eager": codes_by_torch,
    "faiss": partial(codes_by_faiss, k=DEPTH),
}
WHOLE = {"kernel": forced("cpu", average_precision), "sorting": sorted_average_precision}


def run(
    benchmark: BenchmarkFixture, name: str, call: Callable[..., object], operands: Sequence[Tensor]
) -> None:
    benchmark.pedantic(call, operands, rounds=10 if name == "kernel" else 3, warmup_rounds=0)


# ---- Benchmarks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FLOATS)
def test_top_k(benchmark: BenchmarkFixture, name: str, drawn: World) -> None:
    query, _, gallery, _ = drawn
    benchmark.group = f"top_k [{QUERIES}, {ITEMS}, {WIDTH}], k={DEPTH}"
    found = FLOATS[name](query, gallery)[0]
    torch.testing.assert_close(found, FLOATS["kernel"](query, gallery)[0], rtol=0, atol=2e-6)
    run(benchmark, name, FLOATS[name], (query, gallery))


@pytest.mark.parametrize("name", CODES)
def test_top_k_of_codes(benchmark: BenchmarkFixture, name: str, drawn: World) -> None:
    query, _, gallery, _ = drawn
    operands = pack_bits(query >= 0), pack_bits(gallery >= 0)
    benchmark.group = f"top_k [{QUERIES}, {ITEMS}], codes of {WIDTH} bits, k={DEPTH}"
    assert torch.equal(CODES[name](*operands)[0], CODES["kernel"](*operands)[0])
    run(benchmark, name, CODES[name], operands)


@pytest.mark.parametrize("name", WHOLE)
def test_average_precision(benchmark: BenchmarkFixture, name: str, drawn: World) -> None:
    query, query_label, gallery, gallery_label = drawn
    operands = query, gallery, query_label, gallery_label
    benchmark.group = f"average_precision [{QUERIES}, {ITEMS}, {WIDTH}]"
    found, expected = (call(*operands) for call in (WHOLE[name], WHOLE["kernel"]))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    run(benchmark, name, WHOLE[name], operands)

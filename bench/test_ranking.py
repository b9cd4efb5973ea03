"""Rankings on the CPU: kernels, PyTorch in chunks, faiss.

Run with ``pytest bench/test_ranking.py``. One thread each; ``bench/retrieval.py`` takes all, for
many more queries and items. Every contender must find the kernel's ranking.
"""

import pytest
import torch
from torch.nn.functional import normalize

from fedsyn.ops import average_precision, backend, backends, pack_bits, top_k
from fedsyn.ops.ranking import rows_of
from sorting import sorted_average_precision

QUERIES, ITEMS, WIDTH, CLASSES, DEPTH = 500, 100_000, 64, 100, 50
CHUNK = 8  # queries of which PyTorch stores all scores: the fastest of 8 to 256

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def world():
    """Queries and items about their classes' centres."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(CLASSES, WIDTH, generator=generator)

    def draw(count):
        label = torch.randint(CLASSES, (count,), generator=generator)
        noise = torch.randn(count, WIDTH, generator=generator)
        return normalize(centres[label] + 2 * noise, dim=-1), label

    return *draw(QUERIES), *draw(ITEMS)


# ---- Contenders ---------------------------------------------------------------------------------


def kernel(operator, *arguments):
    def call(*operands):
        with backend("cpu"):
            return operator(*operands, *arguments)

    return call


def by_torch(query, gallery):
    parts = ((rows @ gallery.T).topk(DEPTH) for rows in query.split(CHUNK))
    score, index = zip(*parts, strict=True)
    return torch.cat(score), torch.cat(index)


def faiss_of_this_many_threads():
    faiss = pytest.importorskip("faiss")
    faiss.omp_set_num_threads(torch.get_num_threads())
    return faiss


def by_faiss(query, gallery):
    faiss = faiss_of_this_many_threads()
    index = faiss.IndexFlatIP(query.shape[1])
    index.add(gallery.numpy())
    return tuple(map(torch.from_numpy, index.search(query.numpy(), DEPTH)))


def codes_by_torch(query, gallery):
    """By products of signs, which are width - 2 distances."""
    score, index = by_torch(rows_of(query), rows_of(gallery))
    return (score - WIDTH) / 2, index


def codes_by_faiss(query, gallery):
    faiss = faiss_of_this_many_threads()
    index = faiss.IndexBinaryFlat(64 * query.shape[1])
    index.add(gallery.view(torch.uint8).numpy())
    distance, item = map(torch.from_numpy, index.search(query.view(torch.uint8).numpy(), DEPTH))
    return -distance.float(), item


NAMES = ["kernel", "eager", "faiss"]
FLOATS = dict(zip(NAMES, [kernel(top_k, DEPTH), by_torch, by_faiss], strict=True))
CODES = dict(zip(NAMES, [kernel(top_k, DEPTH), codes_by_torch, codes_by_faiss], strict=True))
WHOLE = {"kernel": kernel(average_precision), "sorting": sorted_average_precision}


def run(benchmark, name, call, operands):
    if name == "kernel" and "cpu" not in backends():
        pytest.skip("the compiled module is absent")
    benchmark.pedantic(call, operands, rounds=10 if name == "kernel" else 3, warmup_rounds=0)


# ---- Benchmarks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_top_k(benchmark, name, world):
    query, _, gallery, _ = world
    benchmark.group = f"top_k [{QUERIES}, {ITEMS}, {WIDTH}], k={DEPTH}"
    found = FLOATS[name](query, gallery)[0]
    torch.testing.assert_close(found, FLOATS["kernel"](query, gallery)[0], rtol=0, atol=2e-6)
    run(benchmark, name, FLOATS[name], (query, gallery))


@pytest.mark.parametrize("name", NAMES)
def test_top_k_of_codes(benchmark, name, world):
    query, _, gallery, _ = world
    operands = pack_bits(query >= 0), pack_bits(gallery >= 0)
    benchmark.group = f"top_k [{QUERIES}, {ITEMS}], codes of {WIDTH} bits, k={DEPTH}"
    assert torch.equal(CODES[name](*operands)[0], CODES["kernel"](*operands)[0])
    run(benchmark, name, CODES[name], operands)


@pytest.mark.parametrize("name", WHOLE)
def test_average_precision(benchmark, name, world):
    query, query_label, gallery, gallery_label = world
    operands = query, gallery, query_label, gallery_label
    benchmark.group = f"average_precision [{QUERIES}, {ITEMS}, {WIDTH}]"
    found, expected = (call(*operands) for call in (WHOLE[name], WHOLE["kernel"]))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    run(benchmark, name, WHOLE[name], operands)

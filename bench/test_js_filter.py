"""Scores of the server's candidates on the CPU: kernels, PyTorch in chunks, torch.compile of it.

Run with ``pytest bench/test_js_filter.py``. One thread each, as in test_js_divergence.py. Every
contender gets through the rows in chunks that stay in the cache, so none stores what is of the size
of candidates times clients times prototypes. Divergences are checked against float64, and the least
ones must be the kernel's.
"""

from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.nn.functional import normalize

from fedsyn.ops import js_assign, js_filter, js_nearest
from fedsyn.ops.js_divergence import js_divergence_reference
from fedsyn.ops.js_filter import js_assign_reference, js_filter_reference
from fedsyn.ops.js_nearest import js_nearest_reference
from formulas import forced

CANDIDATES, CLIENTS, PROTOTYPES, WIDTH = 20_000, 50, 100, 64
SCALE = 20.0
CHECKED = 200
CHUNK = 500  # rows whose [rows, K] fit the cache
Call = Callable[..., Sequence[Tensor]]  # divergences first

# Clients of Dirichlet concentration over prototypes, and how alike their embeddings are: apart as
# the partitions of the benchmarks make them, or all but the same, where hardly any can be left out.
WORLDS = {"clients apart": (0.3, 1.0), "clients alike": (10.0, 0.05)}


pytestmark = pytest.mark.usefixtures("one_thread")


# ---- Contenders ---------------------------------------------------------------------------------


def scores(x: Tensor, y: Tensor, px: Tensor, py: Tensor) -> tuple[Tensor, Tensor]:
    """Divergence and assignment of a chunk."""
    a, b = SCALE * (x @ px.T), SCALE * (y @ py.T)
    return js_divergence_reference(a.softmax(-1), b.softmax(-1)), (a + b).argmax(-1)


def distances(p: Tensor, q: Tensor) -> Tensor:
    return js_divergence_reference(p[:, None], q)


def by_chunks(score: Call) -> Call:
    def assign(x: Tensor, y: Tensor, px: Tensor, py: Tensor) -> tuple[Tensor, Tensor]:
        pieces = zip(x.split(CHUNK), y.split(CHUNK), strict=True)
        divergence, assignment = zip(*(score(*piece, px, py) for piece in pieces), strict=True)
        return torch.cat(divergence), torch.cat(assignment)

    return assign


def over_clients(score: Call) -> Call:
    def of_chunk(x: Tensor, y: Tensor, px: Tensor, py: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        values, chosen = zip(*(score(x, y, *p) for p in zip(px, py, strict=True)), strict=True)
        least, client = torch.stack(values).min(0)
        return least, client, torch.stack(chosen).gather(0, client[None])[0]

    def filter_all(x: Tensor, y: Tensor, px: Tensor, py: Tensor) -> list[Tensor]:
        pieces = zip(x.split(CHUNK), y.split(CHUNK), strict=True)
        found = (of_chunk(*piece, px, py) for piece in pieces)
        return [torch.cat(parts) for parts in zip(*found, strict=True)]

    return filter_all


def nearest_by(distance: Callable[[Tensor, Tensor], Tensor]) -> Call:
    def nearest(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        rows = p.split(CHUNK // 50)  # [rows, C, K] fits the cache
        divergence, client = zip(*(distance(some, q).min(-1) for some in rows), strict=True)
        return torch.cat(divergence), torch.cat(client)

    return nearest


compiled_scores = torch.compile(scores, dynamic=False)
compiled_distances = torch.compile(distances, dynamic=False)
NAMES = ["kernel", "eager", "torch.compile"]
ASSIGN = [
    forced("cpu", partial(js_assign, scale=SCALE)),
    by_chunks(scores),
    by_chunks(compiled_scores),
]
FILTER = [
    forced("cpu", partial(js_filter, scale=SCALE)),
    over_clients(scores),
    over_clients(compiled_scores),
]
NEAREST = [forced("cpu", js_nearest), nearest_by(distances), nearest_by(compiled_distances)]


# ---- Operands -----------------------------------------------------------------------------------


def draw(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator)


def candidates(apart: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Clients with prototypes about ten of forty concepts each, and candidates about a concept."""
    generator = torch.Generator().manual_seed(0)
    concepts = draw(generator, 40, WIDTH)
    own = torch.stack([torch.randperm(40, generator=generator)[:10] for _ in range(CLIENTS)])
    if apart < 1:
        own = own[:1].expand(CLIENTS, 10)
    centres = concepts[own].repeat(1, PROTOTYPES // 10, 1)
    common = 0.5 * draw(generator, PROTOTYPES, WIDTH)
    px = normalize(centres + common + 0.5 * apart * draw(generator, *centres.shape), dim=-1)
    py = normalize(px + 0.05 * apart * draw(generator, *px.shape), dim=-1)
    about = concepts[torch.randint(40, (CANDIDATES,), generator=generator)]
    x = normalize(about + 0.5 * draw(generator, *about.shape), dim=-1)
    y = normalize(x + 0.1 * draw(generator, *x.shape), dim=-1)
    return x, y, px, py


def distributions(concentration: float) -> tuple[Tensor, Tensor]:
    """Clients drawn from a Dirichlet distribution, and candidates about one of them each."""
    torch.manual_seed(0)
    clients = torch.distributions.Dirichlet(torch.full((PROTOTYPES,), concentration))
    q = clients.sample((CLIENTS,))
    about = (30 * q[torch.randint(CLIENTS, (CANDIDATES,))]).clamp_min(1e-3)
    return torch.distributions.Dirichlet(about).sample(), q


def run(
    benchmark: BenchmarkFixture,
    name: str,
    calls: Sequence[Call],
    operands: Sequence[Tensor],
    checked: Callable[[Sequence[Tensor]], None],
) -> None:
    call = calls[NAMES.index(name)]
    checked(call(*operands))
    benchmark.pedantic(call, operands, rounds=20 if name == "kernel" else 5, warmup_rounds=1)


# ---- Benchmarks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("rows", "k", "width"), [(100_000, 240, 128)], ids=str)
def test_assign(benchmark: BenchmarkFixture, name: str, rows: int, k: int, width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    operands = [
        normalize(draw(generator, *shape), dim=-1)
        for shape in 2 * [(rows, width)] + 2 * [(k, width)]
    ]
    benchmark.group = f"js_assign [{rows}, {k}, {width}]"

    def checked(found: Sequence[Tensor]) -> None:
        x, y, px, py = (t.double() for t in operands)
        expected, assignment = js_assign_reference(x[:CHECKED], y[:CHECKED], px, py, SCALE)
        torch.testing.assert_close(found[0][:CHECKED].double(), expected, rtol=0, atol=2e-6)
        assert torch.equal(found[1][:CHECKED], assignment)

    run(benchmark, name, ASSIGN, operands, checked)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("world", WORLDS)
def test_filter(benchmark: BenchmarkFixture, name: str, world: str) -> None:
    operands = candidates(WORLDS[world][1])
    benchmark.group = f"js_filter [{CANDIDATES}, {CLIENTS}, {PROTOTYPES}, {WIDTH}], {world}"

    def checked(found: Sequence[Tensor]) -> None:
        x, y, px, py = (t.double() for t in operands)
        expected = js_filter_reference(x[:CHECKED], y[:CHECKED], px, py, SCALE)
        torch.testing.assert_close(found[0][:CHECKED].double(), expected[0], rtol=0, atol=2e-6)
        torch.testing.assert_close(found[0], FILTER[0](*operands)[0], rtol=0, atol=3e-6)

    run(benchmark, name, FILTER, operands, checked)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("world", WORLDS)
def test_nearest(benchmark: BenchmarkFixture, name: str, world: str) -> None:
    operands = distributions(WORLDS[world][0])
    benchmark.group = f"js_nearest [{CANDIDATES}, {CLIENTS}, {PROTOTYPES}], {world}"

    def checked(found: Sequence[Tensor]) -> None:
        p, q = (t.double() for t in operands)
        expected, _ = js_nearest_reference(p[:CHECKED], q)
        torch.testing.assert_close(found[0][:CHECKED].double(), expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(found[0], NEAREST[0](*operands)[0], rtol=0, atol=1e-6)

    run(benchmark, name, NEAREST, operands, checked)

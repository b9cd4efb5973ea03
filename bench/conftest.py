"""What all benchmarks share: peak memory beside times, and a file of results."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

import results
from fedsyn.ops import backends
from machine import facts
from memory import peak_mib
from results import ABOUT, Row

ROWS = pytest.StashKey[list[Row]]()
STATISTICS = ("min", "median", "mean", "stddev", "rounds")
PATIENCE = 3600  # seconds for one benchmark: the largest are slower than any test may be


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--results", type=Path, help="the result file to write, a line a benchmark")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(PATIENCE))


def pytest_sessionfinish(session: pytest.Session) -> None:
    path, rows = session.config.getoption("results"), session.config.stash[ROWS]
    if path is not None and rows:
        results.write(path, {ABOUT: [facts()], "row": rows})


@pytest.fixture
def one_thread() -> Iterator[None]:
    """What a core does, which the other tenants of a machine disturb least."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def present(request: pytest.FixtureRequest) -> None:
    """Skip a contender that is not here: the compiled kernel, or faiss."""
    case = getattr(request.node, "callspec", None)
    name = "" if case is None else case.params.get("name", "")
    if name.startswith("kernel") and "cpu" not in backends():
        pytest.skip("the compiled module is absent")
    if name == "faiss":
        pytest.importorskip("faiss")


@pytest.fixture
def benchmark(
    benchmark: BenchmarkFixture, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[BenchmarkFixture]:
    """pytest-benchmark's, whose ``pedantic`` also records the peak memory of one call."""
    timed = benchmark.pedantic

    def pedantic(target: Callable[..., Any], args: tuple[Any, ...] = (), **options: Any) -> Any:
        call = functools.partial(target, *args)
        call()  # compiles, allocates and fills caches as a first call does
        benchmark.extra_info["peak_mib"] = round(peak_mib(call), 1)
        return timed(target, args, **options)

    monkeypatch.setattr(benchmark, "pedantic", pedantic)
    yield benchmark
    if benchmark.stats is not None:
        request.config.stash[ROWS].append(row_of(benchmark, benchmark.stats.stats))


def row_of(benchmark: BenchmarkFixture, found: Any) -> Row:
    """What a benchmark has measured; the tests of a group are contenders."""
    params = {
        name: value if isinstance(value, int | float | str | tuple | None) else str(value)
        for name, value in (benchmark.params or {}).items()
    }
    return {
        "group": benchmark.group,
        "name": benchmark.fullname.removeprefix("bench/"),
        "params": params,
        **{name: getattr(found, name) for name in STATISTICS},
        "extra_info": benchmark.extra_info,
    }

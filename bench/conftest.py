"""What all benchmarks share: peak memory beside times, and heads that say where it was measured."""

import functools

import pytest
import torch

from machine import facts
from memory import peak_mib


@pytest.fixture
def one_thread():
    """What a core does, which the other tenants of a machine disturb least."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def benchmark(benchmark):
    """pytest-benchmark's, whose ``pedantic`` also records the peak memory of one call."""
    timed = benchmark.pedantic

    def pedantic(target, args=(), **options):
        call = functools.partial(target, *args)
        call()  # compiles, allocates and fills caches as a first call does
        benchmark.extra_info["peak_mib"] = round(peak_mib(call), 1)
        return timed(target, args, **options)

    benchmark.pedantic = pedantic
    return benchmark


def pytest_benchmark_update_json(config, benchmarks, output_json):
    """Put our facts in the place of pytest-benchmark's machine and commit records, no raw times."""
    for key in ("machine_info", "commit_info"):
        del output_json[key]
    output_json.update(facts())
    for record in output_json["benchmarks"]:
        record["stats"].pop("data", None)

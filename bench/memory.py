"""What one call costs: peak memory, and seconds."""

import ctypes
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def peak_mib(call: Callable[[], object]) -> float:
    """By how many MiB the process's resident memory rose above its level at most during ``call``.

    Linux only: the kernel's high-water mark is reset before. Memory that the allocator kept from
    earlier calls is given back first, so that it does not hide any.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    result = call()
    peak = _status("VmHWM")
    del result
    return (peak - before) / 1024


def cost(call: Callable[[], T]) -> tuple[T, dict[str, float]]:
    """What a call gives, and its ``seconds`` and ``peak_mib``."""
    given: list[T] = []
    spent: dict[str, float] = {}

    def timed() -> None:
        start = time.perf_counter()
        given.append(call())
        spent["seconds"] = round(time.perf_counter() - start, 3)

    spent["peak_mib"] = round(peak_mib(timed), 1)
    return given[0], spent


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))

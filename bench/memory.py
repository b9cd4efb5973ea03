"""Peak memory of one call."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path


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


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))

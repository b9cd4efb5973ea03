"""Chunks of clients, one after another or spread over threads or devices."""

import ctypes
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Protocol

import torch
import torch.multiprocessing

from fedsyn import ops
from fedsyn.errors import ConfigError
from fedsyn.federation.client import Answer, Assignment, Plan, answer
from fedsyn.federation.config import Config
from fedsyn.federation.federation import plan_of
from fedsyn.profiling import account, announce, phase, stopwatch

HOST = torch.device("cpu")
WAITING = 2  # chunks that a worker has been given: one in work, one next

# An answer, and the seconds of each phase behind it.
Timed = tuple[Answer, dict[str, float]]


class Devices(Protocol):
    """Where clients are computed."""

    @property
    def device(self) -> torch.device:
        """Where assignments are to lie."""

    @property
    def workers(self) -> int:
        """How many assignments are in work at a time."""

    def answers(self, work: Iterable[Assignment]) -> Iterator[Answer]:
        """The answers, in the order of the assignments, taken as they can be worked on."""


class Inline:
    """One chunk after another, on the server's device and in its thread."""

    workers = 1

    def __init__(self, plan: Plan, device: torch.device) -> None:
        self._plan, self.device = plan, device

    def answers(self, work: Iterable[Assignment]) -> Iterator[Answer]:
        """Each when it is asked for."""
        for one in work:
            yield answer(self._plan, one)


class Pools:
    """Chunks given to pools in turn: threads of this process, or one process a device."""

    def __init__(
        self,
        pools: Sequence[Executor],
        workers: int,  # of all pools together
        device: torch.device,
        work: Callable[[Assignment], Timed],
    ) -> None:
        self._pools, self.workers, self._work, self.device = pools, workers, work, device

    def answers(self, work: Iterable[Assignment]) -> Iterator[Answer]:
        """Workers have an assignment in work and one that waits; answers wait for their turn."""
        given: deque[Future[Timed]] = deque()
        for turn, one in enumerate(work):
            if len(given) == WAITING * self.workers:
                yield self._received(given.popleft())
            pool = self._pools[turn % len(self._pools)]
            given.append(pool.submit(self._work, one))
        while given:
            yield self._received(given.popleft())

    def _received(self, future: Future[Timed]) -> Answer:
        announce("clients")
        found, seconds = future.result()
        account({name: value / self.workers for name, value in seconds.items()})
        return found


@contextmanager
def devices(
    config: Config, found: Sequence[torch.device], inline: bool = False
) -> Iterator[Devices]:
    """The devices ``found``, as long as the ``with`` statement lasts.

    ``inline`` keeps the work on one device in the calling thread, where a profiler sees it.

    Clients on a processor are spread over its threads, a chunk each: torch's own threads would
    share out the small products inside a chunk, and wait for each other more than they work.
    """
    threads = cpu_threads(config)
    if len(found) > 1:
        each = max(1, threads // len(found))
        context = torch.multiprocessing.get_context("spawn")
        pools = [ProcessPoolExecutor(1, context, _begin, (config, str(one), each)) for one in found]
        yield from _closing(pools, Pools(pools, len(found), HOST, _work_there))
    elif found[0].type == "cpu" and threads > 1 and not inline:
        pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        yield from _closing(
            [pool], Pools([pool], threads, HOST, partial(_work_here, plan_of(config)))
        )
    else:
        yield Inline(plan_of(config), found[0])


def _closing(pools: Sequence[Executor], there: Devices) -> Iterator[Devices]:
    try:
        yield there
    finally:
        for pool in pools:
            pool.shutdown(cancel_futures=True)


@contextmanager
def settings(config: Config, threads: int) -> Iterator[None]:
    """What holds for a whole process while it computes: memory, threads, precision of products.

    The kernels get the threads and torch one, whose own make small products slower. Products of
    float32 are those, whatever the process had set before, unless ``run.tf32`` says otherwise.
    """
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    _reuse_memory()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high" if config.run.tf32 else "highest")
    try:
        with ops.threads(threads):
            yield
    finally:
        torch.set_num_threads(before[0])
        torch.set_float32_matmul_precision(before[1])


def _reuse_memory() -> None:
    """Let glibc reuse what is freed: from one heap for all threads, and before the system has it.

    A step frees what the next one allocates, a few megabytes each. Given back in between, they come
    anew page by page, which takes as long as the products. And what one thread allocates another
    frees: heaps of their own would grow by that, by half of all memory for a thousand clients.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        trim_threshold, mmap_threshold, arena_max = -1, -3, -8  # of malloc.h
        mallopt(trim_threshold, 128 << 20)
        mallopt(mmap_threshold, 32 << 20)
        mallopt(arena_max, 1)


def cpu_threads(config: Config) -> int:
    """How many CPU threads a run uses."""
    if config.engine.threads:
        return config.engine.threads
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _work_here(plan: Plan, work: Assignment) -> Timed:
    watch = stopwatch(HOST)
    with watch.running(), ops.threads(1):
        found = answer(plan, work)
    return found, watch.lap()


# ---- In a device's process -----------------------------------------------------------------------

_there: tuple[Config, Plan, torch.device, int] | None = None


def _begin(config: Config, device: str, threads: int) -> None:
    global _there
    # (The plan is made here: functions of a configuration's plug-ins need not travel.)
    _there = config, plan_of(config), torch.device(device), threads
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent sees to it


def _work_there(work: Assignment) -> Timed:
    if _there is None:
        raise RuntimeError("a device's process was given work before it began")
    config, plan, device, threads = _there
    watch = stopwatch(device)
    with watch.running(), settings(config, threads):
        with phase("gather"):
            work = work.to(device)
        found = answer(plan, work)
        with phase("upload"):
            found = found.to(HOST)
    return found, watch.lap()


def available(names: Sequence[str]) -> list[torch.device]:
    """The devices that ``engine.devices`` names.

    Raises
    ------
    ConfigError
        If one of them is not here.
    """
    found = []
    for name in names:
        if name == "auto":
            found.append(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
            continue
        try:
            found.append(torch.device(name))
            torch.empty(1, device=found[-1])
        except (RuntimeError, AssertionError, NotImplementedError):
            raise ConfigError(
                f"engine.devices has {name!r}, which is not valid: there is no such device here"
            ) from None
    return found

"""Chunks of clients on one device, or spread over several: one process each."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Protocol

import torch
import torch.multiprocessing

from fedsyn.config import Config
from fedsyn.engine.client import Reply, Task, answer
from fedsyn.errors import ConfigError
from fedsyn.methods import METHODS
from fedsyn.metrics.timing import account, phase, stopwatch

HOST = torch.device("cpu")
WAITING = 2  # chunks that a device has been given: one in work, one next


class Devices(Protocol):
    """Where clients are computed."""

    @property
    def device(self) -> torch.device:
        """Where tasks are to lie."""

    def answers(self, tasks: Iterable[Task]) -> Iterator[Reply]:
        """The replies, in the order of the tasks, which are taken as they can be worked on."""


class OneDevice:
    """The one that the server is on, in its process."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self._config, self.device = config, device

    def answers(self, tasks: Iterable[Task]) -> Iterator[Reply]:
        """One after another."""
        for task in tasks:
            yield answer(self._config, METHODS[self._config.method.name], task)


class SeveralDevices:
    """A process for each device; tensors go to and fro through shared memory."""

    device = HOST

    def __init__(self, config: Config, pools: list[ProcessPoolExecutor]) -> None:
        self._config, self._pools = config, pools

    def answers(self, tasks: Iterable[Task]) -> Iterator[Reply]:
        """Every device gets the next task when it is done with one; replies wait for their turn."""
        given: deque[Future[tuple[Reply, dict[str, float]]]] = deque()
        for turn, task in enumerate(tasks):
            if len(given) == WAITING * len(self._pools):
                yield self._received(given.popleft())
            pool = self._pools[turn % len(self._pools)]
            given.append(pool.submit(_work, self._config, task.to(HOST)))
        while given:
            yield self._received(given.popleft())

    def _received(self, future: Future[tuple[Reply, dict[str, float]]]) -> Reply:
        reply, seconds = future.result()
        account({name: value / len(self._pools) for name, value in seconds.items()})
        return reply


@contextmanager
def devices(config: Config, found: Sequence[torch.device]) -> Iterator[Devices]:
    """The devices ``found``, as long as the ``with`` statement lasts."""
    if len(found) == 1:
        yield OneDevice(config, found[0])
        return
    threads = config.engine.threads or max(1, (os.cpu_count() or 1) // len(found))
    context = torch.multiprocessing.get_context("spawn")
    pools = [ProcessPoolExecutor(1, context, _begin, (str(one), threads)) for one in found]
    try:
        yield SeveralDevices(config, pools)
    finally:
        for pool in pools:
            pool.shutdown(cancel_futures=True)


# ---- In a device's process ---------------------------------------------------------------------

_device = HOST


def _begin(device: str, threads: int) -> None:
    global _device
    _device = torch.device(device)
    torch.set_num_threads(threads)


def _work(config: Config, task: Task) -> tuple[Reply, dict[str, float]]:
    watch = stopwatch(_device)
    with watch.running():
        with phase("gather"):
            task = task.to(_device)
        reply = answer(config, METHODS[config.method.name], task)
        with phase("upload"):
            reply = reply.to(HOST)
    return reply, watch.lap()


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

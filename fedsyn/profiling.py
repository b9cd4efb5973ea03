"""Where the time goes: seconds per named phase, and the same names in profilers.

Code names what it does, ``with phase("local"): ...``, and costs nothing where nobody measures.
Whoever wants to know runs it under a stopwatch: ``with stopwatch.running(): ...``.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Protocol

import torch

# Of a round, as one follows from another.
PHASES = (
    "start", "gather", "local", "prototypes", "critic", "generator", "upload", "aggregate",
    "sample", "filter", "fine-tune", "line search", "evaluate", "checkpoint",
)  # fmt: skip


class Clock(Protocol):
    """Takes marks, and tells the time between two of them."""

    def now(self) -> Any:
        """A mark of the present moment."""

    def seconds(self, begin: Any, end: Any) -> float:
        """The time from one mark to another."""


class HostClock:
    """A clock of the processor's time."""

    def now(self) -> float:
        """Seconds since some moment."""
        return time.perf_counter()

    def seconds(self, begin: float, end: float) -> float:
        """The seconds between two marks."""
        return end - begin


class DeviceClock:
    """A GPU's clock: marks are events in its queue, so that nobody waits until times are read."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def now(self) -> torch.cuda.Event:
        """An event recorded behind the work queued so far."""
        with torch.cuda.device(self._device):
            event = torch.cuda.Event(enable_timing=True)
            event.record()
        return event

    def seconds(self, begin: torch.cuda.Event, end: torch.cuda.Event) -> float:
        """Waits for the second event."""
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1e-3


class Stopwatch:
    """Adds up the seconds spent in named phases.

    A phase may be entered any number of times. A phase inside another takes its time from it, so
    the phases add up. Time passes also where a phase raises.

    Parameters
    ----------
    clock : Clock, optional
        The processor's by default.
    ranges : sequence of callables
        Give a context manager for the name of a phase: ``torch.cuda.nvtx.range``,
        ``torch.profiler.record_function``.
    entered : callable
        Told the name of every phase that is entered from outside any other.
    """

    def __init__(
        self,
        clock: Clock | None = None,
        ranges: Sequence[Callable[[str], AbstractContextManager[Any]]] = (),
        entered: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._clock: Clock = clock or HostClock()
        self._ranges, self.entered = ranges, entered
        self._open: list[str] = []
        self._since: Any = None
        self._names: dict[str, None] = {}
        self._spans: list[tuple[str, Any, Any]] = []
        self._elsewhere: list[Mapping[str, float]] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time the body of a ``with`` statement as part of the phase ``name``."""
        if not self._open:
            self.entered(name)
        self._mark()
        self._open.append(name)
        self._names[name] = None
        try:
            with ExitStack() as stack:
                for label in self._ranges:
                    stack.enter_context(label(name))
                yield
        finally:
            self._mark()
            self._open.pop()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let every `phase` in the body of a ``with`` statement be timed here."""
        token = _running.set(self)
        try:
            yield
        finally:
            _running.reset(token)

    def lap(self) -> dict[str, float]:
        """Seconds of each phase since the last lap, in the order of `PHASES`; others come last."""
        seconds = dict.fromkeys(self._names, 0.0)
        for name, begin, end in self._spans:
            seconds[name] += self._clock.seconds(begin, end)
        for spent in self._elsewhere:
            for name, value in spent.items():
                seconds[name] = seconds.get(name, 0.0) + value
        self._names, self._spans, self._elsewhere = dict.fromkeys(self._open), [], []
        places = {name: place for place, name in enumerate(PHASES)}
        return dict(sorted(seconds.items(), key=lambda item: places.get(item[0], len(places))))

    def add(self, seconds: Mapping[str, float]) -> None:
        """Count what phases took in another process."""
        self._elsewhere.append(seconds)

    def _mark(self) -> None:
        now = self._clock.now()
        if self._open:
            self._spans.append((self._open[-1], self._since, now))
        self._since = now


_running: ContextVar[Stopwatch | None] = ContextVar("fedsyn_stopwatch", default=None)


def phase(name: str) -> AbstractContextManager[None]:
    """Time the body of a ``with`` statement, if a stopwatch is running, as the phase ``name``."""
    watch = _running.get()
    return nullcontext() if watch is None else watch(name)


def announce(name: str) -> None:
    """Tell who watches the running stopwatch, if any, what is waited for; without timing it."""
    watch = _running.get()
    if watch is not None:
        watch.entered(name)


def account(seconds: Mapping[str, float]) -> None:
    """Count what phases took in another process, if a stopwatch is running."""
    watch = _running.get()
    if watch is not None:
        watch.add(seconds)


def stopwatch(
    device: torch.device,
    *,
    profiled: bool = False,
    entered: Callable[[str], None] = lambda name: None,
) -> Stopwatch:
    """A stopwatch for work on ``device``, whose phases Nsight Systems shows on a GPU.

    Parameters
    ----------
    device : torch.device
    profiled : bool
        Whether a ``torch.profiler`` is to see the phases too.
    entered : callable
        As `Stopwatch` takes it.
    """
    cuda = device.type == "cuda"
    ranges: list[Callable[[str], AbstractContextManager[Any]]] = []
    if cuda:
        ranges.append(torch.cuda.nvtx.range)
    if profiled:
        ranges.append(torch.profiler.record_function)
    return Stopwatch(DeviceClock(device) if cuda else HostClock(), ranges, entered)

"""Where the time goes: seconds per named phase."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up the seconds spent in named phases.

    ``with watch("local"): ...`` times a phase, as often as it is entered; ``watch.lap()`` reads and
    resets. A phase inside another counts in both. Time passes also where a phase raises.

    Parameters
    ----------
    clock : callable
        Returns seconds. Where work is asynchronous, one that first waits for the device makes the
        phases honest.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Time the body of a ``with`` statement as part of ``phase``."""
        start = self._clock()
        try:
            yield
        finally:
            self._seconds[phase] = self._seconds.get(phase, 0.0) + self._clock() - start

    def lap(self) -> dict[str, float]:
        """Seconds of each phase since the last lap, in the order they were first entered."""
        seconds, self._seconds = self._seconds, {}
        return seconds

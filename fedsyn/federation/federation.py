"""What stays the same in every round of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from fedsyn import streams, tasks
from fedsyn.config import Config
from fedsyn.data.federated import FederatedData, Silo
from fedsyn.errors import ConfigError
from fedsyn.methods import METHODS
from fedsyn.methods.base import Method, Problem
from fedsyn.methods.contribution import normalised
from fedsyn.profiling import phase

STACK_CPU, STACK_GPU = 8, 128  # of engine.stack = 0; measured on the former, not on the latter


@dataclass(frozen=True)
class Federation:
    """The clients, what they train, and how."""

    config: Config
    data: FederatedData
    method: Method[Any]
    problem: Problem  # its features wherever they are held, see `near`
    silos: tuple[Silo, ...]  # one where the method pools all clients
    device: torch.device  # of the server

    @property
    def stack(self) -> int:
        """Most clients in one stacked computation."""
        automatic = STACK_GPU if self.device.type == "cuda" else STACK_CPU
        return self.config.engine.stack or automatic

    @property
    def panel(self) -> tuple[int, ...]:
        """The clients that judge models: the same in every round, as many as one samples."""
        run = self.config.run
        return sampled(len(self.silos), run.fraction, run.seed, 0)

    def rows(self, client: int) -> np.ndarray:
        """The rows that a client trains on, ascending."""
        silo = self.silos[client]
        if self.method.rows is not None:
            return self.method.rows(self.problem, silo)
        return self.problem.rows(silo)

    def near(
        self, rows: Sequence[np.ndarray], device: torch.device | None = None
    ) -> tuple[Problem, tuple[np.ndarray, ...]]:
        """The problem where it can be computed on, and the row numbers that ``rows`` have there.

        Features that lie in memory, on the device asked for (by default the server's), are not
        touched; of others these rows are copied.
        """
        problem, device = self.problem, device or self.device
        if self.data.mapped is None and problem.features.device == device:
            return problem, tuple(rows)
        with phase("gather"):
            wanted = torch.cat([torch.from_numpy(np.concatenate(rows)), problem.public])
            copied = problem.take(wanted).to(device)
            if self.data.mapped is not None:
                self.data.mapped.release()
        bounds = np.cumsum([0, *map(len, rows)])
        places = tuple(np.arange(begin, end) for begin, end in pairwise(bounds))
        return replace(copied, public=torch.arange(int(bounds[-1]), len(wanted))), places


def federation(
    config: Config, data: FederatedData, device: torch.device, on_host: bool = False
) -> Federation:
    """Task and method as configured, for a server on ``device``.

    Features are moved there, unless they are mapped from a file or to stay ``on_host``, where
    clients on other devices get theirs from.

    Raises
    ------
    ConfigError
        If the method cannot learn the task.
    """
    method = method_of(config)
    stay = on_host or data.mapped is not None
    problem = tasks.build(config, data, data.features if stay else data.features.to(device))
    silos = (_pool(data.silos),) if method.pooled else data.silos
    return Federation(config, data, method, problem, silos, device)


def method_of(config: Config) -> Method[Any]:
    """The method as configured.

    Raises
    ------
    ConfigError
        If it cannot learn the task, or its clients cannot be chosen as the run asks for.
    """
    method = METHODS[config.method.name]
    if config.method.weighting == "contribution":
        if not method.sends_model:
            raise ConfigError(
                "method.weighting = 'contribution' compares clients by the model that they "
                f"receive; those of method.name = {config.method.name!r} receive none"
            )
        method = normalised(method)
    if method.tasks is not None and config.task.name not in method.tasks:
        raise ConfigError(
            f"method.name = {config.method.name!r} cannot learn task.name = {config.task.name!r}; "
            f"expected one of {', '.join(map(repr, method.tasks))}"
        )
    if config.run.selection == "flash" and not method.sends_model:
        raise ConfigError(
            "run.selection = 'flash' rests on clients' held-out rows; clients of "
            f"method.name = {config.method.name!r} receive no model to judge by them"
        )
    return method


def sampled(clients: int, fraction: float, seed: int, round: int) -> tuple[int, ...]:
    """The clients of a round, ascending: a share ``fraction`` of all, at least one."""
    draw = streams.numpy_generator(seed, "sampling", round).permutation(clients)
    return tuple(sorted(draw[: share_of(clients, fraction)].tolist()))


def share_of(clients: int, fraction: float) -> int:
    """How many clients a share of all is, at least one."""
    return max(1, round_half_up(fraction * clients))


def round_half_up(value: float) -> int:
    """Round to the nearest integer, halves up."""
    return int(value + 0.5)


def _pool(silos: tuple[Silo, ...]) -> Silo:
    """All clients' rows as one client's."""
    fields: Mapping[str, np.ndarray] = {
        name: np.sort(np.concatenate([getattr(silo, name) for silo in silos]))
        for name in ("pairs", "holdout", "images", "texts", "test")
    }
    return Silo(**fields)

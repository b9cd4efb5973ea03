"""What stays the same in every round of a run."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise

import numpy as np
import torch

from fedsyn.data.federated import FederatedData, Silo
from fedsyn.encoders.lesson import Lesson
from fedsyn.federation.client import Plan
from fedsyn.federation.config import Config
from fedsyn.federation.selection.base import sampled
from fedsyn.methods.contribution import normalised
from fedsyn.profiling import phase
from fedsyn.tasks.base import Problem, TaskSettings

STACK_CPU, STACK_GPU = 8, 128  # of engine.stack = 0; measured on the former, not on the latter


@dataclass(frozen=True)
class Federation:
    """The clients, what they train, and how."""

    config: Config
    data: FederatedData
    plan: Plan
    problem: Problem  # its features wherever they are held, see `near`
    silos: tuple[Silo, ...]  # one where the method pools all clients
    device: torch.device  # of the server

    @property
    def stack(self) -> int:
        """Most clients in one stacked computation."""
        automatic = STACK_GPU if self.device.type == "cuda" else STACK_CPU
        return self.config.engine.stack or automatic

    @property
    def validators(self) -> tuple[int, ...]:
        """The clients that judge models: the same in every round, as many as one samples."""
        run = self.config.run
        return sampled(len(self.silos), run.fraction, run.seed, 0)

    def rows(self, client: int) -> np.ndarray:
        """The rows that a client trains on, ascending."""
        silo, rows = self.silos[client], self.plan.method.rows
        return self.problem.rows(silo) if rows is None else rows(self.problem, silo)

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
        If the task, the method and their options do not go together.
    """
    chosen, plan = config.plugins, plan_of(config)
    stay = on_host or data.mapped is not None
    features = data.features if stay else data.features.to(device)
    problem = chosen.task.build(_task_settings(config), data, features)
    if plan.method.prepare is not None:
        problem = plan.method.prepare(problem, plan.config)
    silos = (_pool(data.silos),) if chosen.needs.pooled else data.silos
    return Federation(config, data, plan, problem, silos, device)


def plan_of(config: Config) -> Plan:
    """What clients do, as configured."""
    method = config.plugins.method
    if config.method.weighting == "contribution":
        method = normalised(method)
    return Plan(method, config.method, config.active, config.run.seed, config.engine.graphs)


def _task_settings(config: Config) -> TaskSettings:
    chosen = config.plugins
    lesson = None
    if chosen.needs.teacher:
        lesson = Lesson(chosen.teacher, config.teacher, config.data, config.model.embedding)
    return TaskSettings(
        config.model,
        config.objective,
        chosen.objective,
        chosen.criterion,
        config.method,
        config.run.seed,
        config.run.ranking == "top",
        lesson,
    )


def _pool(silos: tuple[Silo, ...]) -> Silo:
    """All clients' rows as one client's."""
    names = [part.name for part in fields(Silo)]
    return Silo(
        *(np.sort(np.concatenate([getattr(silo, name) for silo in silos])) for name in names)
    )

"""What stays the same in every round of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch

from fedsyn import objectives, streams
from fedsyn.config import Config
from fedsyn.data.federated import FederatedData, Silo
from fedsyn.methods import METHODS
from fedsyn.methods.base import Method, Problem
from fedsyn.metrics.timing import phase
from fedsyn.models.retrieval import build
from fedsyn.objectives.alignment_uniformity import AlignmentUniformity
from fedsyn.objectives.base import Objective, Sizes

STACK_CPU, STACK_GPU = 8, 128  # of engine.stack = 0; measured on the former, not on the latter


@dataclass(frozen=True)
class Federation:
    """The clients, what they train, and how."""

    config: Config
    data: FederatedData
    method: Method
    problem: Problem  # its features wherever they are held, see `near`
    criterion: Objective  # by which models are judged on held-out pairs
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

    def near(
        self, rows: Sequence[np.ndarray], device: torch.device | None = None
    ) -> tuple[Problem, tuple[np.ndarray, ...]]:
        """The problem where it can be computed on, and the row numbers that ``rows`` have there.

        Features that lie in memory, on the device asked for (by default the server's), are not
        touched; of others these rows are copied.
        """
        features, device = self.problem.features, device or self.device
        if self.data.mapped is None and features.device == device:
            return self.problem, tuple(rows)
        with phase("gather"):
            wanted = torch.from_numpy(np.concatenate(rows)).to(features.device)
            copied = features[wanted].to(device)
            if self.data.mapped is not None:
                self.data.mapped.release()
        bounds = np.cumsum([0, *map(len, rows)])
        places = tuple(np.arange(begin, end) for begin, end in pairwise(bounds))
        return replace(self.problem, features=copied), places


def federation(
    config: Config, data: FederatedData, device: torch.device, on_host: bool = False
) -> Federation:
    """Networks, objective and method as configured, for a server on ``device``.

    Features are moved there, unless they are mapped from a file or to stay ``on_host``, where
    clients on other devices get theirs from.
    """
    dims = data.image.shape[1], data.text.shape[1]
    code = config.model.bits or config.model.dim
    objective = objectives.build(config.objective, Sizes(*dims, code, config.model.bits > 0))
    extra = objective.parameters(streams.generator(config.run.seed, "objective"))
    net = build(config.model, *dims, extra)
    stay = on_host or data.mapped is not None
    features = data.features if stay else data.features.to(device)
    method = METHODS[config.method.name]
    silos = (_pool(data.silos),) if method.pooled else data.silos
    criterion = AlignmentUniformity() if config.run.criterion != "objective" else objective
    problem = Problem(features, net, objective)
    return Federation(config, data, method, problem, criterion, silos, device)


def sampled(clients: int, fraction: float, seed: int, round: int) -> tuple[int, ...]:
    """The clients of a round, ascending: a share ``fraction`` of all, at least one."""
    number = max(1, round_half_up(fraction * clients))
    draw = streams.numpy_generator(seed, "sampling", round).permutation(clients)
    return tuple(sorted(draw[:number].tolist()))


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

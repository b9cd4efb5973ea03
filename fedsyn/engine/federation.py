"""What stays the same in every round of a run."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from fedsyn import objectives
from fedsyn.config import Config
from fedsyn.data.federated import FederatedData, Silo
from fedsyn.methods import METHODS
from fedsyn.methods.base import Method, Problem
from fedsyn.models.retrieval import build


@dataclass(frozen=True)
class Federation:
    """The clients, what they train, and how."""

    config: Config
    data: FederatedData
    method: Method
    problem: Problem
    silos: tuple[Silo, ...]  # one where the method pools all clients

    @property
    def synthetic(self) -> bool:
        """Whether clients train generators."""
        return self.config.synthesis_mode == "on"

    @property
    def private(self) -> bool:
        """Whether clients keep private networks, as encoders of the constraint losses."""
        synthesis = self.config.synthesis
        constrained = synthesis.direct or synthesis.indirect or synthesis.jsd
        trained = synthesis.generator != "gaussian" and synthesis.steps > 0
        return bool(self.synthetic and constrained and trained and synthesis.encoder == "private")


def federation(config: Config, data: FederatedData, device: torch.device) -> Federation:
    """Networks, objective and method as configured, on ``device``."""
    objective = objectives.build(config.objective)
    net = build(config.model, data.image.shape[1], data.text.shape[1], objective.parameters())
    features = torch.cat([data.image, data.text], -1).to(device)
    method = METHODS[config.method.name]
    silos = (_pool(data.silos),) if method.pooled else data.silos
    return Federation(config, data, method, Problem(features, net, objective), silos)


def _pool(silos: tuple[Silo, ...]) -> Silo:
    """All clients' rows as one client's."""
    fields: Mapping[str, np.ndarray] = {
        name: np.sort(np.concatenate([getattr(silo, name) for silo in silos]))
        for name in ("pairs", "holdout", "images", "texts", "test")
    }
    return Silo(**fields)

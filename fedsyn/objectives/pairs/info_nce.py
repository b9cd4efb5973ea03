"""InfoNCE with a fixed or learnable temperature (Radford et al. 2021, CLIP, section 2.3)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from fedsyn import ops
from fedsyn.objectives.base import Objective, ObjectiveConfig
from fedsyn.objectives.pairs.base import PairBatch, PairObjective
from fedsyn.objectives.views.base import Paired
from fedsyn.settings.plugins import FLAT
from fedsyn.settings.sections import Field, Positive, Section, Tried


class InfoNCEOptions(Section):
    """Options of the objective InfoNCE."""

    temperature: Annotated[Positive, Tried(0.05, 0.1, 0.2, 0.5, 1.0)] = Field(
        0.1, description="temperature of info_nce"
    )
    learnable: bool = Field(
        False, description="temperature of info_nce learnt (and federated) with the model"
    )


MAX_LOG_SCALE = math.log(100.0)  # CLIP's bound: a learnt temperature does not fall below 0.01


@dataclass(frozen=True)
class InfoNCELoss(PairObjective):
    """Symmetric InfoNCE of the two embeddings of a batch."""

    temperature: float = 1.0
    learnable: bool = False

    def parameters(self, generator: torch.Generator) -> dict[str, Tensor]:
        """The logarithm of the inverse temperature, where it is learnt."""
        if not self.learnable:
            return {}
        return {"log_scale": torch.tensor([-math.log(self.temperature)])}

    def __call__(self, params: Mapping[str, Tensor], batch: PairBatch) -> Tensor:
        """The loss ``[C]`` of a batch, in nats."""
        scale: float | Tensor = 1 / self.temperature
        if self.learnable:
            scale = params["log_scale"].squeeze(-1).clamp(max=MAX_LOG_SCALE).exp()
        return ops.info_nce(batch.image, batch.text, scale, batch.valid)


def _build(config: ObjectiveConfig) -> InfoNCELoss:
    own = config.of(InfoNCEOptions)
    return InfoNCELoss(own.temperature, own.learnable)


INFO_NCE = Objective(
    name="info_nce",
    options={FLAT: InfoNCEOptions},
    pairs=lambda config, sizes: _build(config),
    views=lambda config: Paired(InfoNCELoss(config.of(InfoNCEOptions).temperature)),
)

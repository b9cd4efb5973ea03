"""InfoNCE with a fixed or learnable temperature (Radford et al. 2021, CLIP, section 2.3)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedsyn import ops
from fedsyn.objectives.pairs.base import Batch, Objective

MAX_LOG_SCALE = math.log(100.0)  # CLIP's bound: a learnt temperature does not fall below 0.01


@dataclass(frozen=True)
class InfoNCE(Objective):
    """Symmetric InfoNCE of the two embeddings of a batch."""

    temperature: float = 1.0
    learnable: bool = False

    def parameters(self, generator: torch.Generator) -> dict[str, Tensor]:
        """The logarithm of the inverse temperature, where it is learnt."""
        if not self.learnable:
            return {}
        return {"log_scale": torch.tensor([-math.log(self.temperature)])}

    def __call__(self, params: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Loss ``[C]``, in nats."""
        scale: float | Tensor = 1 / self.temperature
        if self.learnable:
            scale = params["log_scale"].squeeze(-1).clamp(max=MAX_LOG_SCALE).exp()
        return ops.info_nce(batch.image, batch.text, scale, batch.valid)

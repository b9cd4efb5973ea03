"""Soft contrast of all pairs of a batch (Chun et al. 2021, PCME, arXiv 2101.05068).

    s_ij = b − a ‖v_i − t_j‖,   p_ij = e^{s_ij} / (e^{s_ij} + e^{−s_ij}) = σ(2 s_ij)
    L    = −1/B Σ_ij log (p_ij where i = j, else 1 − p_ij)

a and b are learnt with the network. As CreamFL (Yu et al. 2023) has it: one embedding
a picture or text, not samples of a distribution.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from fedsyn.objectives.base import Objective
from fedsyn.objectives.pairs.base import PairBatch, PairObjective
from fedsyn.objectives.similarity import both, gram, present
from fedsyn.settings.sections import Field, Positive, Section


class PCMEOptions(Section):
    """Options of PCME: where what is learnt starts."""

    scale: Positive = Field(15.0, description="scale a of distances, at first")
    shift: float = Field(15.0, description="shift b, at first")


LEAST_SQUARE = 1e-12  # of a distance: its root has a gradient everywhere above


@dataclass(frozen=True)
class PCMELoss(PairObjective):
    """Whether two embeddings match, decided by their distance for every image and text."""

    config: PCMEOptions

    def parameters(self, generator: torch.Generator) -> dict[str, Tensor]:
        """The scale and the shift, which are learnt."""
        return {
            "distance_scale": torch.tensor([self.config.scale]),
            "distance_shift": torch.tensor([self.config.shift]),
        }

    def __call__(self, params: Mapping[str, Tensor], batch: PairBatch) -> Tensor:
        """The loss ``[C]`` of a batch alone."""
        valid = present(batch)
        squares = 2 - 2 * gram(batch.image, batch.text)  # of the distances of unit rows
        distances = squares.clamp(min=LEAST_SQUARE).sqrt()
        scale, shift = (params[name][..., None] for name in ("distance_scale", "distance_shift"))
        s = shift - scale * distances
        own = torch.eye(s.shape[-1], dtype=torch.bool, device=s.device)
        losses = softplus(2 * torch.where(own, -s, s)).masked_fill(~both(valid), 0)
        return losses.sum((-1, -2)) / valid.sum(-1).clamp(min=1)


PCME = Objective(
    name="pcme",
    options={"pcme": PCMEOptions},
    pairs=lambda config, sizes: PCMELoss(config.of(PCMEOptions)),
)

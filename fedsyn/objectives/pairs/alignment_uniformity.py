"""Alignment and uniformity (Wang & Isola 2020, arXiv 2005.10242, section 4), across two modalities.

    L = E ‖u − v‖²  +  ½ Σ_modality log E_{i≠j} exp(−2 ‖x_i − x_j‖²)

The first says how near the two embeddings of a pair are, the second how evenly each modality lies
on the sphere. Neither has a temperature that training could have been tuned to, which makes their
sum a criterion for judging models on held-out pairs (``run.criterion``).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from fedsyn.objectives.base import Objective
from fedsyn.objectives.pairs.base import PairBatch, PairObjective
from fedsyn.objectives.similarity import both, gram, masked_mean, present
from fedsyn.objectives.views.base import Paired

CONCENTRATION = 2.0


class AlignmentUniformityLoss(PairObjective):
    """Alignment of the two embeddings of a pair, and uniformity of each modality."""

    def __call__(self, params: Mapping[str, Tensor], batch: PairBatch) -> Tensor:
        """Loss ``[C]``; a client with fewer than two pairs has no uniformity and counts 0."""
        image, text, valid = batch.image, batch.text, present(batch)
        alignment = masked_mean((image - text).square().sum(-1), valid)
        return alignment + (_uniformity(image, valid) + _uniformity(text, valid)) / 2


def _uniformity(x: Tensor, valid: Tensor) -> Tensor:  # [C, B, d], [C, B] -> [C]
    others = ~torch.eye(x.shape[-2], dtype=torch.bool, device=x.device)
    pairs = both(valid) & others
    # ‖x − y‖² = 2 − 2 xᵀy for unit rows.
    exponent = 2 * CONCENTRATION * (gram(x, x) - 1)
    number = pairs.sum((-2, -1))
    # Where there are no two pairs a finite stand-in keeps the gradient finite too.
    exponent = exponent.masked_fill(~pairs & (number > 0)[..., None, None], -torch.inf)
    total = exponent.flatten(-2).logsumexp(-1) - number.clamp(min=1).to(x.dtype).log()
    return total.where(number > 0, torch.zeros_like(total))


ALIGNMENT_UNIFORMITY = Objective(
    name="alignment_uniformity",
    pairs=lambda config, sizes: AlignmentUniformityLoss(),
    views=lambda config: Paired(AlignmentUniformityLoss()),
)

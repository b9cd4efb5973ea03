"""The classifier of pairs that knows what is missing, of FedMAC (`fedsyn.methods.fedmac.method`).

z_u = own projection of half u, or e_u, which is learnt, where it is missing
x_u = cross projection of half u: what it makes expect of the other half's z
β = softmax over u of −ε_u,  ε_u = ‖z_u − x_v‖² / d,        v: the other half
    ε_u = 0 where v is missing: a half alone is taken at its word
fusion head: logits of [2 β_image z_image, 2 β_text z_text]
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedsyn.models.fusion import MODALITIES, Both, FusionNet, Parts, crossed


@dataclass(frozen=True)
class MissingAwareNet(FusionNet):
    """A `FusionNet` that stands something learnt in for a missing half, and weighs both halves."""

    cross: bool = True

    @property
    def further(self) -> dict[str, tuple[int, ...]]:
        """The learnt stand-ins e_u of both halves."""
        return {f"{modality}.missing": (1, self.dim) for modality in MODALITIES}

    def fuse(self, parts: Parts, own: Both, cross: Both | None, present: Tensor) -> Both:
        """Both halves, or what stands in for them, by how far they are what the other expects."""
        expected = crossed(cross)
        has = present.unsqueeze(-1).unbind(-2)
        z = [
            torch.where(has[place], own[place], parts[f"{modality}.missing"][:, None])
            for place, modality in enumerate(MODALITIES)
        ]
        errors = [
            (z[one] - expected[other]).square().mean(-1, keepdim=True).masked_fill(~has[other], 0)
            for one, other in ((0, 1), (1, 0))
        ]
        weights = 2 * torch.stack(errors).neg().softmax(0)
        return weights[0] * z[0], weights[1] * z[1]

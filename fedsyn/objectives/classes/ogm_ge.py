"""OGM-GE, on-the-fly gradient modulation with generalisation enhancement (Peng et al. 2022, CVPR).

Of a batch, with s_u the probability of the true class by modality u's half of the fusion head:

ρ_u = Σ s_u / Σ s_other        over the rows with both halves
k_u = 1 − tanh(α ρ_u) where ρ_u > 1, else 1
gradient of u's encoder ← k_u · gradient + N(0, σ²)

An encoder is a backbone and its own projector; σ is the standard deviation of the entries of each
of their weights' and biases' gradients, before they are modulated.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedsyn import streams
from fedsyn.config import MethodConfig, OGMGEConfig
from fedsyn.core.cohort import Cohort
from fedsyn.metrics.classification import discrepancy
from fedsyn.models.fusion import MODALITIES, FusionNet
from fedsyn.objectives.classes.halves import Batch, CrossEntropy, Training


@dataclass(frozen=True)
class OGMGE(CrossEntropy):
    """Cross-entropy, from which the dominant modality's encoder learns less."""

    config: OGMGEConfig

    def training(
        self, net: FusionNet, cohort: Cohort, config: MethodConfig, purpose: str
    ) -> Training:
        """The loss, whose gradient is modulated on its way to the parameters."""
        generators = cohort.streams(f"{purpose}.ogm_ge") if self.config.noise else []

        def loss(params: Tensor, clients: Tensor, batch: Batch, step: Tensor) -> Tensor:
            noise = None
            if generators:  # drawn for all, so that nobody's depends on who still trains
                drawn = streams.normal(generators, net.layout.size)
                noise = drawn.to(params)[clients]
            strength = strengths(net, batch, self.config.alpha)
            params.register_hook(lambda gradient: modulated(net, gradient, strength, noise))
            return self(net, batch)

        return loss


def strengths(net: FusionNet, batch: Batch, alpha: float) -> Tensor:  # [C, 2]
    """Of the image's and of the text's encoder: their k."""
    with torch.no_grad():
        halves = net.halves(batch.reading.parts, batch.reading.own)
        ratio = discrepancy(*halves, batch.target, batch.whole)
    both = torch.stack([ratio, 1 / ratio], -1)
    return torch.where(both > 1, 1 - (alpha * both).tanh(), 1)


def modulated(
    net: FusionNet,
    gradient: Tensor,  # [C, P]
    strength: Tensor,  # [C, 2]
    noise: Tensor | None,  # [C, P], standard normal
) -> Tensor:  # [C, P]
    """The gradient, that of the encoders modulated."""
    parts = dict(net.layout.columns(gradient))
    noises = {} if noise is None else net.layout.columns(noise)
    for name, part in parts.items():
        modality, *module = name.split(".")
        if module and module[0] in ("backbone", "own"):
            parts[name] = strength[:, MODALITIES.index(modality), None] * part
            if noises:
                deviation = part.std(-1, correction=0, keepdim=True)
                parts[name] = parts[name] + deviation * noises[name]
    return torch.cat(list(parts.values()), -1)

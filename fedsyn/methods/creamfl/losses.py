"""What CreamFL minimises (Yu et al. 2023, ICLR, arXiv 2302.08888).

Of a public pair k, z_k is a modality's representation by the model that trains, g_k the server's
and g'_k the server's of the other modality; p_k is by the client's model at the round's start, and
ḡ_k the clients' mean:

    L_inter = −log  e^{z_k·g'_k/τ} / Σ_j e^{z_k·g'_j/τ}        over all public pairs j
    L_intra = −log  e^{z_k·g_k/τ} / (e^{z_k·g_k/τ} + e^{z_k·p_k/τ})
    L_kd    = ‖z_k − ḡ_k‖²        a sum over the d entries; published is their mean, L_kd / d

Of a row with one modality and label y; W has a row w_c for each label:

    L_label = −log softmax(W z − m e_y)_y + o mean_c −log softmax(W w_c)_c
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from fedsyn import ops
from fedsyn.objectives.similarity import contrast, masked_mean
from fedsyn.settings.sections import Count, Field, NonNegative, Positive, Section


class CreamFLOptions(Section):
    """Options of the method CreamFL."""

    aggregation: Literal["contrastive", "mean"] = Field(
        "contrastive", description="how clients' representations are averaged"
    )
    inter: bool = Field(
        True, description="contrast with the other modality's representations by the server"
    )
    intra: bool = Field(
        True, description="contrast with the same modality's representations by the server"
    )
    contrast: NonNegative = Field(0.5, description="weight γ of both contrasts")
    temperature: Positive = Field(0.5, description="temperature τ of both contrasts")
    margin: NonNegative = Field(4.0, description="margin m of clients that learn by labels")
    orthogonality: NonNegative = Field(
        0.5, description="weight o of the orthogonality of their classes"
    )
    distillation: NonNegative = Field(
        3.0,
        description="weight κ of squares summed over the d entries of an embedding (published: "
        "0.3 of their mean, 0.3 / d here); 0: the server learns from the public pairs alone",
    )
    server_epochs: Count = Field(
        1, description="passes over the public pairs a round, after that of distillation"
    )
    server_lr: Positive = Field(1e-3, description="rate of the server's training")


IMAGE, TEXT = MODALITIES = ("image", "text")
OTHER = {IMAGE: TEXT, TEXT: IMAGE}


def regularisers(
    z: Mapping[str, Tensor],  # [C, B, d] unit rows, of the modalities that the clients have
    server: Mapping[str, Tensor],  # [n, d] unit rows, of all public pairs
    before: Mapping[str, Tensor],  # [C, n, d] unit rows
    place: Tensor,  # [C, B] long, the public pair of each row
    valid: Tensor,  # [C, B] bool
    own: CreamFLOptions,
) -> Tensor:  # [C]
    """Σ_modality (L_inter + L_intra), or what of both is switched on, the mean over valid rows."""
    terms = []
    for name, rows in z.items():
        if own.inter:
            others = server[OTHER[name]].expand(len(rows), -1, -1)
            target = place.masked_fill(~valid, -1)
            terms.append(ops.prototype_nce(rows, others, target, 1 / own.temperature))
        if own.intra:
            far = before[name].gather(1, place[..., None].expand_as(rows))
            losses = contrast(rows, server[name][place], far, own.temperature)
            terms.append(masked_mean(losses, valid))
    return torch.stack(terms).sum(0)


def distillation(
    z: Mapping[str, Tensor],  # [C, B, d] unit rows
    means: Mapping[str, Tensor],  # [n, d], NaN where no client has the modality
    place: Tensor,  # [C, B] long, the public pair of each row
    valid: Tensor,  # [C, B] bool
) -> Tensor:  # [C]
    """Σ_modality L_kd, the mean over valid rows of which there is a mean."""
    terms = []
    for name, rows in z.items():
        target = means[name][place]
        known = valid & ~target.isnan().any(-1)
        squares = (rows - target.nan_to_num()).square().sum(-1)
        terms.append(masked_mean(squares, known))
    return torch.stack(terms).sum(0)


def by_label(
    z: Tensor,  # [C, B, d] unit rows
    weight: Tensor,  # [C, L, d]
    label: Tensor,  # [C, B] long, -1 for none
    valid: Tensor,  # [C, B] bool
    margin: float,
    orthogonality: float,
) -> Tensor:  # [C]
    """L_label, its first term the mean over valid rows that have a label."""
    taken = valid & (label >= 0)
    label = label.clamp(min=0)
    logits = z @ weight.mT - margin * one_hot(label, weight.shape[1])
    losses = cross_entropy(logits.mT, label, reduction="none")
    own = torch.arange(weight.shape[1], device=z.device).expand(len(z), -1)
    apart = cross_entropy(weight @ weight.mT, own, reduction="none").mean(-1)
    return masked_mean(losses, taken) + orthogonality * apart

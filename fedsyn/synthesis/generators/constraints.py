"""What constrains a generator beside its critic: that its pairs look like pairs to a model.

l1 · direct + l2 · indirect + l3 · JSD  (Zhang et al., AAAI 2025). The paper names the terms and
what they look at; their formulas are readings, of which the options name all that are plausible.
u, v: both embeddings of a pair, f: their fused one, C: the client's embedded prototypes.
"""

from typing import Literal, Self

import pydantic
import torch
from torch import Tensor

from fedsyn import ops
from fedsyn.models.retrieval import fuse
from fedsyn.ops.prototype_nce import prototype_logits
from fedsyn.settings.sections import Field, NonNegative, Section, Whole

LINEAGE = 0.26, 0.81  # temperatures of prediction and target in the code that came before


class ConstraintOptions(Section):
    """Weights and forms of the constraint losses of a generator."""

    direct: NonNegative = Field(0.0, description="weight l1 of the direct contrastive loss")
    indirect: NonNegative = Field(0.0, description="weight l2 of the indirect contrastive loss")
    jsd: NonNegative = Field(0.0, description="weight l3 of the Jensen–Shannon loss")
    indirect_form: Literal["prototypes", "batch", "relation"] = Field(
        "prototypes",
        description="what a generated pair is contrasted with: all prototypes, those of the other "
        "pairs of its batch, or no one (the batch's similarities are to be those by prototypes)",
    )
    jsd_form: Literal["halves", "lineage", "marginal"] = Field(
        "halves",
        description="what is compared: image and text, the same as PT-FUCH writes it, or generated "
        "and real pairs' shares of the prototypes",
    )

    embedding_clusters: Whole = Field(
        0,
        description="clusters of a client's embedded pairs, found anew in every round, that "
        "indirect and JSD losses look at; 0: its embedded prototypes",
    )
    cluster: NonNegative = Field(
        0.0, description="weight of the cluster loss that private networks are trained with"
    )

    @pydantic.model_validator(mode="after")
    def _clustered(self) -> Self:
        if self.cluster and not self.embedding_clusters:
            raise ValueError("synthesis.cluster needs synthesis.embedding_clusters, got 0")
        return self

    @property
    def any(self) -> bool:
        """Whether there is one at all."""
        return bool(self.direct or self.indirect or self.jsd)


def constraint_losses(
    image: Tensor,  # [C, B, d] unit rows
    text: Tensor,  # [C, B, d] unit rows
    prototype: Tensor,  # [C, M, d] unit rows
    alive: Tensor,  # [C, M] bool
    config: ConstraintOptions,
    temperature: float,
    real: Tensor | None = None,  # [C, M], from `marginal`, if the JSD is of marginals
) -> Tensor:  # [C]
    """l1 · direct + l2 · indirect + l3 · JSD of generated pairs.

    direct: symmetric InfoNCE between the two embeddings of a pair.
    """
    scale = 1 / temperature
    loss = image.new_zeros(len(image))
    if config.direct:
        loss = loss + config.direct * ops.info_nce(image, text, scale)
    if config.indirect:
        loss = loss + config.indirect * _indirect(image, text, prototype, alive, config, scale)
    if config.jsd:
        loss = loss + config.jsd * _jsd(image, text, prototype, alive, config, scale, real)
    return loss


def marginal(
    fused: Tensor,  # [C, N, d] unit rows
    prototype: Tensor,  # [C, M, d] unit rows
    alive: Tensor,  # [C, M] bool
    scale: float,
) -> Tensor:  # [C, M]
    """Shares of the prototypes: the mean over rows of softmax(scale · f Cᵀ)."""
    return prototype_logits(fused, prototype, scale, alive).softmax(-1).mean(-2)


def _indirect(
    image: Tensor,
    text: Tensor,
    prototype: Tensor,
    alive: Tensor,
    config: ConstraintOptions,
    scale: float,
) -> Tensor:
    """The indirect loss ``[C]``, mean of both modalities, in one of its forms.

    prototypes: each embedding against all prototypes, the nearest to the fused one being right.
    batch: against the prototypes nearest to the other pairs, those of its own left out (the class
    InstProtoCLR of the code that came before). relation: MSE of u vᵀ to q qᵀ + r rᵀ with
    q = softmax(u Cᵀ), r = softmax(v Cᵀ), not detached and without a temperature (its InstProtoRC).
    """
    if config.indirect_form == "relation":
        q, r = (prototype_logits(u, prototype, 1.0, alive).softmax(-1) for u in (image, text))
        return (image @ text.mT - q @ q.mT - r @ r.mT).square().mean((-2, -1))
    nearest = prototype_logits(fuse(image, text).detach(), prototype, 1.0, alive).argmax(-1)
    if config.indirect_form == "prototypes":
        both = ops.prototype_nce(image, prototype, nearest, scale, alive)
        both = both + ops.prototype_nce(text, prototype, nearest, scale, alive)
        return both / 2
    own = prototype.take_along_dim(nearest[..., None], 1)  # [C, B, d]
    same = nearest[:, :, None] == nearest[:, None, :]
    same = same & ~torch.eye(same.shape[-1], dtype=torch.bool, device=same.device)
    both = image.new_zeros(len(image))
    for rows in (image, text):
        logits = (scale * rows @ own.mT).masked_fill(same, -torch.inf)
        both = both - logits.log_softmax(-1).diagonal(dim1=-2, dim2=-1).mean(-1)
    return both / 2


def _jsd(
    image: Tensor,
    text: Tensor,
    prototype: Tensor,
    alive: Tensor,
    config: ConstraintOptions,
    scale: float,
    real: Tensor | None,
) -> Tensor:
    """The Jensen–Shannon loss ``[C]`` in one of its forms.

    halves: between softmax(scale · u Cᵀ) and softmax(scale · v Cᵀ) of each pair. lineage: the mean
    of KL(m ‖ p) and KL(m ‖ q) with p, q at temperature .26 and m the mean of both at .81, not
    detached (PT-FUCH, MM 2023). marginal: between the shares that generated and real pairs have of
    the prototypes, against pairs that are all alike.
    """
    if config.jsd_form == "marginal":
        if real is None:
            raise ValueError("expected the marginal of real pairs, got None")
        made = marginal(fuse(image, text), prototype, alive, scale)
        return ops.js_divergence(made[:, None], real[:, None]).mean(-1)
    embeddings = image, text
    if config.jsd_form == "halves":
        p, q = (prototype_logits(u, prototype, scale, alive).softmax(-1) for u in embeddings)
        return ops.js_divergence(p, q).mean(-1)
    sharp, flat = (
        [prototype_logits(u, prototype, 1 / t, alive).log_softmax(-1) for u in embeddings]
        for t in LINEAGE
    )
    m = (flat[0].exp() + flat[1].exp()) / 2
    known = m.clamp_min(torch.finfo(m.dtype).tiny).log()  # finite where a prototype is not there
    return (m * (known - (sharp[0] + sharp[1]) / 2)).sum(-1).mean(-1)

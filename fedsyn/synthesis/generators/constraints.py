"""What constrains a generator beside its critic: that its pairs look like pairs to a model.

l1 · direct + l2 · indirect + l3 · JSD  (Zhang et al., AAAI 2025; the formulas are our reading).
"""

from torch import Tensor

from fedsyn import ops
from fedsyn.models.retrieval import fuse
from fedsyn.ops.prototype_nce import prototype_logits
from fedsyn.settings.sections import Field, NonNegative, Section


class ConstraintOptions(Section):
    """Weights of the constraint losses of a generator."""

    direct: NonNegative = Field(0.0, description="weight l1 of the direct contrastive loss")
    indirect: NonNegative = Field(0.0, description="weight l2 of the indirect contrastive loss")
    jsd: NonNegative = Field(0.0, description="weight l3 of the Jensen–Shannon loss")

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
) -> Tensor:  # [C]
    """l1 · direct + l2 · indirect + l3 · JSD of generated pairs, under one temperature.

    direct: symmetric InfoNCE between the two embeddings of a pair. indirect: each embedding against
    the prototype that its pair's fused embedding is nearest to, mean of both modalities. JSD:
    between the softmax assignments of the two embeddings to the prototypes.
    """
    scale = 1 / temperature
    loss = image.new_zeros(len(image))
    if config.direct:
        loss = loss + config.direct * ops.info_nce(image, text, scale)
    if config.indirect:
        nearest = prototype_logits(fuse(image, text).detach(), prototype, 1.0, alive).argmax(-1)
        both = ops.prototype_nce(image, prototype, nearest, scale, alive)
        both = both + ops.prototype_nce(text, prototype, nearest, scale, alive)
        loss = loss + config.indirect * both / 2
    if config.jsd:
        p, q = (prototype_logits(u, prototype, scale, alive).softmax(-1) for u in (image, text))
        loss = loss + config.jsd * ops.js_divergence(p, q).mean(-1)
    return loss

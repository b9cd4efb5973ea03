"""Joint-modal distribution-based similarity hashing (Liu et al. 2020, SIGIR, JDSH).

every batch, with features F and embeddings B in unit rows:
    S^I = 2 cos(F^I) − 1,  S^T = 2 cos(F^T) − 1
    S = α S^I + β S^T + λ sym(norm(S^I) norm(S^T)ᵀ)     norm: unit rows, sym(M) = (M + Mᵀ) / 2
    S ← S (1 + l e^{−(S − min)})  where S < low,   S (1 + h e^{S − max})  where S > high
    S ← μ S
    L = ν [MSE(B^I B^Iᵀ, S) + MSE(B^T B^Tᵀ, S)] + MSE(B^I B^Tᵀ, S) + MSE(B^T B^Iᵀ, S)
      + mean_i (1 − ⟨B^I_i, B^T_i⟩)

S is symmetric, so the two terms across modalities are equal.

Not as published: the 1 in the last term, with which the loss is never negative; and tanh(α u) does
not sharpen with the epochs, α is 1 because every round starts from an averaged model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import pydantic
from torch import Tensor
from torch.nn.functional import normalize

from fedsyn.objectives.base import Objective
from fedsyn.objectives.pairs.base import PairBatch, PairObjective, Sizes
from fedsyn.objectives.similarity import both, gram, masked_mean, mse, present
from fedsyn.settings.sections import Field, NonNegative, Positive, Section


class JDSHOptions(Section):
    """Options of JDSH; constants for Flickr."""

    image: NonNegative = Field(0.5, description="weight α of image similarities")
    text: NonNegative = Field(0.1, description="weight β of text similarities")
    joint: NonNegative = Field(0.4, description="weight λ of similarities across modalities")
    low: float = Field(-0.528, description="similarities below this are stressed as low")
    high: float = Field(-0.138, description="similarities above this are stressed as high")
    minimum: float = Field(-0.52, description="least similarity, min")
    maximum: float = Field(0.68, description="greatest similarity, max")
    stress_low: NonNegative = Field(0.1, description="stress l of low similarities")
    stress_high: NonNegative = Field(0.2, description="stress h of high similarities")
    scale: Positive = Field(1.4, description="scale μ of the similarities to reach")
    intra: NonNegative = Field(0.1, description="weight ν of the within-modality terms")

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(
                f"objective.jdsh: expected low <= high, got {self.low} and {self.high}"
            )
        return self


@dataclass(frozen=True)
class JDSHLoss(PairObjective):
    """Codes as similar as the features, where extreme similarities are stressed."""

    config: JDSHOptions
    sizes: Sizes

    def __call__(self, params: Mapping[str, Tensor], batch: PairBatch) -> Tensor:
        """The loss ``[C]`` of a batch alone."""
        image, text, valid = batch.image, batch.text, present(batch)
        target, every = self.similarity(batch.pairs, valid), both(valid)
        within = mse(gram(image, image), target, every) + mse(gram(text, text), target, every)
        across = 2 * mse(gram(image, text), target, every)
        partner = masked_mean(1 - (image * text).sum(-1), valid)
        return self.config.intra * within + across + partner

    def similarity(self, pairs: Tensor, valid: Tensor) -> Tensor:
        """S ``[C, B, B]`` of pairs ``[C, B, D]``."""
        config = self.config
        features = pairs.tensor_split([self.sizes.image], -1)
        units = [normalize(rows, dim=-1) for rows in features]
        of_images, of_texts = (
            (2 * gram(rows, rows) - 1).masked_fill(~both(valid), 0) for rows in units
        )
        joint = gram(normalize(of_images, dim=-1), normalize(of_texts, dim=-1))
        plain = config.image * of_images + config.text * of_texts
        plain = plain + config.joint * (joint + joint.mT) / 2
        low = 1 + config.stress_low * (config.minimum - plain).exp()
        high = 1 + config.stress_high * (plain - config.maximum).exp()
        stressed = plain.where(plain >= config.low, plain * low)
        stressed = stressed.where(plain <= config.high, plain * high)
        return config.scale * stressed


JDSH = Objective(
    name="jdsh",
    options={"jdsh": JDSHOptions},
    pairs=lambda config, sizes: JDSHLoss(config.of(JDSHOptions), sizes),
)

"""Deep joint-semantics reconstructing hashing (Su et al. 2019, ICCV, DJSRH).

every batch of b pairs, with features F and embeddings B in unit rows:
    S̃ = β (2 cos(F^I) − 1) + (1 − β) (2 cos(F^T) − 1)
    S = μ [(1 − η) S̃ + η S̃ S̃ᵀ / b]
    L = λ MSE(B^I B^Iᵀ, S) + MSE(B^I B^Tᵀ, S) + λ MSE(B^T B^Tᵀ, S)

Not as published: tanh(α u) does not sharpen with the epochs, α is 1 and not √(epoch + 1), because
every round starts from an averaged model.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fedsyn.objectives.base import Objective
from fedsyn.objectives.pairs.base import PairBatch, PairObjective, Sizes
from fedsyn.objectives.similarity import both, gram, mse, present, weighted
from fedsyn.settings.sections import Field, Fraction, NonNegative, Positive, Section


class DJSRHOptions(Section):
    """Options of DJSRH; weights for Flickr."""

    image: Fraction = Field(
        0.9, description="weight β of image similarities; the rest is of the texts'"
    )
    second: Fraction = Field(0.4, description="weight η of similarities of similarities")
    scale: Positive = Field(1.5, description="scale μ of the similarities to reach")
    intra: NonNegative = Field(0.1, description="weight λ of each within-modality term")


@dataclass(frozen=True)
class DJSRHLoss(PairObjective):
    """Codes as similar as the features, jointly over both modalities."""

    config: DJSRHOptions
    sizes: Sizes

    def __call__(self, params: Mapping[str, Tensor], batch: PairBatch) -> Tensor:
        """The loss ``[C]`` of a batch alone."""
        image, text, valid = batch.image, batch.text, present(batch)
        target, every = self.similarity(batch.pairs, valid), both(valid)
        within = mse(gram(image, image), target, every) + mse(gram(text, text), target, every)
        return mse(gram(image, text), target, every) + self.config.intra * within

    def similarity(self, pairs: Tensor, valid: Tensor) -> Tensor:
        """S ``[C, B, B]`` of pairs ``[C, B, D]``."""
        config = self.config
        rows = weighted(pairs, self.sizes.image, config.image)
        first = (2 * gram(rows, rows) - 1).masked_fill(~both(valid), 0)
        second = gram(first, first) / valid.sum(-1).clamp(min=1)[:, None, None]
        return config.scale * ((1 - config.second) * first + config.second * second)


DJSRH = Objective(
    name="djsrh",
    options={"djsrh": DJSRHOptions},
    pairs=lambda config, sizes: DJSRHLoss(config.of(DJSRHOptions), sizes),
)

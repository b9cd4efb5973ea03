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

from torch import Tensor
from torch.nn.functional import normalize

from fedsyn.config import JDSHConfig
from fedsyn.objectives.pairs.base import Batch, Objective, Sizes
from fedsyn.objectives.similarity import both, gram, masked_mean, mse, present


@dataclass(frozen=True)
class JDSH(Objective):
    """Codes as similar as the features, where extreme similarities are stressed."""

    config: JDSHConfig
    sizes: Sizes

    def __call__(self, params: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Loss ``[C]``."""
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

"""Correlation-identity reconstruction hashing (Zhu et al. 2022, TKDE, CIRH).

A graph autoencoder of both modalities, trained and federated with the networks, gives the codes
that they learn; ``norm`` are unit rows, and so are all embeddings.

every batch:
    S₁ = a cos(F^I) + (1 − a) cos(F^T), without all but the highest of each row
    S = b S₁ + (1 − b) (2 σ(S₁) − 1 + I)                    I: the identity
    G = S, negative entries 0, rows divided by their sums
    u^I, u^T = G relu(G F W) W' of the modality's F and weights
    H^I, H^T, H = norm(tanh(·)) of u^I, u^T, u^I + u^T      continuous: norm(·)
    B = sign(H) / √L, without a gradient                     continuous: H
    L = λ₁ MSE(decoder(√L H), F) + λ₂ Σ_{X = H^I, H^T, H} MSE(X Xᵀ, S) + D(H, B)
      + D(h^I, B) + D(h^T, B) + D(h^I, h^T)                  D(X, Y) = mean_i ‖X_i − Y_i‖²
      + γ [MSE(h^I h^Iᵀ, S) + MSE(h^T h^Tᵀ, S) + MSE(h^I h^Tᵀ, S)]

D is the published mean squared difference of ±1 codes. Not as published: the graph is the batch's
and not the whole client's; both stages, autoencoder and then networks, are in every step; inputs
are not mixed with those of their neighbours. The layers of the autoencoder are our own choice.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fedsyn.models.mlp import MLP
from fedsyn.objectives.base import Objective
from fedsyn.objectives.pairs.base import PairBatch, PairObjective, Sizes
from fedsyn.objectives.similarity import (
    both,
    code,
    gram,
    masked_mean,
    mse,
    present,
    strongest,
    weighted,
)
from fedsyn.settings.sections import Count, Field, Fraction, NonNegative, Section


class CIRHOptions(Section):
    """Options of the objective CIRH."""

    image: Fraction = Field(
        0.6, description="weight a of image similarities; the rest is of the texts'"
    )
    first: Fraction = Field(
        0.6, description="weight b of plain similarities; the rest is of squashed ones"
    )
    neighbours: Fraction = Field(0.4, description="share of a batch that are neighbours of a row")
    hidden: Count = Field(128, description="hidden units of the graph autoencoder")
    reconstruction: NonNegative = Field(
        10.0, description="weight λ₁ of the reconstruction of features"
    )
    structure: NonNegative = Field(
        1.0, description="weight λ₂ of the similarities of the autoencoder's codes"
    )
    gram: NonNegative = Field(0.01, description="weight γ of each Gram term of the codes")


@dataclass(frozen=True)
class CIRHLoss(PairObjective):
    """Codes of a graph autoencoder, and networks that learn them."""

    config: CIRHOptions
    sizes: Sizes

    def parameters(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Weights of the autoencoder."""
        start: dict[str, Tensor] = {}
        for part in (*self._encoders, self._decoder):
            start |= part.init(generator)
        return start

    def __call__(self, params: Mapping[str, Tensor], batch: PairBatch) -> Tensor:
        """The loss ``[C]`` of a batch alone."""
        config, valid = self.config, present(batch)
        every, target = both(valid), self.similarity(batch.pairs, valid)
        *single, joint = self._encode(params, batch.pairs, target)
        codes = code(joint, self.sizes.hashing)
        decoded = _apply(self._decoder, params, math.sqrt(self.sizes.code) * joint)
        reconstruction = masked_mean((decoded - batch.pairs).square().mean(-1), valid)
        structure = sum(mse(gram(rows, rows), target, every) for rows in (*single, joint))
        image, text = batch.image, batch.text
        pulls = ((joint, codes), (image, codes), (text, codes), (image, text))
        distance = sum(masked_mean((x - y).square().sum(-1), valid) for x, y in pulls)
        grams = ((image, image), (text, text), (image, text))
        similar = sum(mse(gram(x, y), target, every) for x, y in grams)
        return (
            config.reconstruction * reconstruction
            + config.structure * structure
            + distance
            + config.gram * similar
        )

    def similarity(self, pairs: Tensor, valid: Tensor) -> Tensor:
        """S ``[C, B, B]`` of pairs ``[C, B, D]``."""
        rows = weighted(pairs, self.sizes.image, self.config.image)
        plain = gram(rows, rows)
        plain = plain.masked_fill(~strongest(plain, valid, 1 - self.config.neighbours), 0)
        identity = torch.eye(plain.shape[-1], dtype=plain.dtype, device=plain.device)
        squashed = 2 * plain.sigmoid() - 1 + identity
        return self.config.first * plain + (1 - self.config.first) * squashed

    def _encode(self, params: Mapping[str, Tensor], pairs: Tensor, target: Tensor) -> list[Tensor]:
        """H^I, H^T and H ``[C, B, d]``."""
        near = target.clamp(min=0)
        graph = near / near.sum(-1, keepdim=True).clamp(min=torch.finfo(near.dtype).tiny)
        features = pairs.tensor_split([self.sizes.image], -1)
        image, text = (
            _apply(encoder, params, rows, graph)
            for encoder, rows in zip(self._encoders, features, strict=True)
        )
        outputs = (image, text, image + text)
        return [normalize(u.tanh() if self.sizes.hashing else u, dim=-1) for u in outputs]

    @property
    def _encoders(self) -> tuple[MLP, MLP]:
        hidden, out = self.config.hidden, self.sizes.code
        image = MLP("cirh.image", (self.sizes.image, hidden, out))
        return image, MLP("cirh.text", (self.sizes.text, hidden, out))

    @property
    def _decoder(self) -> MLP:
        sizes = self.sizes
        return MLP("cirh.decoder", (sizes.code, self.config.hidden, sizes.image + sizes.text))


def _apply(
    mlp: MLP,
    params: Mapping[str, Tensor],
    x: Tensor,  # [C, B, in]
    graph: Tensor | None = None,  # [C, B, B]: every layer is a mean over neighbours
) -> Tensor:  # [C, B, out]
    for layer, (weight, bias) in enumerate(zip(*mlp.layers(params), strict=True)):
        x = x.relu() if layer else x
        x = torch.baddbmm(bias, x if graph is None else graph @ x, weight)
    return x


CIRH = Objective(
    name="cirh",
    options={"cirh": CIRHOptions},
    pairs=lambda config, sizes: CIRHLoss(config.of(CIRHOptions), sizes),
)

"""Unsupervised contrastive cross-modal hashing (Hu et al. 2023, TPAMI 45(3), UCCH).

The client keeps a bank m_j of one fused code a pair; keys k_j = sign(m_j)/√L, or m_j itself where
embeddings are continuous.

every batch of h^I, h^T:
    z_ij = ⟨h_i, k_j⟩ / T
    L_c  = mean_i −log e^{z_ii} / (e^{z_ii} + K/n Σ_j e^{z_ij})  of h = h^I  + the same of h = h^T
    L_r  = mean_i [m − S_ii + log Σ_j e^{S̃_ij}] + the same of Sᵀ
           S = h^I h^Tᵀ,  S̃_ij = S_ij where S_ij ≥ S_ii − m, else S_ij − shift
    L    = a L_c + (1 − a) L_r
    m_i  ← norm(μ m_i + (1 − μ) norm(h^I_i + h^T_i))

In the first pass the batch's own fused codes are the keys, each counted once, and the bank is
filled (μ = 0). A bank lives for one local training.

Not as published: the K negatives are not drawn from the bank with replacement, every one of its n
entries counts K/n times, which is the expectation of the drawn sum and draws nothing; the bank does
not start from random signs, it is not read before the first pass has filled all of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad, softplus

from fedsyn import ops
from fedsyn.models.retrieval import fuse
from fedsyn.objectives.base import Objective
from fedsyn.objectives.pairs.base import Held, PairBatch, PairObjective, Sizes
from fedsyn.objectives.similarity import code, gram, masked_mean, present
from fedsyn.ops.info_nce import MASKED
from fedsyn.settings.sections import Count, Field, Fraction, NonNegative, Positive, Section, Share


class UCCHOptions(Section):
    """Options of the objective UCCH."""

    contrast: Fraction = Field(
        0.9, description="weight a of the contrast with the memory; the rest is of the ranking"
    )
    temperature: Positive = Field(0.9, description="temperature T of the contrast")
    momentum: Share = Field(0.4, description="momentum μ of the memory")
    negatives: Count = Field(4096, description="number K that the entries of the memory count as")
    margin: NonNegative = Field(0.2, description="margin m of the ranking")
    shift: NonNegative = Field(
        1.0, description="what similarities beyond the margin are lowered by"
    )


@dataclass(frozen=True)
class UCCHLoss(PairObjective):
    """Contrast with a memory bank, and a cross-modal ranking loss."""

    config: UCCHOptions
    sizes: Sizes

    def __call__(self, params: Mapping[str, Tensor], batch: PairBatch) -> Tensor:
        """Loss ``[C]`` with the batch's own codes as keys, as in the first pass."""
        return self.total(self.contrast(batch), batch)

    def remember(self, held: Held) -> "Bank":
        """An empty bank of every client."""
        clients, pairs = held.valid.shape
        return Bank(self, held, held.features.new_zeros(clients, pairs + 1, self.sizes.code))

    def total(self, contrast: Tensor, batch: PairBatch) -> Tensor:
        """``a L_c + (1 − a) L_r``, ``[C]``."""
        share = self.config.contrast
        return share * contrast + (1 - share) * self._ranking(batch)

    def contrast(self, batch: PairBatch) -> Tensor:
        """``L_c [C]`` among the keys of the batch."""
        valid = present(batch)
        keys = code(fuse(batch.image, batch.text), self.sizes.hashing)
        own = torch.arange(valid.shape[-1], device=valid.device).where(valid, -1)
        rows, own = torch.cat([batch.image, batch.text], 1), torch.cat([own, own], 1)
        return 2 * ops.prototype_nce(rows, keys, own, 1 / self.config.temperature, valid)

    def _ranking(self, batch: PairBatch) -> Tensor:
        """The ranking loss ``L_r [C]`` of a batch."""
        valid = present(batch)
        similarity = gram(batch.image, batch.text)
        partner = similarity.diagonal(dim1=-2, dim2=-1)

        def one_way(similarity: Tensor) -> Tensor:  # [C, B]
            near = similarity >= partner[..., None] - self.config.margin
            shifted = similarity.where(near, similarity - self.config.shift)
            shifted = shifted.masked_fill(~valid[:, None], MASKED)
            return self.config.margin - partner + shifted.logsumexp(-1)

        return masked_mean(one_way(similarity) + one_way(similarity.mT), valid)


@dataclass(frozen=True)
class Bank:
    """The fused codes of each client's pairs, as its steps have seen them last."""

    objective: UCCHLoss
    held: Held
    entries: Tensor  # [C, N + 1, d] unit rows; the last is where padded rows are written

    def __call__(
        self,
        params: Mapping[str, Tensor],
        batch: PairBatch,
        clients: Tensor,  # [C]
        place: Tensor,  # [C, B]
        step: Tensor,  # []
    ) -> Tensor:
        """Loss ``[C]``; in a client's first pass by the batch alone."""
        place = place.masked_fill(~present(batch), self.entries.shape[1] - 1)
        first = step < self.held.steps[clients]
        alone, remembered = self.objective.contrast(batch), self._contrast(batch, clients, place)
        loss = self.objective.total(alone.where(first, remembered), batch)
        self._update(batch, clients, place, first)
        return loss

    def _contrast(self, batch: PairBatch, clients: Tensor, place: Tensor) -> Tensor:
        """``L_c [C]`` among the keys of all pairs."""
        config, sizes = self.objective.config, self.objective.sizes
        exists = pad(self.held.valid[clients], (0, 1))
        keys = code(self.entries[clients], sizes.hashing)
        own = code(self.entries[clients[:, None], place], sizes.hashing)
        size = exists.sum(-1, keepdim=True).clamp(min=1).to(keys)
        weight = (config.negatives / size).log().where(exists, MASKED)[:, None]  # [C, 1, N + 1]

        def one(rows: Tensor) -> Tensor:  # [C, B]
            rows = rows / config.temperature
            negatives = torch.baddbmm(weight, rows, keys.mT).logsumexp(-1)
            return softplus(negatives - (rows * own).sum(-1))  # −log e^z / (e^z + e^negatives)

        return masked_mean(one(batch.image) + one(batch.text), present(batch))

    @torch.no_grad()
    def _update(self, batch: PairBatch, clients: Tensor, place: Tensor, first: Tensor) -> None:
        """The batch's fused codes into the bank."""
        momentum, at = self.objective.config.momentum, (clients[:, None], place)
        old = self.entries[at].masked_fill(first[:, None, None], 0)
        fused = fuse(batch.image, batch.text)
        self.entries[at] = normalize(momentum * old + (1 - momentum) * fused, dim=-1)


UCCH = Objective(
    name="ucch",
    options={"ucch": UCCHOptions},
    pairs=lambda config, sizes: UCCHLoss(config.of(UCCHOptions), sizes),
)

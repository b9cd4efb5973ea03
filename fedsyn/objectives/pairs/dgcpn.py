"""Deep graph-neighbour coherence preserving network (Yu et al. 2021, AAAI, DGCPN).

A = a cos(F^T) + (1 − a) cos(F^I) of all n pairs that the client holds; Q is A without the self
entries and the lowest of each row, the rest of a row divided by its sum: its neighbours.

every batch, where B^I, B^T are unit rows and IT = B^I B^Tᵀ, ...:
    S = 2 [(1 − b) A + b · scale · n · Q Qᵀ] − 1                 among the pairs of the batch
    L = mean_i (⟨B^I_i, B^T_i⟩ − target)²
      + MSE(TT, S) + MSE(IT, S) + MSE(II, S)                     over i ≠ j
      + MSE(IT, II) + MSE(IT, TT) + MSE(II, TT) + MSE(IT, ITᵀ)

Rows of A and Q are computed when their pairs are in the batch; no n × n matrix is ever held. By the
batch alone, the batch is all that is held.

Not as published: the three updates of a batch (of both networks; of the images' with the texts'
codes held at their signs; the other way round) are the three terms of one update; continuous
embeddings have no signs, and the first term alone. Negative similarities, which the published
non-negative features do not have, are no neighbours.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedsyn.objectives.base import Objective
from fedsyn.objectives.pairs.base import Held, PairBatch, PairObjective, Sizes
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
from fedsyn.settings.sections import Field, Fraction, Positive, Section, Share


class DGCPNOptions(Section):
    """Options of the objective DGCPN."""

    text: Fraction = Field(
        0.3, description="weight 1 − a of text similarities; the rest is of the images'"
    )
    second: Fraction = Field(0.3, description="weight b of the coherence of neighbours")
    dropped: Share = Field(
        0.405, description="share of the lowest similarities of a row that are no neighbours"
    )
    scale: Positive = Field(
        0.9, description="scale of the coherence, times the number of a client's pairs"
    )
    target: Positive = Field(
        1.5, description="scalar product that the two codes of a pair are to have"
    )


@dataclass(frozen=True)
class DGCPNLoss(PairObjective):
    """Codes whose similarities are those of the features and of their neighbourhoods."""

    config: DGCPNOptions
    sizes: Sizes

    def __call__(self, params: Mapping[str, Tensor], batch: PairBatch) -> Tensor:
        """Loss ``[C]`` with the neighbours that pairs have within the batch."""
        valid, rows = present(batch), self.rows(batch.pairs)
        place = torch.arange(valid.shape[-1], device=valid.device).expand_as(valid)
        return self.loss(batch, self.similarity(rows, rows, place, valid))

    def remember(self, held: Held) -> "Neighbours":
        """The features of every client, among which neighbours are found."""
        return Neighbours(self, held, self.rows(held.pairs))

    def rows(self, pairs: Tensor) -> Tensor:
        """Rows ``[C, B, D]`` whose scalar products are A."""
        return weighted(pairs, self.sizes.image, 1 - self.config.text)

    def similarity(
        self,
        rows: Tensor,  # [C, B, D] of the batch
        held: Tensor,  # [C, N, D] of all pairs
        place: Tensor,  # [C, B] long, of the batch in what is held
        exists: Tensor,  # [C, N] bool
    ) -> Tensor:  # [C, B, B]
        """S among the pairs of a batch."""
        config = self.config
        plain = gram(rows, held)
        near = plain.clamp(min=0).masked_fill(~strongest(plain, exists, config.dropped), 0)
        near = near.scatter(-1, place[..., None], 0)
        share = near / near.sum(-1, keepdim=True).clamp(min=torch.finfo(near.dtype).tiny)
        coherence = config.scale * exists.sum(-1)[:, None, None] * gram(share, share)
        return 2 * ((1 - config.second) * gram(rows, rows) + config.second * coherence) - 1

    def loss(self, batch: PairBatch, similarity: Tensor) -> Tensor:
        """Loss ``[C]`` of embeddings that should have ``similarity [C, B, B]``."""
        image, text, valid = batch.image, batch.text, present(batch)
        total = self._term(image, text, similarity, valid)
        if self.sizes.hashing:
            total = total + self._term(image, code(text, True), similarity, valid)
            total = total + self._term(code(image, True), text, similarity, valid)
        return total

    def _term(self, image: Tensor, text: Tensor, similarity: Tensor, valid: Tensor) -> Tensor:
        ii, it, tt = gram(image, image), gram(image, text), gram(text, text)
        every = both(valid)
        apart = every & ~torch.eye(valid.shape[-1], dtype=torch.bool, device=valid.device)
        partner = it.diagonal(dim1=-2, dim2=-1)
        fits = [mse(own, similarity, apart) for own in (tt, it, ii)]
        agree = [mse(x, y, every) for x, y in ((it, ii), (it, tt), (ii, tt), (it, it.mT))]
        return masked_mean((partner - self.config.target).square(), valid) + sum(fits + agree)


@dataclass(frozen=True)
class Neighbours:
    """The pairs that each client holds, among which those of a batch have their neighbours."""

    objective: DGCPNLoss
    held: Held
    rows: Tensor  # [C, N, D]

    def __call__(
        self,
        params: Mapping[str, Tensor],
        batch: PairBatch,
        clients: Tensor,  # [C]
        place: Tensor,  # [C, B]
        step: Tensor,  # []
    ) -> Tensor:
        """Loss ``[C]`` with the neighbours that pairs have among all that their client holds."""
        rows, exists = self.objective.rows(batch.pairs), self.held.valid[clients]
        similarity = self.objective.similarity(rows, self.rows[clients], place, exists)
        return self.objective.loss(batch, similarity)


DGCPN = Objective(
    name="dgcpn",
    options={"dgcpn": DGCPNOptions},
    pairs=lambda config, sizes: DGCPNLoss(config.of(DGCPNOptions), sizes),
)

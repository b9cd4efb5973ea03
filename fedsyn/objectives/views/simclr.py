"""SimCLR (Chen et al. 2020, arXiv 2002.05709, algorithm 1).

L = mean over all 2n views i of  −log [ e^{⟨z_i, z_p(i)⟩/τ} / Σ_{j ≠ i} e^{⟨z_i, z_j⟩/τ} ]

p(i) is the other view of i's picture, j runs over both views of all pictures of the batch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedsyn.models.representation import RepresentationNet
from fedsyn.objectives.base import Objective
from fedsyn.objectives.similarity import gram, masked_mean
from fedsyn.objectives.views.base import Learner, Seen, ViewObjective, Views
from fedsyn.ops.info_nce import MASKED
from fedsyn.settings.sections import Field, Positive, Section


class SimCLROptions(Section):
    """Options of the objective SimCLR."""

    temperature: Positive = Field(0.2, description="temperature τ")


@dataclass(frozen=True)
class SimCLRObjective(ViewObjective):
    """The other view among all other views of the batch."""

    temperature: float

    def begin(self, net: RepresentationNet, like: Tensor) -> Learner:
        """A learner that remembers nothing."""

        def learn(params: Tensor, clients: Tensor, views: Views, step: Tensor) -> Seen:
            features = net.encode(params, views.both)
            rows = net.project(params, features, views.both_valid)
            loss = nt_xent(rows, views.valid, self.temperature)
            return Seen(loss, features.chunk(2, 1)[0], views.valid)

        return learn


def nt_xent(
    rows: Tensor,  # [C, 2B, d] unit rows: the first views, then the second
    valid: Tensor,  # [C, B] bool
    temperature: float,
) -> Tensor:  # [C]
    """The normalised temperature-scaled cross-entropy."""
    taken = valid.repeat(1, 2)
    logits = gram(rows, rows) / temperature
    own = torch.eye(rows.shape[1], dtype=torch.bool, device=rows.device)
    logits = logits.masked_fill(own | ~taken[:, None], MASKED)
    other = (rows * rows.roll(valid.shape[1], 1)).sum(-1) / temperature
    return masked_mean(logits.logsumexp(-1) - other, taken)


SIMCLR = Objective(
    name="simclr",
    options={"simclr": SimCLROptions},
    views=lambda config: SimCLRObjective(config.of(SimCLROptions).temperature),
)

"""What clients minimise who classify pairs whose halves may be missing: cross-entropy.

L = CE(fusion head) + weight · [CE(image classifier) + CE(text classifier)]

each the mean over the labelled rows of a client's batch; a classifier's over those with its half.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from fedsyn.core.cohort import Cohort
from fedsyn.core.training import Training
from fedsyn.models.fusion import Both, FusionNet, Reading
from fedsyn.objectives.classes.losses import cross_entropy
from fedsyn.settings.sections import Field, NonNegative, Section


class HalvesOptions(Section):
    """What objectives of pairs by both halves have in common."""

    modality: NonNegative = Field(
        0.0,
        description="weight of a modality's own classifier, where the method sets none",
    )


class HalvesBatch(NamedTuple):
    """A batch of every client, and what its model makes of it."""

    features: Tensor  # [C, B, D]
    reading: Reading
    label: Tensor  # [C, B] long, -1 is unlabelled
    present: Tensor  # [C, B, 2] bool: has the row its image, its text?
    valid: Tensor  # [C, B] bool; other rows take no part

    @property
    def target(self) -> Tensor:
        """The labels, and any class where there is none ``[C, B]``."""
        return self.label.clamp(min=0)

    @property
    def labelled(self) -> Tensor:
        """The rows that there is something to learn from ``[C, B]``."""
        return self.valid & (self.label >= 0)

    @property
    def whole(self) -> Tensor:
        """Those of them with both halves ``[C, B]``."""
        return self.labelled & self.present.all(-1)


# loss(params [c, P], clients [c], batch, step []) -> [c], as clients minimise it: positions of the
# clients in the cohort, and the number of the step.
LocalLoss = Callable[[Tensor, Tensor, HalvesBatch, Tensor], Tensor]


@dataclass(frozen=True)
class HalvesObjective:
    """Cross-entropy of the fusion head, and of both modalities' classifiers.

    It is the base of all that clients minimise who classify such pairs.
    """

    modality: float  # weight of each classifier

    def __call__(self, net: FusionNet, batch: HalvesBatch) -> Tensor:
        """Loss ``[C]`` of a batch, in nats."""
        return self.total(net, batch, batch.reading.fused, batch.labelled)

    def training(
        self, net: FusionNet, cohort: Cohort, training: Training, purpose: str
    ) -> LocalLoss:
        """The loss of one local training; here that of each batch."""
        return lambda params, clients, batch, step: self(net, batch)

    def total(self, net: FusionNet, batch: HalvesBatch, fused: Both, mask: Tensor) -> Tensor:
        """The loss ``[C]``, of the fusion head given ``fused`` and over the rows in ``mask``."""
        parts, target = batch.reading.parts, batch.target
        image, text = net.halves(parts, fused)
        loss = cross_entropy(image + text, target, mask)
        if not self.modality:
            return loss
        for logits, half in zip(
            net.classify(parts, batch.reading.own), batch.present.unbind(-1), strict=True
        ):
            loss = loss + self.modality * cross_entropy(logits, target, batch.labelled & half)
        return loss

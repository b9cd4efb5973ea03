"""What clients minimise who classify pairs: cross-entropy.

L = CE(fusion head) + weight · [CE(image classifier) + CE(text classifier)]

each the mean over the labelled rows of a client's batch; a classifier's over those with its half.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from fedsyn.config import MethodConfig
from fedsyn.core.cohort import Cohort
from fedsyn.models.fusion import Both, FusionNet, Reading
from fedsyn.objectives.classes.cross_entropy import cross_entropy


class Batch(NamedTuple):
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
Training = Callable[[Tensor, Tensor, Batch, Tensor], Tensor]


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy of the fusion head, and of both modalities' classifiers."""

    modality: float  # weight of each classifier

    def __call__(self, net: FusionNet, batch: Batch) -> Tensor:
        """Loss ``[C]`` of a batch, in nats."""
        return self.total(net, batch, batch.reading.fused, batch.labelled)

    def training(
        self, net: FusionNet, cohort: Cohort, config: MethodConfig, purpose: str
    ) -> Training:
        """The loss of one local training; here that of each batch."""
        return lambda params, clients, batch, step: self(net, batch)

    def total(self, net: FusionNet, batch: Batch, fused: Both, mask: Tensor) -> Tensor:
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

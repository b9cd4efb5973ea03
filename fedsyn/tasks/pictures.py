"""What tasks of pictures have in common: random views, each client's from its own stream."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fedsyn.core.batches import steps
from fedsyn.core.cohort import Cohort
from fedsyn.core.training import Training
from fedsyn.data import augment
from fedsyn.data.augment import AugmentConfig
from fedsyn.data.silos import Silo
from fedsyn.models.resnet import ResNet
from fedsyn.tasks.base import Net, Problem

BLOCK = 256  # pictures that a model looks at at a time, where it is not trained


class PictureNet(Net, Protocol):
    """A network that begins with a residual one."""

    @property
    def encoder(self) -> ResNet:
        """The residual network that encodes pictures."""


@dataclass(frozen=True, kw_only=True)
class PictureProblem(Problem):
    """A problem whose features are pixels, looked at through random views."""

    net: PictureNet
    augment: AugmentConfig

    def rows(self, silo: Silo) -> np.ndarray:
        """All rows that have a picture, whatever else they have lost."""
        return np.union1d(silo.pairs, silo.images)

    def numbers(self, cohort: Cohort, training: Training, purpose: str, *views: int) -> Tensor:
        """The numbers ``[S, C, B, *views, 11]`` of the views in each step of a local training."""
        taken = steps(cohort.sizes, training.batch, training.epochs).tolist()
        drawn = [
            augment.draw([stream], count, training.batch, *views)[0]
            for stream, count in zip(cohort.streams(f"{purpose}.views"), taken, strict=True)
        ]
        return pad_sequence(drawn).to(self.features)

    def view(self, index: Tensor, numbers: Tensor) -> Tensor:
        """A view ``[..., D]`` of each picture ``index [...]``, by numbers ``[..., 11]``."""
        pictures = self.features[index].unflatten(-1, self.net.encoder.picture)
        return augment.augment(pictures, numbers, self.augment).flatten(-3)

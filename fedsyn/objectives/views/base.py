"""The shape of an objective of pictures: two random views of each should be alike.

What such an objective remembers within a local training (slow copies of models, queues of what
they have seen) is of a `Learner`, made anew for each.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fedsyn.models.representation import RepresentationNet
from fedsyn.objectives.pairs.base import PairBatch, PairObjective


class Views(NamedTuple):
    """Two views of each picture of a batch."""

    first: Tensor  # [C, B, H·W·channels]
    second: Tensor  # [C, B, H·W·channels]
    valid: Tensor  # [C, B] bool; other rows take no part

    @property
    def both(self) -> Tensor:  # [C, 2B, H·W·channels]
        """The first views, then the second."""
        return torch.cat([self.first, self.second], 1)

    @property
    def both_valid(self) -> Tensor:  # [C, 2B] bool
        """Which of `both` take part."""
        return self.valid.repeat(1, 2)


class Seen(NamedTuple):
    """What a step has made of its batch."""

    loss: Tensor  # [C]
    features: Tensor  # [C, B, width] of the first views
    valid: Tensor  # [C, B] bool


class Learner(Protocol):
    """One local training of some clients."""

    def __call__(
        self,
        params: Tensor,  # [c, P]
        clients: Tensor,  # [c] long, positions of these clients among those
        views: Views,
        step: Tensor,  # [] long
    ) -> Seen:
        """The step's loss; may change what is remembered of its clients."""


class ViewObjective(Protocol):
    """What a client minimises on two views of pictures."""

    @property
    def predicts(self) -> bool:
        """Whether the network needs a predictor."""
        return False

    def accept(self, batch: int) -> None:
        """Raise `fedsyn.errors.ConfigError` where it cannot learn from batches of that size."""
        return

    def begin(self, net: RepresentationNet, like: Tensor) -> Learner:
        """The learner of clients whose models are rows of a matrix like ``like [C, P]``."""


@dataclass(frozen=True)
class Paired(ViewObjective):
    """An objective of pairs, where the views of a picture are the pair."""

    objective: PairObjective

    def begin(self, net: RepresentationNet, like: Tensor) -> Learner:
        """A learner that remembers nothing."""

        def learn(params: Tensor, clients: Tensor, views: Views, step: Tensor) -> Seen:
            features = net.encode(params, views.both)
            first, second = net.project(params, features, views.both_valid).chunk(2, 1)
            batch = PairBatch(first, second, views.first, views.valid)
            return Seen(self.objective({}, batch), features.chunk(2, 1)[0], views.valid)

        return learn


@dataclass(frozen=True)
class Momentum:
    """Slow copies of models, θ_k ← m θ_k + (1 − m) θ before every step.

    Unless they ``begun`` earlier, they are the models themselves in the first step.
    """

    models: Tensor  # [C, P], changed in place
    rate: float  # m
    begun: bool = False

    @torch.no_grad()
    def follow(self, params: Tensor, clients: Tensor, step: Tensor) -> Tensor:  # [c, P]
        """The slow copies of these clients' models ``[c, P]``, a step on."""
        weight = torch.full_like(step, self.rate, dtype=params.dtype)
        if not self.begun:
            weight = weight.where(step > 0, 0)
        slow = torch.lerp(params, self.models[clients], weight)
        self.models[clients] = slow
        return slow

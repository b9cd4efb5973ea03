"""Momentum contrast, MoCo (He et al. 2020, arXiv 1911.05722, algorithm 1).

every batch, of views x and x⁺:
    θ_k ← m θ_k + (1 − m) θ
    q = f(x; θ),  k⁺ = f(x⁺; θ_k)
    put the keys k⁺ of the batch into the queue, for the oldest there
    L = mean −log [ e^{⟨q, k⁺⟩/τ} / Σ_{k in the queue} e^{⟨q, k⟩/τ} ]

A queue lives for one local training and begins empty, so the batch's keys are put into it before
they are contrasted, not after: other pictures' keys of the same batch are negatives too.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedsyn import ops
from fedsyn.errors import ConfigError
from fedsyn.models.representation import RepresentationNet
from fedsyn.objectives.base import Objective, ObjectiveConfig
from fedsyn.objectives.views.base import Learner, Momentum, Seen, ViewObjective, Views
from fedsyn.settings.sections import Count, Field, Positive, Section, Share


class MoCoOptions(Section):
    """Options of the objective MoCo."""

    temperature: Positive = Field(0.1, description="temperature τ")
    momentum: Share = Field(
        0.9,
        description="momentum m of the slow encoder; 0.99 where a client takes hundreds of steps "
        "a round",
    )
    queue: Count = Field(
        256,
        description="keys in the queue of a client: at least a batch, and fewer than it has "
        "pictures",
    )


@dataclass(frozen=True)
class Queue:
    """The latest keys of each client: first in, first out."""

    keys: Tensor  # [C, K + 1, d] unit rows; the last is where padded rows are written
    count: Tensor  # [C] long, keys that have come

    @property
    def size(self) -> int:
        """The most keys that a client has."""
        return self.keys.shape[1] - 1

    def put(self, clients: Tensor, keys: Tensor, valid: Tensor) -> Tensor:  # [c, B] long
        """Let keys ``[c, B, d]``, at most as many as there is place for, take the oldest places.

        Returns their places; -1 where not ``valid``.
        """
        place = (self.count[clients, None] + valid.cumsum(-1) - 1) % self.size
        self.keys[clients[:, None], place.where(valid, self.size)] = keys
        self.count[clients] += valid.sum(-1)
        return place.masked_fill(~valid, -1)

    def held(self, clients: Tensor) -> tuple[Tensor, Tensor]:  # [c, K + 1, d], [c, K + 1] bool
        """All places, and which of them hold keys."""
        count = self.count[clients, None].clamp(max=self.size)
        return self.keys[clients], torch.arange(self.size + 1, device=count.device) < count


def empty(clients: int, size: int, dim: int, like: Tensor) -> Queue:
    """Queues without keys, of the dtype and device of ``like``."""
    return Queue(like.new_zeros(clients, size + 1, dim), like.new_zeros(clients, dtype=torch.long))


@dataclass(frozen=True)
class MoCoObjective(ViewObjective):
    """The other view among all keys of a queue."""

    temperature: float
    momentum: float
    queue: int

    def accept(self, batch: int) -> None:
        """Refuse batches that the queue does not hold."""
        if self.queue < batch:
            raise ConfigError(
                f"objective.moco.queue = {self.queue} is less than method.batch = {batch}; "
                "expected a queue that holds a batch"
            )

    def begin(self, net: RepresentationNet, like: Tensor) -> Learner:
        """A learner with empty queues."""
        momentum = Momentum(torch.zeros_like(like), self.momentum)
        queue = empty(len(like), self.queue, net.head.widths[-1], like)
        return Contrast(net, self.temperature, momentum, queue)


@dataclass(frozen=True)
class Contrast(Learner):
    """The momentum encoders and queues of one local training."""

    net: RepresentationNet
    temperature: float
    momentum: Momentum
    queue: Queue

    def __call__(self, params: Tensor, clients: Tensor, views: Views, step: Tensor) -> Seen:
        """The contrast of the batch with the queue."""
        features, query = self.look(params, views)
        own = self.remember(params, clients, views, step)
        keys, exists = self.queue.held(clients)
        loss = ops.prototype_nce(query, keys, own, 1 / self.temperature, exists)
        return Seen(loss, features, views.valid)

    def look(self, params: Tensor, views: Views) -> tuple[Tensor, Tensor]:
        """Features ``[c, B, width]`` of the first views, and their queries ``[c, B, d]``."""
        features = self.net.encode(params, views.first)
        return features, self.net.project(params, features, views.valid)

    @torch.no_grad()
    def remember(self, params: Tensor, clients: Tensor, views: Views, step: Tensor) -> Tensor:
        """Put the second views' keys into the queue; their places ``[c, B]``, -1 where padded."""
        slow = self.momentum.follow(params, clients, step)
        keys = self.net.project(slow, self.net.encode(slow, views.second), views.valid)
        return self.queue.put(clients, keys, views.valid)


def _build(config: ObjectiveConfig) -> MoCoObjective:
    own = config.of(MoCoOptions)
    return MoCoObjective(own.temperature, own.momentum, own.queue)


MOCO = Objective(name="moco", options={"moco": MoCoOptions}, views=_build)

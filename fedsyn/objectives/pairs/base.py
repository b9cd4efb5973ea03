"""The shape of an objective: a loss of a batch of pairs, batched over clients."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Sizes(NamedTuple):
    """What an objective is built for."""

    image: int  # image features of a pair, which come first
    text: int  # text features
    code: int  # size of an embedding
    hashing: bool  # embeddings are relaxed hash codes


class PairBatch(NamedTuple):
    """A batch of every client, and its embeddings by the client's model."""

    image: Tensor  # [C, B, d] unit rows
    text: Tensor  # [C, B, d] unit rows
    pairs: Tensor  # [C, B, D] concatenated features
    valid: Tensor | None = None  # [C, B] bool; other rows take no part


@dataclass(frozen=True)
class Held:
    """All pairs that each client trains on, padded to the most of any."""

    features: Tensor  # [R, D] concatenated pairs
    index: Tensor  # [C, N] long, rows of them
    valid: Tensor  # [C, N] bool
    steps: Tensor  # [C] long, steps of one pass over them

    @property
    def pairs(self) -> Tensor:
        """The pairs themselves ``[C, N, D]``; anything where not ``valid``."""
        return self.features[self.index]


class Memory(Protocol):
    """What an objective remembers of each client over one local training."""

    def __call__(
        self,
        params: Mapping[str, Tensor],
        batch: PairBatch,
        clients: Tensor,  # [C] long, positions of the batch's clients in what is held
        place: Tensor,  # [C, B] long, positions of the batch's pairs in what is held
        step: Tensor,  # [] long
    ) -> Tensor:
        """Loss ``[C]`` of the step's batch; may change what is remembered of its pairs."""


class PairObjective(Protocol):
    """What a client minimises without labels."""

    def parameters(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Parameters that are trained with the network, name to initial value; by default none."""
        return {}

    def __call__(self, params: Mapping[str, Tensor], batch: PairBatch) -> Tensor:
        """Loss ``[C]`` by the batch alone, as the server and held-out pairs have it."""

    def remember(self, held: Held) -> Memory | None:
        """The loss of a local training; by default ``None``: nothing beyond the batch matters."""
        return None

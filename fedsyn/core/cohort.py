"""A cohort: the clients that are computed together, and what each of them holds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from fedsyn import streams


@dataclass(frozen=True)
class Extra:
    """Pairs that all clients were sent: every batch of a client's own is joined by some of them."""

    rows: np.ndarray  # of the data
    batch: int  # how many join a batch, at most ``len(rows)``


@dataclass(frozen=True)
class Cohort:
    """Clients of one stacked computation in one round, in client-id order."""

    ids: tuple[int, ...]
    rows: tuple[np.ndarray, ...]  # rows of each client's training pairs
    seed: int
    round_number: int
    extra: Extra | None = None

    @property
    def sizes(self) -> list[int]:
        """Training pairs of each client."""
        return [len(rows) for rows in self.rows]

    def streams(self, purpose: str) -> list[torch.Generator]:
        """One generator a client for this round and purpose."""
        return [
            streams.generator(self.seed, purpose, self.round_number, client) for client in self.ids
        ]

    def take(self, positions: Sequence[int]) -> "Cohort":
        """The clients at these positions."""
        ids = tuple(self.ids[p] for p in positions)
        return replace(self, ids=ids, rows=tuple(self.rows[p] for p in positions))


def chunks(cohort: Cohort, stack: int, workers: int = 1) -> list[Cohort]:
    """The cohort in consecutive pieces of at most ``stack`` clients, as equal as can be.

    There are as many for each of ``workers``, so that none waits for the others.
    """
    turns = -(-len(cohort.ids) // (stack * workers))
    pieces = np.array_split(np.arange(len(cohort.ids)), max(turns * workers, 1))
    return [cohort.take(piece.tolist()) for piece in pieces if len(piece)]

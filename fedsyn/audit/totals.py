"""Sums over clients, as a server receives them or as masks leave them."""

from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor


@dataclass(frozen=True)
class Total:
    """A sum over some clients, as it was received.

    Attributes
    ----------
    round_number : int
    ids : frozenset of int
        The clients that it is of.
    value : Tensor
        Σ w x, in float64.
    weight : float
        Σ w; 1 for each client, or message, of which none was sent.
    own : bool
        Whether it travelled as the clients' own, for somebody to look at.
    """

    round_number: int
    ids: frozenset[int]
    value: Tensor
    weight: float
    own: bool = False

    def __add__(self, other: "Total") -> "Total":
        value, weight = self.value + other.value, self.weight + other.weight
        return Total(self.round_number, self.ids | other.ids, value, weight, self.own)

    def without(self, other: "Total") -> "Total":
        """The sum over the clients that ``other`` is not of."""
        value, weight = self.value - other.value, self.weight - other.weight
        return Total(self.round_number, self.ids - other.ids, value, weight, self.own)

    @property
    def mean(self) -> Tensor:
        """Σ w x / Σ w; zeros where nobody has a say."""
        return self.value / self.weight if self.weight > 0 else torch.zeros_like(self.value)


Arrived = tuple[Total, ...]  # a sum in one round, message by message


def together(arrived: Arrived) -> Total:
    """A sum over all clients of a round, which is all that masks leave of it."""
    return reduce(add, arrived)

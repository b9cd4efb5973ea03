"""What clients think of models: a criterion on the held-out rows of each, without labels."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Judgement:
    """The criterion on the held-out rows of some clients.

    Attributes
    ----------
    ids : tuple of int
        The clients.
    losses : tuple of tuple of float
        ``[models][clients]``, means over a client's rows; lower is better.
    pairs : tuple of int
        ``[clients]``, rows judged.
    bytes_up, bytes_down : int
        What it has cost to ask.
    """

    ids: tuple[int, ...]
    losses: tuple[tuple[float, ...], ...]
    pairs: tuple[int, ...]
    bytes_up: int = 0
    bytes_down: int = 0

    def mean(self, model: int, ids: Iterable[int]) -> float:
        """Over the rows of these clients, of those who were asked; NaN where there are none."""
        asked, total, pairs = set(ids), 0.0, 0
        for client, loss, count in zip(self.ids, self.losses[model], self.pairs, strict=True):
            if client in asked:
                total, pairs = total + loss * count, pairs + count
        return total / pairs if pairs else float("nan")

    def of(self, models: Sequence[int]) -> "Judgement":
        """The same judgement of these models alone."""
        return replace(self, losses=tuple(self.losses[model] for model in models))

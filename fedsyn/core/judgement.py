"""What clients think of models: a criterion on the held-out rows of each, without labels."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


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
    recalls : tuple of tuple of float
        As ``losses``, how often a row's own partner is among the first; empty where rows have none.
    bytes_up, bytes_down : int
        What it has cost to ask.
    """

    ids: tuple[int, ...]
    losses: tuple[tuple[float, ...], ...]
    pairs: tuple[int, ...]
    recalls: tuple[tuple[float, ...], ...] = ()
    bytes_up: int = 0
    bytes_down: int = 0

    def mean(self, model: int, ids: Iterable[int]) -> float:
        """The criterion over the rows of these clients, of those who were asked; NaN of none."""
        return self._mean(self.losses[model], ids)

    def recall(self, model: int, ids: Iterable[int]) -> float | None:
        """The recall over the same rows, where they have one."""
        return self._mean(self.recalls[model], ids) if self.recalls else None

    def _mean(self, values: Sequence[float], ids: Iterable[int]) -> float:
        asked, total, pairs = set(ids), 0.0, 0
        for client, value, count in zip(self.ids, values, self.pairs, strict=True):
            if client in asked:
                total, pairs = total + value * count, pairs + count
        return total / pairs if pairs else float("nan")

    def best(self, ids: Sequence[int]) -> int:
        """The model that these clients like best: the first of those that they like alike.

        The first of all where they have nothing to judge by.
        """
        means = [self.mean(model, ids) for model in range(len(self.losses))]
        return min(
            range(len(means)), key=lambda model: (means[model] != means[model], means[model])
        )

    def of(self, models: Sequence[int]) -> "Judgement":
        """The same judgement of these models alone."""
        recalls = tuple(self.recalls[model] for model in models) if self.recalls else ()
        return replace(self, losses=tuple(self.losses[model] for model in models), recalls=recalls)


def mixtures(models: Sequence[Tensor], shares: Sequence[float]) -> list[Tensor]:
    """The models to be judged: these, or (1 − λ) · first + λ · second for each share λ."""
    if not shares:
        return list(models)
    first, second = models
    return [torch.lerp(first, second, share) for share in shares]

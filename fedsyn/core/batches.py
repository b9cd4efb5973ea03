"""Batches of a cohort: ragged clients and unequal numbers of steps as padded indices and masks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

NOTHING = torch.zeros(0, dtype=torch.long)


@dataclass(frozen=True)
class Batches:
    """Row numbers of every step of every client.

    Client ``c`` takes ``steps[c]`` steps; later ones are empty.
    """

    index: Tensor  # [S, C, B] long, rows of the data; 0 where padded
    valid: Tensor  # [S, C, B] bool
    steps: Tensor  # [C] long


def epochs(
    rows: Sequence[np.ndarray],  # one array of row numbers a client
    batch: int,
    count: int,
    generators: Sequence[torch.Generator],  # one a client
) -> Batches:
    """``count`` shuffled passes over each client's rows in batches of at most ``batch``.

    A pass over n rows is cut into ceil(n / batch) batches of nearly equal size, so that no pass
    ends on a remnant too small to contrast. A client with fewer than two rows takes no steps.
    """
    return _pad(
        [
            _pieces(torch.from_numpy(held), batch, generator, count)
            for held, generator in zip(rows, generators, strict=True)
        ],
        batch,
    )


def in_order(rows: Sequence[np.ndarray], batch: int) -> Batches:
    """One pass over each client's rows as they come, for evaluation."""
    return _pad([_pieces(torch.from_numpy(held), batch) for held in rows], batch)


def _pieces(
    rows: Tensor, batch: int, generator: torch.Generator | None = None, count: int = 1
) -> list[Tensor]:
    if len(rows) < 2:
        return []
    pieces: list[Tensor] = []
    for _ in range(count):
        order = torch.arange(len(rows))
        if generator is not None:
            order = torch.randperm(len(rows), generator=generator)
        pieces.extend(rows[order].tensor_split(math.ceil(len(rows) / batch)))
    return pieces


def _pad(plans: Sequence[Sequence[Tensor]], batch: int) -> Batches:
    steps = torch.tensor([len(plan) for plan in plans])
    longest = int(steps.max()) if len(plans) else 0
    index = torch.zeros(longest, len(plans), batch, dtype=torch.long)
    valid = torch.zeros(longest, len(plans), batch, dtype=torch.bool)
    for step in range(longest):
        taken = [plan[step] if step < len(plan) else NOTHING for plan in plans]
        index[step], valid[step] = padded(taken, batch)
    return Batches(index, valid, steps)


def padded(rows: Sequence[Tensor], width: int) -> tuple[Tensor, Tensor]:
    """Ragged row numbers as ``[C, width]`` (0 where padded) and their mask."""
    index = torch.zeros(len(rows), width, dtype=torch.long)
    valid = torch.zeros(len(rows), width, dtype=torch.bool)
    for client, chosen in enumerate(rows):
        index[client, : len(chosen)] = chosen
        valid[client, : len(chosen)] = True
    return index, valid


def draws(
    sizes: Sequence[int], steps: int, batch: int, generators: Sequence[torch.Generator]
) -> Tensor:  # [S, C, B] long
    """Positions drawn with replacement from each client's rows: always full batches."""
    return torch.stack(
        [
            torch.randint(max(size, 1), (steps, batch), generator=generator)
            for size, generator in zip(sizes, generators, strict=True)
        ],
        dim=1,
    )

"""Batches of a cohort: ragged clients and unequal numbers of steps as padded indices and masks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


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
    orders = []
    for held, generator in zip(rows, generators, strict=True):
        passes = count if len(held) > 1 else 0
        orders.append([torch.randperm(len(held), generator=generator) for _ in range(passes)])
    return _cut(rows, orders, batch)


def in_order(rows: Sequence[np.ndarray], batch: int) -> Batches:
    """One pass over each client's rows as they come, for evaluation."""
    return _cut(rows, [[torch.arange(len(held))] if len(held) > 1 else [] for held in rows], batch)


def _cut(
    rows: Sequence[np.ndarray],
    orders: Sequence[Sequence[Tensor]],  # of each client, of each pass, the order of its rows
    batch: int,
) -> Batches:
    steps = [len(o) * math.ceil(len(held) / batch) for held, o in zip(rows, orders, strict=True)]
    index = torch.zeros(max(steps, default=0), len(rows), batch, dtype=torch.long)
    valid = torch.zeros(index.shape, dtype=torch.bool)
    for client, (held, passes) in enumerate(zip(rows, orders, strict=True)):
        if not passes:
            continue
        # The first few batches of a pass are longer by one, as torch.tensor_split has it.
        short, longer = divmod(len(held), steps[client] // len(passes))
        position = torch.arange(len(held))
        step = torch.where(
            position < longer * (short + 1), position // (short + 1),
            (position - longer) // max(short, 1),
        )  # fmt: skip
        place = position - step * short - step.clamp(max=longer)
        mine = torch.from_numpy(held)
        for number, order in enumerate(passes):
            at = step + number * (steps[client] // len(passes))
            index[at, client, place] = mine[order]
            valid[at, client, place] = True
    return Batches(index, valid, torch.tensor(steps, dtype=torch.long))


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

"""Batches of a cohort: ragged clients and unequal numbers of steps as padded indices and masks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

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


def join(
    batches: Batches,
    rows: np.ndarray,  # [R], of the data
    count: int,
    generators: Sequence[torch.Generator],  # one a client
) -> Batches:
    """Every batch with ``count`` of ``rows`` behind its own, drawn without replacement each time.

    Empty batches stay empty.
    """
    sizes = batches.valid.sum(-1)
    index, valid = (torch.nn.functional.pad(v, (0, count)) for v in (batches.index, batches.valid))
    extra = torch.from_numpy(rows)
    for client, (steps, generator) in enumerate(
        zip(batches.steps.tolist(), generators, strict=True)
    ):
        drawn = torch.rand(steps, len(rows), generator=generator).argsort(-1)[:, :count]
        places = sizes[:steps, client, None] + torch.arange(count)
        index[:steps, client] = index[:steps, client].scatter(-1, places, extra[drawn])
        valid[:steps, client] = valid[:steps, client].scatter(-1, places, True)
    return Batches(index, valid, batches.steps)


def _cut(
    rows: Sequence[np.ndarray],
    orders: Sequence[Sequence[Tensor]],  # of each client, of each pass, the order of its rows
    batch: int,
) -> Batches:
    cuts = [_places(len(held), batch) for held in rows]
    steps = [len(order) * pieces for order, (pieces, _, _) in zip(orders, cuts, strict=True)]
    index = np.zeros((max(steps, default=0), len(rows), batch), dtype=np.int64)
    valid = np.zeros(index.shape, dtype=bool)
    for client, (held, passes, (pieces, step, place)) in enumerate(
        zip(rows, orders, cuts, strict=True)
    ):
        for number, order in enumerate(passes):
            at = (step + number * pieces, client, place)
            index[at] = held[order.numpy()]
            valid[at] = True
    return Batches(torch.from_numpy(index), torch.from_numpy(valid), torch.tensor(steps))


@lru_cache(maxsize=1024)
def _places(rows: int, batch: int) -> tuple[int, np.ndarray, np.ndarray]:
    """Into how many batches a pass is cut, and each row's batch and its place there.

    The first few are longer by one, as ``torch.tensor_split`` has it.
    """
    pieces = math.ceil(rows / batch)
    short, longer = divmod(rows, max(pieces, 1))
    lengths = np.full(pieces, short)
    lengths[:longer] += 1
    step = np.repeat(np.arange(pieces), lengths)
    return pieces, step, np.arange(rows) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def steps(sizes: Sequence[int], batch: int, count: int) -> Tensor:
    """How many steps ``count`` passes of `epochs` have for clients of these sizes, long ``[C]``."""
    return torch.tensor([count * math.ceil(size / batch) if size > 1 else 0 for size in sizes])


def everything(
    rows: Sequence[np.ndarray],  # one array of row numbers a client
    device: torch.device,
) -> tuple[Tensor, Tensor]:  # [C, N], [C, N]
    """All rows of each client, padded to the most of any (at least one), and their mask."""
    width = max(1, *map(len, rows))
    index, valid = padded([torch.from_numpy(held) for held in rows], width)
    return index.to(device), valid.to(device)


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

"""Payloads: what travels, as flat ``dict[str, Tensor]``.

In a cohort a payload is stacked: every tensor has the leading client axis ``[C, ...]``. A client's
payload is its row. Counts are tensors like everything else, so bytes are simply counted.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

Payload = dict[str, Tensor]


def nbytes(payload: Mapping[str, Tensor]) -> int:
    """Bytes of all tensors on the wire."""
    return sum(value.numel() * value.element_size() for value in payload.values())


def concatenate(chunks: Iterable[Mapping[str, Tensor]]) -> Payload:
    """One stacked payload from stacked chunks, in order."""
    chunks = list(chunks)
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}


def append(known: Mapping[str, Tensor], more: Mapping[str, Tensor]) -> Payload:
    """Each tensor of ``more``, behind the rows that are ``known`` under its name."""
    return {n: torch.cat([known[n], rows]) if n in known else rows for n, rows in more.items()}

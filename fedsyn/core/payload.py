"""Payloads: what travels, as flat ``dict[str, Tensor]``.

In a cohort a payload is stacked: every tensor has the leading client axis ``[C, ...]``. A client's
payload is its row. Counts are tensors like everything else, so bytes are simply counted.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

Payload = dict[str, Tensor]


def nbytes(payload: Mapping[str, Tensor]) -> int:
    """Bytes of all tensors on the wire."""
    return sum(value.numel() * value.element_size() for value in payload.values())


def unstack(payload: Mapping[str, Tensor]) -> list[Payload]:
    """One payload a client from a stacked one."""
    clients = {value.shape[0] for value in payload.values()}
    if len(clients) != 1:
        raise ValueError(f"payload tensors disagree on the number of clients: {sorted(clients)}")
    return [{name: value[c] for name, value in payload.items()} for c in range(clients.pop())]


def stack(payloads: Sequence[Mapping[str, Tensor]]) -> Payload:
    """A stacked payload from one a client; the inverse of `unstack`."""
    return {name: torch.stack([p[name] for p in payloads]) for name in payloads[0]}


def concatenate(chunks: Iterable[Mapping[str, Tensor]]) -> Payload:
    """One stacked payload from stacked chunks, in order."""
    chunks = list(chunks)
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}

"""Payloads: what travels, as flat ``dict[str, Tensor]``.

In a cohort a payload is stacked: every tensor has the leading client axis ``[C, ...]``. A client's
payload is its row. Counts are tensors like everything else, so bytes are simply counted.
"""

from collections.abc import Mapping

from torch import Tensor

Payload = dict[str, Tensor]


def nbytes(payload: Mapping[str, Tensor]) -> int:
    """Bytes of all tensors on the wire."""
    return sum(value.numel() * value.element_size() for value in payload.values())

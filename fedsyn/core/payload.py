"""Payloads: what travels, as flat ``dict[str, Tensor]``.

In a cohort a payload is stacked: every tensor has the leading client axis ``[C, ...]``. A client's
payload is its row. Counts are tensors like everything else, so bytes are simply counted.
"""

from collections.abc import Mapping

from torch import Tensor

Payload = dict[str, Tensor]


def named(part: str, payload: Mapping[str, Tensor]) -> Payload:
    """The payload of a part, by names ``part/name``."""
    return {f"{part}/{name}": value for name, value in payload.items()}


def part_of(payload: Mapping[str, Tensor], part: str) -> Payload:
    """What `named` has given a part's name, by its own names."""
    prefix = f"{part}/"
    return {k.removeprefix(prefix): v for k, v in payload.items() if k.startswith(prefix)}


def nbytes(payload: Mapping[str, Tensor]) -> int:
    """Bytes of all tensors on the wire."""
    return sum(value.numel() * value.element_size() for value in payload.values())

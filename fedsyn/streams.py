"""Random streams of entities: every draw belongs to ``(seed, purpose, round, client)``.

There is no global generator. A client draws the same numbers whether it is simulated alone, in a
stack of a hundred, or on its own machine, and a resumed run continues the same numbers, because a
stream is a function of its entity and holds no state between rounds.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def key(seed: int, purpose: str, round_number: int = 0, client: int = 0) -> int:
    """A 64-bit key of the entity; distinct entities get independent keys (BLAKE2b)."""
    text = f"{seed}/{purpose}/{round_number}/{client}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def generator(seed: int, purpose: str, round_number: int = 0, client: int = 0) -> torch.Generator:
    """A CPU generator of the entity's stream; draws are moved to the device where they are used."""
    return torch.Generator().manual_seed(key(seed, purpose, round_number, client))


def numpy_generator(
    seed: int, purpose: str, round_number: int = 0, client: int = 0
) -> np.random.Generator:
    """The same entity's stream for NumPy code (partitions, splits)."""
    return np.random.default_rng(key(seed, purpose, round_number, client))


def normal(streams: Sequence[torch.Generator], *shape: int) -> Tensor:
    """Standard normal draws ``[C, *shape]``, row ``c`` from client ``c``'s own stream."""
    return torch.stack([torch.randn(shape, generator=stream) for stream in streams])


def uniform(streams: Sequence[torch.Generator], *shape: int) -> Tensor:
    """Uniform draws in [0, 1) ``[C, *shape]``, row ``c`` from client ``c``'s own stream."""
    return torch.stack([torch.rand(shape, generator=stream) for stream in streams])

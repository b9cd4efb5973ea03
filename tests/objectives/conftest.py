"""Small ragged cohorts: what clients hold, and a batch of it with embeddings."""

from typing import NamedTuple

import pytest
import torch
from torch.nn.functional import normalize

from fedsyn.core.batches import padded
from fedsyn.objectives.base import Batch, Held, Sizes

IMAGE, TEXT, CODE = 4, 3, 6


class Stack(NamedTuple):
    sizes: Sizes
    held: Held
    batch: Batch
    place: torch.Tensor  # [C, B] of the batch in what is held


def stack(hashing, held=(7, 5), batch=(4, 3), steps=(2, 2), seed=0, dtype=torch.float64):
    """A stack whose clients hold so many pairs and have so many of them in the batch."""
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(sum(held), IMAGE + TEXT, generator=draw, dtype=dtype)
    rows = torch.randperm(sum(held), generator=draw).split(list(held))
    index, exists = padded([r.sort().values for r in rows], max(1, *held))
    chosen = [torch.randperm(n, generator=draw)[:b] for n, b in zip(held, batch, strict=True)]
    place, valid = padded(chosen, max(batch))

    def rows_of():
        u = torch.randn(len(held), max(batch), CODE, generator=draw, dtype=dtype)
        return normalize(u.tanh() if hashing else u, dim=-1).requires_grad_()

    pairs = features[index.gather(1, place)]
    return Stack(
        Sizes(IMAGE, TEXT, CODE, hashing),
        Held(features, index, exists, torch.tensor(steps)),
        Batch(rows_of(), rows_of(), pairs, valid),
        place,
    )


@pytest.fixture(name="stack", scope="session")
def _stack():
    return stack


@pytest.fixture(scope="session")
def each():
    """Each client's rows that take part, as NumPy arrays: (image, text, pairs)."""

    def of(batch):
        fields = [field.detach().numpy() for field in batch[:3]]
        return [tuple(f[c][v] for f in fields) for c, v in enumerate(batch.valid.numpy())]

    return of

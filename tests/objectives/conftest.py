"""Small ragged cohorts: what clients hold, and a batch of it with embeddings."""

from typing import NamedTuple

import pytest
import torch
from torch.nn.functional import normalize

from fedsyn.core.batches import padded
from fedsyn.models.fusion import FusionNet
from fedsyn.objectives.classes.halves import HalvesBatch
from fedsyn.objectives.pairs.base import Held, PairBatch, Sizes

IMAGE, TEXT, CODE = 4, 3, 6
FUSION = FusionNet(image=3, text=2, hidden=(4,), dim=3, classes=3)


class Stack(NamedTuple):
    sizes: Sizes
    held: Held
    batch: PairBatch
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
        PairBatch(rows_of(), rows_of(), pairs, valid),
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


class Classified(NamedTuple):
    """Models that classify a batch of pairs, in which some rows lack a label or a half."""

    net: FusionNet
    params: torch.Tensor  # [3, P]
    batch: HalvesBatch  # [3, 8]

    def views(self, client):
        """A client's parameters by name."""
        named = self.net.layout.views(self.params[client : client + 1])
        return {name: value[0] for name, value in named.items()}

    def of(self, clients, params):
        """The batch of these clients alone, under these models."""
        features, _, label, present, valid = self.batch
        rest = (label[clients], present[clients], valid[clients])
        reading = self.net.read(params, features[clients], present[clients])
        return HalvesBatch(features[clients], reading, *rest)


@pytest.fixture(scope="session")
def classified():
    draw = torch.Generator().manual_seed(0)
    params = torch.stack([FUSION.init(draw) for _ in range(3)]).double()
    features = 2 * torch.randn(3, 8, 5, generator=draw, dtype=torch.float64)
    present = torch.ones(3, 8, 2, dtype=torch.bool)
    present[:, 0, 0] = present[:, 1, 1] = False
    label = torch.randint(3, (3, 8), generator=draw)
    label[:, 2] = -1
    valid = torch.ones(3, 8, dtype=torch.bool)
    valid[0, 5:] = valid[1, 7] = False
    reading = FUSION.read(params, features, present)
    batch = HalvesBatch(features, reading, label, present, valid)
    return Classified(FUSION, params, batch)


@pytest.fixture(scope="session")
def by_row():
    """``by_row(views, row)``: a pair's two projections, and the logits of each classifier."""

    def of(views, row):
        found = []
        for name, half in zip(("image", "text"), row.split([3, 2]), strict=True):
            first, bias = (views[f"{name}.backbone.0.{part}"] for part in ("weight", "bias"))
            a = (half @ first + bias[0]).clamp(min=0)
            z = a @ views[f"{name}.own.0.weight"] + views[f"{name}.own.0.bias"][0]
            logits = z @ views[f"{name}.classifier.0.weight"]
            found.append((z, logits + views[f"{name}.classifier.0.bias"][0]))
        return found

    return of

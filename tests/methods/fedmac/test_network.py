"""What stands in for a missing half, and how much each half counts."""

import math
from dataclasses import replace

import pytest
import torch

from fedsyn.methods.fedmac.network import MissingAwareNet
from fedsyn.models.fusion import FusionNet, build
from fedsyn.models.settings import ModelConfig

CONFIG = ModelConfig(hidden=(6,), dim=2)


@pytest.fixture
def net():
    return MissingAwareNet(5, 3, CONFIG.hidden, CONFIG.dim, classes=3)


def test_it_is_a_plain_net_and_two_stand_ins(net):
    plain = replace(build(CONFIG, 5, 3, classes=3), cross=True)
    mine, theirs = (one.init(torch.Generator().manual_seed(0)) for one in (net, plain))
    assert type(plain) is FusionNet and torch.equal(mine[: len(theirs)], theirs)
    views = net.layout.views(mine[None])
    assert len(mine) == len(theirs) + 4
    assert mine[-4:].tolist() == [
        *views["image.missing"].flatten().tolist(), *views["text.missing"].flatten().tolist(),
    ]  # fmt: skip
    assert (mine[-4:] != 0).all()


def test_halves_count_by_what_the_other_expects(net):
    draw = torch.Generator().manual_seed(0)
    params = torch.stack([net.init(draw) for _ in range(2)]).double()
    features = torch.randn(2, 4, 8, generator=draw, dtype=torch.float64)
    present = torch.tensor([[True, True], [True, False], [False, True], [False, False]])
    reading = net.read(params, features, present.expand(2, 4, 2))
    missing = [net.layout.views(params)[f"{name}.missing"] for name in ("image", "text")]
    for client in range(2):
        for row, there in enumerate(present.tolist()):
            z, errors = [], []
            for place in range(2):
                own = reading.own[place][client, row]
                z.append(own if there[place] else missing[place][client, 0])
            for place in range(2):
                expected = reading.cross[1 - place][client, row]
                apart = float((z[place] - expected).square().mean())
                errors.append(apart if there[1 - place] else 0.0)
            total = sum(math.exp(-error) for error in errors)
            for place in range(2):
                weight = 2 * math.exp(-errors[place]) / total
                torch.testing.assert_close(reading.fused[place][client, row], weight * z[place])


def test_a_missing_half_is_not_looked_at(net):
    params = net.init(torch.Generator().manual_seed(0))[None]
    features, present = torch.randn(1, 2, 8), torch.tensor([[[True, False], [False, True]]])
    changed = features.clone()
    changed[0, 0, 5:] += 1
    changed[0, 1, :5] += 1
    before, after = (net.read(params, x, present).fused for x in (features, changed))
    assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1])

"""Stacked classifiers of pairs compute what one torch network a client and modality computes."""

import pytest
import torch

from fedsyn.errors import ConfigError
from fedsyn.models.fusion import FusionNet, build
from fedsyn.models.settings import ModelConfig

NET = FusionNet(image=5, text=3, hidden=(6, 4), dim=2, classes=3, cross=True)
WITHOUT = FusionNet(image=5, text=3, hidden=(6, 4), dim=2, classes=3)


@pytest.fixture
def params():
    draw = torch.Generator().manual_seed(0)
    return torch.stack([NET.init(draw) for _ in range(3)]).double()


@pytest.fixture
def features():
    draw = torch.Generator().manual_seed(1)
    return torch.randn(3, 7, 8, generator=draw, dtype=torch.float64)


@pytest.fixture
def present():
    """The first row lacks its image, the second its text."""
    there = torch.ones(3, 7, 2, dtype=torch.bool)
    there[:, 0, 0] = there[:, 1, 1] = False
    return there


def linear(views, client, name, x):
    return x @ views[f"{name}.weight"][client] + views[f"{name}.bias"][client]


def test_every_module_is_the_clients_own(params, features, present):
    reading, views = NET.read(params, features, present), NET.layout.views(params)
    classified = NET.classify(reading.parts, reading.own)
    halves = NET.halves(reading.parts, reading.own)
    for client in range(3):
        for place, name in enumerate(("image", "text")):
            a = features[client, :, 5 * place : 5 + 3 * place]
            for layer in range(2):
                a = linear(views, client, f"{name}.backbone.{layer}", a).clamp(min=0)
            z = linear(views, client, f"{name}.own.0", a)
            torch.testing.assert_close(reading.own[place][client], z)
            x = linear(views, client, f"{name}.cross.0", a)
            torch.testing.assert_close(reading.cross[place][client], x)
            logits = linear(views, client, f"{name}.classifier.0", z)
            torch.testing.assert_close(classified[place][client], logits)
            weight = views["fusion.0.weight"][client, 2 * place : 2 * place + 2]
            alone = z @ weight + views["fusion.0.bias"][client] / 2
            torch.testing.assert_close(halves[place][client], alone)
        pair = torch.cat([half[client] for half in reading.own], -1)
        fused = linear(views, client, "fusion.0", pair)
        torch.testing.assert_close((halves[0] + halves[1])[client], fused)


def test_a_missing_half_is_filled_by_the_others_cross_projection(params, features, present):
    reading = NET.read(params, features, present)
    (image, text), (from_image, from_text) = reading.own, reading.cross
    assert torch.equal(reading.fused[0][:, 0], from_text[:, 0])
    assert torch.equal(reading.fused[1][:, 1], from_image[:, 1])
    assert torch.equal(reading.fused[0][:, 1:], image[:, 1:])
    assert torch.equal(reading.fused[1][:, [0, 2, 3, 4, 5, 6]], text[:, [0, 2, 3, 4, 5, 6]])


def test_without_cross_projectors_a_missing_half_is_zero(features, present):
    params = WITHOUT.init(torch.Generator()).double().expand(3, -1)
    reading = WITHOUT.read(params, features, present)
    assert reading.cross is None
    assert not reading.fused[0][:, 0].any() and not reading.fused[1][:, 1].any()
    assert torch.equal(reading.fused[0][:, 1:], reading.own[0][:, 1:])


def test_a_client_computes_the_same_alone_and_in_a_stack(params, features, present):
    stack, x = params.float(), features.float()

    def logits(rows):
        reading = NET.read(stack[rows], x[rows], present[rows])
        both = (*NET.classify(reading.parts, reading.own), *NET.halves(reading.parts, reading.own))
        return torch.cat(both, -1)

    alone = torch.cat([logits(slice(c, c + 1)) for c in range(3)])
    assert torch.equal(logits(slice(None)), alone)


def test_cross_projectors_add_parameters_and_change_no_others():
    built = build(ModelConfig(hidden=(6, 4), dim=2), 5, 3, classes=3)
    assert built == WITHOUT
    assert NET.layout.size - built.layout.size == 2 * (4 * 2 + 2)
    own, cross = (net.init(torch.Generator().manual_seed(5))[None] for net in (WITHOUT, NET))
    more = NET.split(cross)
    for name, part in WITHOUT.split(own).items():
        assert torch.equal(more.pop(name), part)
    assert more.keys() == {"image.cross", "text.cross"}


def test_sides_are_the_row_in_three(params):
    sides, views = NET.sides(params), NET.layout.views(params)
    assert torch.equal(torch.cat(list(sides.values()), -1), params)
    for side, part in sides.items():
        own = [v.flatten(1) for name, v in views.items() if name.startswith(side)]
        assert torch.equal(part, torch.cat(own, -1))


def test_a_backbone_needs_a_layer():
    with pytest.raises(ConfigError, match=r"model\.hidden = \[\]"):
        build(ModelConfig(hidden=()), 5, 3, classes=3)

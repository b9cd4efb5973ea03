"""Networks of pairs and halves: what one client's parameters compute, stacked."""

import pytest
import torch
from torch.nn.functional import linear, normalize, relu

from fedsyn.config import ModelConfig
from fedsyn.methods.creamfl.classifier import WEIGHT, Classifier
from fedsyn.models import answers
from fedsyn.models.layout import Layout
from fedsyn.models.mlp import MLP


def stacked(one, clients=3):
    return torch.stack([one(torch.Generator().manual_seed(c)) for c in range(clients)]).double()


def tower(views, client, prefix, x, depth):
    for layer in range(depth):
        weight, bias = (views[f"{prefix}.{layer}.{part}"][client] for part in ("weight", "bias"))
        x = linear(relu(x) if layer else x, weight.T, bias[0])
    return x


@pytest.mark.parametrize("hidden", [(), (5,), (5, 4)])
def test_answers_are_of_the_product_and_both_representations(hidden):
    net = answers.build(ModelConfig(hidden=hidden, dim=4), 3, 2, 6)
    params = stacked(net.init)
    pair = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(9)).double()
    views, depth = net.layout.views(params), len(hidden) + 1
    logits, (image, text) = net(params, pair), net.embed(params, pair)
    for client in range(3):
        v, q = (
            normalize(tower(views, client, name, part, depth), dim=-1)
            for name, part in (("image", pair[client, :, :3]), ("text", pair[client, :, 3:]))
        )
        torch.testing.assert_close(image[client], v)
        torch.testing.assert_close(text[client], q)
        seen = torch.cat([(2 * v) * (2 * q), 2 * v, 2 * q], -1)  # √4
        torch.testing.assert_close(logits[client], tower(views, client, "answer", seen, depth))


def test_a_classifier_compares_representations_with_a_vector_a_class():
    net = Classifier(MLP("text", (2, 5, 4)), classes=3)

    def init(generator):
        named = {**net.encoder.init(generator), **net.vectors(generator)}
        return Layout(net.layout.shapes).flatten(named)

    params = stacked(init)
    assert params.shape == (3, net.layout.size) and params.abs().max() <= 1 / 2**0.5
    x = torch.randn(3, 7, 2, generator=torch.Generator().manual_seed(9)).double()
    views, z = net.layout.views(params), net.represent(params, x)
    for client in range(3):
        own = normalize(tower(views, client, "text", x[client], 2), dim=-1)
        torch.testing.assert_close(z[client], own)
    assert torch.equal(net.weight(params), views[WEIGHT])
    assert views[WEIGHT].shape == (3, 3, 4) and views[WEIGHT].abs().max() <= 1 / 2

"""CreamFL's classifier of one half: representations against a vector a class."""

import torch
from torch.nn.functional import linear, normalize, relu

from fedsyn.methods.creamfl.classifier import WEIGHT, Classifier
from fedsyn.models.layout import Layout
from fedsyn.models.mlp import MLP


def test_a_classifier_compares_representations_with_a_vector_a_class():
    net = Classifier(MLP("text", (2, 5, 4)), classes=3)

    def init(generator):
        named = {**net.encoder.init(generator), **net.vectors(generator)}
        return Layout(net.layout.shapes).flatten(named)

    params = torch.stack([init(torch.Generator().manual_seed(c)) for c in range(3)]).double()
    assert params.shape == (3, net.layout.size) and params.abs().max() <= 1 / 2**0.5
    x = torch.randn(3, 7, 2, generator=torch.Generator().manual_seed(9)).double()
    views, z = net.layout.views(params), net.represent(params, x)
    for client in range(3):
        first, second = (
            {part: views[f"text.{layer}.{part}"][client] for part in ("weight", "bias")}
            for layer in range(2)
        )
        hidden = relu(linear(x[client], first["weight"].T, first["bias"][0]))
        own = normalize(linear(hidden, second["weight"].T, second["bias"][0]), dim=-1)
        torch.testing.assert_close(z[client], own)
    assert torch.equal(net.weight(params), views[WEIGHT])
    assert views[WEIGHT].shape == (3, 3, 4) and views[WEIGHT].abs().max() <= 1 / 2

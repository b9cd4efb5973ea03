"""The representation network: an encoder, and heads with batch normalisation."""

import pytest
import torch
from torch import nn

from fedsyn.models.representation import build
from fedsyn.models.settings import ModelConfig

CONFIG = ModelConfig(channels=(8,), hidden=(6, 7), dim=5)
NET = build(CONFIG, (4, 4, 1), predicts=True)


def draw(clients, batch):
    generator = torch.Generator().manual_seed(0)
    params = torch.stack([NET.init(generator) for _ in range(clients)]).double()
    features = torch.randn(clients, batch, 8, generator=generator, dtype=torch.float64)
    return params, features


def in_torch(named, prefix, rows):
    """Layers of torch's modules with batch normalisation between them."""
    for layer in range(3):
        weight, bias = named[f"{prefix}.{layer}.weight"], named[f"{prefix}.{layer}.bias"]
        if layer == 2:
            return nn.functional.linear(rows, weight.T, bias[0])
        normal = nn.BatchNorm1d(weight.shape[1], affine=False, track_running_stats=False)
        rows = nn.functional.relu(normal(rows @ weight) + bias)


def test_the_heads_are_perceptrons_with_batch_normalisation():
    params, features = draw(2, 6)
    valid = torch.arange(6) < torch.tensor([[6], [4]])
    projected = NET.project(params, features, valid)
    predicted = NET.predict(params, features, valid)
    for client, size in enumerate((6, 4)):
        named = {k: v[client] for k, v in NET.layout.views(params).items()}
        rows = in_torch(named, "head", features[client, :size])
        expected = nn.functional.normalize(rows)
        torch.testing.assert_close(projected[client, :size], expected)
        expected = nn.functional.normalize(in_torch(named, "predictor", rows))
        torch.testing.assert_close(predicted[client, :size], expected)


def test_padded_rows_change_nothing():
    params, features = draw(1, 5)
    valid = torch.tensor([[True, True, False, True, False]])
    other = torch.where(valid[..., None], features, 1e6)
    one, two = (NET.project(params, x, valid)[valid] for x in (features, other))
    assert torch.equal(one, two)


def test_a_model_is_the_encoder_then_the_heads():
    row = NET.init(torch.Generator().manual_seed(1))
    x = torch.randn(1, 3, 16)
    assert len(row) == NET.layout.size
    assert torch.equal(
        NET.encode(row[None], x), NET.encoder(row[None, : NET.encoder.layout.size], x)
    )


def test_only_some_networks_predict():
    net = build(CONFIG.changed(stride=2), (4, 4, 1), predicts=False)
    assert net.encoder.stride == 2
    assert net.layout.size < NET.layout.size
    params = net.init(torch.Generator())[None]
    with pytest.raises(ValueError, match="expected a network with a predictor"):
        net.predict(params, torch.zeros(1, 2, 8), torch.ones(1, 2, dtype=torch.bool))

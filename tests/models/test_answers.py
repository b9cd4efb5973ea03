"""Networks of pairs and halves: what one client's parameters compute, stacked."""

import pytest
import torch
from torch.nn.functional import linear, normalize, relu

from fedsyn.models import answers
from fedsyn.models.settings import ModelConfig


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

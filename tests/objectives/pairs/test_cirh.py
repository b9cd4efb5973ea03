"""CIRH: codes of a graph autoencoder, and networks that learn them."""

import math

import numpy as np
import pytest
import torch

from fedsyn.objectives.pairs.cirh import CIRH, CIRHOptions

CONFIG = CIRHOptions(
    image=0.7, first=0.4, neighbours=0.5, hidden=5, reconstruction=2.0, structure=0.5, gram=0.3
)
IMAGE = 4  # features of the fixture's images


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def cosine(x, y):
    return unit(x) @ unit(y)


def similarity(pairs):
    n = len(pairs)
    first, s = np.empty((n, n)), np.empty((n, n))
    for i in range(n):
        for j in range(n):
            of_images = cosine(pairs[i, :IMAGE], pairs[j, :IMAGE])
            of_texts = cosine(pairs[i, IMAGE:], pairs[j, IMAGE:])
            first[i, j] = CONFIG.image * of_images + (1 - CONFIG.image) * of_texts
    for i in range(n):
        first[i, np.argsort(first[i])[: math.floor((1 - CONFIG.neighbours) * n)]] = 0
        for j in range(n):
            squashed = 2 / (1 + math.exp(-first[i, j])) - 1 + (i == j)
            s[i, j] = CONFIG.first * first[i, j] + (1 - CONFIG.first) * squashed
    return s


def autoencoder(weights, pairs, s, hashing):
    """H^I, H^T, H and the decoded pairs."""
    n = len(pairs)
    graph = np.array([[max(v, 0) / sum(max(w, 0) for w in s[i]) for v in s[i]] for i in range(n)])

    def layers(name, x, graph):
        for layer in (0, 1):
            x = np.maximum(x, 0) if layer else x
            weight, bias = (weights[f"cirh.{name}.{layer}.{part}"] for part in ("weight", "bias"))
            x = graph @ x @ weight + bias
        return x

    image = layers("image", pairs[:, :IMAGE], graph)
    text = layers("text", pairs[:, IMAGE:], graph)
    outputs = (image, text, image + text)
    h = [unit(np.tanh(u)) if hashing else unit(u) for u in outputs]
    return *h, layers("decoder", math.sqrt(h[2].shape[1]) * h[2], np.eye(n))


def loss_of(weights, image, text, pairs, hashing):
    n = len(pairs)
    s = similarity(pairs)
    of_images, of_texts, joint, decoded = autoencoder(weights, pairs, s, hashing)
    codes = np.sign(joint) / math.sqrt(joint.shape[1]) if hashing else joint
    total = CONFIG.reconstruction * np.mean((decoded - pairs) ** 2)
    for i in range(n):
        for x, y in ((joint, codes), (image, codes), (text, codes), (image, text)):
            total += sum((x[i] - y[i]) ** 2) / n
        for j in range(n):
            for x in (of_images, of_texts, joint):
                total += CONFIG.structure * (x[i] @ x[j] - s[i, j]) ** 2 / n**2
            for x, y in ((image, image), (text, text), (image, text)):
                total += CONFIG.gram * (x[i] @ y[j] - s[i, j]) ** 2 / n**2
    return total


def cirh(sizes, clients):
    """The objective, and other weights of every client."""
    objective = CIRH.pairs(CONFIG, sizes)
    drawn = [objective.parameters(torch.Generator().manual_seed(c)) for c in range(clients)]
    params = {name: torch.stack([d[name].double() for d in drawn]) for name in drawn[0]}
    return objective, {name: value.requires_grad_() for name, value in params.items()}


@pytest.mark.parametrize("hashing", [False, True])
def test_the_loss_of_the_autoencoder_and_of_the_networks(stack, each, hashing):
    sizes, _, batch, _ = stack(hashing, held=(9, 7), batch=(7, 4))
    objective, params = cirh(sizes, 2)
    expected = []
    for c, rows in enumerate(each(batch)):
        weights = {name: value[c].detach().numpy() for name, value in params.items()}
        expected.append(loss_of(weights, *rows, hashing))
    assert objective(params, batch).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("hashing", [False, True])
def test_networks_learn_the_codes_and_do_not_move_them(stack, hashing):
    """The autoencoder's gradient is the same whatever the networks embed."""
    sizes, _, batch, _ = stack(hashing)
    objective, params = cirh(sizes, 2)
    gradients = []
    for image in (batch.image, batch.text):
        loss = objective(params, batch._replace(image=image)).sum()
        gradients.append(torch.autograd.grad(loss, list(params.values())))
    for one, other in zip(*gradients, strict=True):
        assert one.any()
        torch.testing.assert_close(one, other)


def test_weights_start_within_the_square_root_of_what_comes_in(stack):
    objective = CIRH.pairs(CONFIG, stack(True).sizes)
    start = objective.parameters(torch.Generator().manual_seed(0))
    for part, widths in {"image": (4, 5, 6), "text": (3, 5, 6), "decoder": (6, 5, 7)}.items():
        for layer in (0, 1):
            weight = start[f"cirh.{part}.{layer}.weight"]
            assert weight.shape == widths[layer : layer + 2]
            assert 0 < weight.abs().max() <= 1 / math.sqrt(widths[layer])


def test_every_pair_is_its_own_neighbour(stack):
    sizes, _, batch, _ = stack(True)
    alone = CONFIG.changed(neighbours=0.0)
    objective = CIRH.pairs(alone, sizes)
    similarity = objective.similarity(batch.pairs, batch.valid)
    own = 0.4 + 0.6 * (2 / (1 + math.exp(-1)) - 1 + 1)
    expected = torch.eye(4, dtype=torch.float64) * own
    torch.testing.assert_close(similarity[0], expected)

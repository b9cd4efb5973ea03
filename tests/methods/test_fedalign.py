"""FedAlign, against singular values and a step worked out by hand."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import avg_pool2d, cross_entropy

from fedsyn.methods.fedalign import FEDALIGN, FedAlignOptions, lipschitz
from fedsyn.models.picture_classifier import PictureClassifier
from fedsyn.models.resnet import ResNet

SIZES = (5, 0, 4)


def norm_by_hand(before, after):
    """Of maps [channels, H, W] of one picture: the largest singular value of F Gᵀ / HW."""
    ratio = before.shape[-1] // after.shape[-1]
    f = avg_pool2d(before[None], ratio)[0].flatten(1)
    return torch.linalg.svdvals(f @ after.flatten(1).T / f.shape[1])[0]


@pytest.mark.parametrize("size", [4, 2])
def test_the_constant_is_the_largest_singular_value(size):
    draw = torch.Generator().manual_seed(0)
    before = torch.rand(2, 3, 5, 4, 4, generator=draw, dtype=torch.float64)
    after = torch.rand(2, 3, 6, size, size, generator=draw, dtype=torch.float64)
    found = lipschitz(before, after)
    for client in range(2):
        for row in range(3):
            expected = norm_by_hand(before[client, row], after[client, row])
            torch.testing.assert_close(found[client, row], expected)


def test_maps_of_nothing_have_the_constant_0_and_no_gradient():
    maps = torch.zeros(1, 1, 3, 2, 2, requires_grad=True)
    found = lipschitz(torch.ones(1, 1, 4, 2, 2), maps)
    found.sum().backward()
    assert found.tolist() == [[0]] and (maps.grad == 0).all()


def test_a_step_brings_the_first_channels_to_the_constant_of_all(labelled, by_hand, plain):
    there = labelled(*SIZES)
    problem, net = there.problem, there.problem.net
    config = plain.changed(epochs=1, fedalign=FedAlignOptions(mu=0.7, share=0.5))
    received = FEDALIGN.broadcast({"model": there.model[None]}, (0, 1, 2))
    sent, _, losses = there.client(FEDALIGN, received, {}, config)
    for client in (0, 2):
        rows = there.rows(client)
        x = problem.features[rows][None]
        body = net.encoder.body(there.model[None, : net.encoder.layout.size], x)

        def constants(w, share, body=body):
            maps = net.encoder.last(w[None, : net.encoder.layout.size], body, share)
            return [norm_by_hand(f, g) for f, g in zip(body[0], maps[0], strict=True)]

        def entropy(w, x=x, rows=rows):
            return cross_entropy(net(w[None], x)[0], problem.label[rows])

        # Plain numbers, of the received model: neither λ nor the quotient moves with w.
        goals = [constant.item() for constant in constants(there.model, 1.0)]
        narrow = [constant.item() for constant in constants(there.model, 0.5)]
        apart = sum((n - g) ** 2 for n, g in zip(narrow, goals, strict=True)) / len(rows)
        first = entropy(there.model).item()

        def loss(w, goals=goals, scale=0.7 * first / apart, rows=rows):
            found = constants(w, 0.5)
            squares = [(n - goal) ** 2 for n, goal in zip(found, goals, strict=True)]
            return entropy(w) + scale * sum(squares) / len(rows)

        expected = by_hand.descend(there.model, loss, config.lr, 1)
        torch.testing.assert_close(sent["model"][client], expected, atol=1e-6, rtol=1e-5)
        assert losses[client].item() == pytest.approx(1.7 * first, rel=1e-5)
    assert torch.equal(sent["model"][1], there.model)


def test_channels_that_the_narrow_block_lacks_do_not_learn_from_the_alignment(labelled, plain):
    there = labelled(6)
    # Sixteen channels; with logits that say nothing, whatever moves the encoder is the alignment.
    net = PictureClassifier(ResNet("encoder", (4, 4, 1), (16,)), dim=3, classes=3)
    model = net.init(torch.Generator().manual_seed(0)).double()
    model[-net.classifier.layout.size :] = 0
    there = replace(there, problem=replace(there.problem, net=net), model=model)
    received = FEDALIGN.broadcast({"model": model[None]}, (0,))
    config = plain.changed(epochs=1, fedalign=FedAlignOptions(share=0.25))
    sent, _, _ = there.client(FEDALIGN, received, {}, config)
    moved = net.layout.views(sent["model"] - model)
    for name in ("encoder.0.0.0", "encoder.0.0.1"):
        weight, scale, shift = (moved[f"{name}.{part}"][0] for part in ("weight", "scale", "shift"))
        # The second convolution is of what the first makes, the first of all maps that come in.
        inputs = 4 if name.endswith("1") else 16
        assert weight[:4, :inputs].any() and scale[:4].any() and shift[:4].any()
        assert not weight[4:].any() and not weight[:, inputs:].any()
        assert not scale[4:].any() and not shift[4:].any()


def test_the_body_does_not_learn_from_the_alignment(labelled, plain):
    there = labelled(6)
    net = PictureClassifier(ResNet("encoder", (4, 4, 1), (8, 8)), dim=3, classes=3)
    # With logits that say nothing whatever comes in, only the alignment moves the encoder.
    model = net.init(torch.Generator().manual_seed(0)).double()
    model[-net.classifier.layout.size :] = 0
    there = replace(there, problem=replace(there.problem, net=net), model=model)
    received = FEDALIGN.broadcast({"model": model[None]}, (0,))
    config = plain.changed(epochs=1)
    sent, _, _ = there.client(FEDALIGN, received, {}, config)
    moved = net.layout.views(sent["model"] - model)
    last = {name for name, value in moved.items() if (value != 0).any()}
    assert {name for name in last if name.startswith("encoder")} == {
        name for name in net.encoder.shapes if name.startswith("encoder.1.0")
    }

"""FedDM, against steps worked out by hand."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from fedsyn import streams
from fedsyn.core.wire import Upload
from fedsyn.methods.feddm import FEDDM, FedDMOptions

SIZES = (6, 0, 1)


@pytest.fixture
def config(plain):
    """All rows of a class are drawn, and models are looked at where they are."""
    own = FedDMOptions(pictures=2, steps=3, lr=20.0, draw=9, radius=0.0)
    return plain.changed(feddm=own)


def apart(there, pictures, rows_of):
    """Σ_c of the squared distances between mean embeddings, and between mean logits."""
    net, model = there.problem.net, there.model[None]
    total = 0
    for made, rows in zip(pictures, rows_of, strict=True):
        for network in (net.embed, net):
            real, fake = (network(model, x[None])[0].mean(0) for x in (rows, made))
            total = total + (real - fake).square().sum()
    return total


def classes_of(there, client):
    rows = there.rows(client)
    label = there.problem.label[rows]
    held = [c for c in range(3) if (label == c).any()]
    return held, [there.problem.features[rows][label == c] for c in held]


def test_pictures_come_to_have_the_means_of_each_class_of_the_client(labelled, config):
    there = labelled(*SIZES)
    sent, kept, losses = there.client(
        FEDDM, FEDDM.broadcast({"model": there.model[None]}, (0, 1, 2)), {}, config
    )
    assert kept == {} and set(sent) == {"pictures", "held", "sizes"}
    assert sent["sizes"].tolist() == list(SIZES)
    for client in (0, 2):
        held, rows_of = classes_of(there, client)
        assert sent["held"][client].nonzero().squeeze(-1).tolist() == held
        stream = streams.generator(0, "pictures", 1, client)
        own = 2 * torch.rand(len(held), 2, 16, generator=stream).double() - 1
        found = []
        for _ in range(3):
            leaf = own.clone().requires_grad_()
            loss = apart(there, leaf, rows_of)
            own = (own - 20 * torch.autograd.grad(loss, leaf)[0]).clamp(-1, 1)
            found.append(loss.item())
        torch.testing.assert_close(sent["pictures"][client, held], own)
        assert losses[client].item() == pytest.approx(sum(found) / 3, rel=1e-4)
        absent = [c for c in range(3) if c not in held]
        assert (sent["pictures"][client, absent] == 0).all()
    assert not sent["held"][1].any() and losses[1] == 0


def test_models_are_looked_at_around_the_received_one(labelled, config):
    there = labelled(*SIZES)
    received = FEDDM.broadcast({"model": there.model[None]}, (0,))
    still, near, far = (
        there.client(
            FEDDM, received, {}, config.changed(feddm=config.feddm.changed(radius=radius)), ids=(0,)
        )[0]["pictures"]
        for radius in (0.0, 1e-6, 1.0)
    )
    assert 0 < (still - near).abs().max() < 1e-3 < (still - far).abs().max()


def arrived(wire, there, config):
    """What each client sends, and what the server reads of the first and of the two others."""
    received = FEDDM.broadcast({"model": there.model[None]}, (0, 1, 2))
    own = there.update(FEDDM, received, {}, config).upload.own
    first = {name: value[:1] for name, value in own.items()}
    rest = {name: value[1:] for name, value in own.items()}
    return own, wire.arrive(
        (there.cohort((0,)), Upload(own=first)), (there.cohort((1, 2)), Upload(own=rest))
    )


def test_the_server_trains_on_all_pictures_by_the_sizes_of_their_clients(
    labelled, by_hand, wire, config
):
    there, net = labelled(*SIZES), labelled(*SIZES).problem.net
    config = config.changed(epochs=1, batch=64, lr=0.1, feddm=config.feddm.changed(radius=100.0))
    sent, uploads = arrived(wire, there, config)

    def loss(w):
        total = 0
        for client in (0, 2):
            held = sent["held"][client].nonzero().squeeze(-1)
            x, label = sent["pictures"][client, held].flatten(0, 1), held.repeat_interleave(2)
            share = SIZES[client] / sum(SIZES)
            total = total + share * cross_entropy(net(w[None], x[None])[0], label)
        return total

    state = {"model": there.model[None]}
    found = FEDDM.server(there.problem, state, uploads, config, torch.Generator().manual_seed(0))
    expected = by_hand.descend(there.model, loss, 0.1, 1)
    torch.testing.assert_close(found["model"][0], expected)
    near = config.changed(feddm=config.feddm.changed(radius=1e-3))
    short = FEDDM.server(there.problem, state, uploads, near, torch.Generator().manual_seed(0))
    step, whole = (each["model"][0] - there.model for each in (short, found))
    assert step.norm().item() == pytest.approx(1e-3)
    torch.testing.assert_close(step / step.norm(), whole / whole.norm())


def test_without_pictures_the_model_stays(labelled, wire, config):
    there = labelled(0, 0, 0)
    _, uploads = arrived(wire, there, config)
    state = {"model": there.model[None]}
    assert FEDDM.server(there.problem, state, uploads, config, torch.Generator()) is state

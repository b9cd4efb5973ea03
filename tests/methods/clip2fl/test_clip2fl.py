"""CReFF and CLIP2FL, against rounds worked out with torch's own network and autograd."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div

from fedsyn import streams
from fedsyn.data.augment import AugmentConfig
from fedsyn.methods.clip2fl.matching import CLIP2FLOptions, match, retrain
from fedsyn.methods.clip2fl.method import CLIP2FL, CREFF

SIZES = (5, 0, 4)
ALPHA, TEMPERATURE = 0.6, 2.0
NAMES = CREFF.name, CLIP2FL.name


@pytest.fixture
def config(plain):
    own = CLIP2FLOptions(distillation=ALPHA, temperature=TEMPERATURE)
    return plain.changed(clip2fl=own, epochs=1)


def loss_by_hand(there, client, alpha):
    """CE + α T² KL of all the client's rows, by the flat model."""
    problem, rows = there.problem, there.rows(client)

    def loss(w):
        logits = problem.net(w[None], problem.features[rows][None])[0]
        soft, known = (z / TEMPERATURE for z in (logits, problem.knowledge[rows]))
        kl = kl_div(soft.log_softmax(-1), known.softmax(-1), reduction="batchmean")
        return cross_entropy(logits, problem.label[rows]) + alpha * TEMPERATURE**2 * kl

    return loss


def gradient_by_hand(there, model, rows):
    """The gradient of the mean cross-entropy of these rows in the classifier [D + 1, L]."""
    problem = there.problem
    classifier = problem.net.split(model[None])[1].view(4, 3).clone().requires_grad_()
    embedding = problem.net.embed(model[None], problem.features[rows][None])[0].detach()
    logits = embedding @ classifier[:-1] + classifier[-1]
    return torch.autograd.grad(cross_entropy(logits, problem.label[rows]), classifier)[0]


@pytest.mark.parametrize(("method", "alpha"), [(CREFF, 0.0), (CLIP2FL, ALPHA)], ids=NAMES)
def test_a_client_trains_on_labels_and_on_what_the_teacher_makes_of_its_pictures(
    labelled, by_hand, config, method, alpha
):
    there = labelled(*SIZES)
    received = method.broadcast({"model": there.model[None]}, (0, 1, 2))
    sent, kept, losses = there.client(method, received, {}, config)
    assert kept == {}
    for client in (0, 2):
        loss = loss_by_hand(there, client, alpha)
        expected = by_hand.descend(there.model, loss, config.lr, 1)
        torch.testing.assert_close(sent["model"][client], expected)
        torch.testing.assert_close(losses[client].double(), loss(there.model), atol=1e-6, rtol=0)
    assert torch.equal(sent["model"][1], there.model)


@pytest.mark.parametrize("method", [CREFF, CLIP2FL], ids=NAMES)
def test_a_client_sends_the_gradient_of_each_of_its_classes(labelled, config, method):
    there = labelled(*SIZES)
    # All rows of a class are drawn every time.
    config = config.changed(creff=config.creff.changed(draw=9))
    received = method.broadcast({"model": there.model[None]}, (0, 1, 2))
    sent, _, _ = there.client(method, received, {}, config)
    for client in range(3):
        label = there.problem.label[there.rows(client)]
        for c in range(3):
            rows = there.rows(client)[(label == c).numpy()]
            found, expected = sent["gradients"][client, c], torch.zeros(4, 3, dtype=torch.float64)
            if len(rows):
                expected = gradient_by_hand(there, there.model, rows)
            torch.testing.assert_close(found, expected)


def test_gradients_are_means_over_draws_of_views(labelled, config):
    there = labelled(6)
    few = {"draw": 1, "repeats": 200}
    config = config.changed(creff=config.creff.changed(**few))
    received = CREFF.broadcast({"model": there.model[None]}, (0,))
    sent, _, _ = there.client(CREFF, received, {}, config)
    (c,) = there.problem.label.mode().values[None].tolist()
    rows = there.rows(0)[(there.problem.label == c).numpy()]
    expected = gradient_by_hand(there, there.model, rows)
    torch.testing.assert_close(sent["gradients"][0, c], expected, atol=0.05, rtol=0.1)
    shaken = replace(there, problem=replace(there.problem, augment=AugmentConfig()))
    other, _, _ = shaken.client(CREFF, received, {}, config)
    assert not torch.allclose(other["gradients"][0, c], sent["gradients"][0, c])


def test_gradients_are_taken_at_the_balanced_classifier_and_training_starts_at_the_other(
    labelled, by_hand, config
):
    there = labelled(5)
    balanced = torch.arange(12.0, dtype=torch.float64).sin()[None]
    extractor, classifier = there.problem.net.split(there.model[None])
    state = {"model": torch.cat([extractor, balanced], -1), "classifier": classifier}
    sent, _, _ = there.client(CREFF, CREFF.broadcast(state, (0,)), {}, config)
    expected = by_hand.descend(there.model, loss_by_hand(there, 0, 0.0), config.lr, 1)
    torch.testing.assert_close(sent["model"][0], expected)
    label = there.problem.label
    c = int(label.mode().values)
    rows = there.rows(0)[(label == c).numpy()]
    at = gradient_by_hand(there, state["model"][0], rows)
    whole = config.changed(creff=config.creff.changed(draw=9))
    sent, _, _ = there.client(CREFF, CREFF.broadcast(state, (0,)), {}, whole)
    torch.testing.assert_close(sent["gradients"][0, c], at)


@pytest.mark.parametrize("method", [CREFF, CLIP2FL], ids=NAMES)
def test_the_server_matches_the_mean_gradients_of_those_who_have_a_class(
    labelled, wire, config, method
):
    there, own = labelled(*SIZES), config.creff
    state = {"model": there.model[None]}
    update = there.update(method, method.broadcast(state, (0, 1, 2)), {}, config)
    uploads = wire.arrive((there.cohort(), update.upload))
    found = method.server(there.problem, state, uploads, config, streams.generator(0, "s"))
    sent = {name: one.value for name, one in update.upload.sums.items()}
    weight = torch.tensor(SIZES, dtype=torch.float64) / sum(SIZES)
    mean = (weight[:, None] * sent["model"]).sum(0)
    extractor, classifier = there.problem.net.split(mean[None])
    torch.testing.assert_close(found["classifier"], classifier)
    has = (sent["gradients"] != 0).any(-1).any(-1).sum(0)
    gradients = sent["gradients"].sum(0) / has.clamp(min=1)[:, None, None]
    stream = streams.generator(0, "s")
    noise = torch.randn(3, own.features, 3, generator=stream).double()
    teacher = (there.problem.prototypes, config.clip2fl) if method is CLIP2FL else ()
    phi = there.problem.net.split(there.model[None])[1].view(4, 3)
    features = match(noise, gradients, phi, own, *teacher)
    torch.testing.assert_close(found["features"], features)
    balanced = retrain(features, stream, own).view(1, -1)
    torch.testing.assert_close(found["model"], torch.cat([extractor, balanced], -1))


def test_the_search_goes_on_from_the_features_of_the_last_round(labelled, wire, config):
    there = labelled(*SIZES)
    one, _ = there.play(CREFF, config, rounds=1)
    received = CREFF.broadcast(one, (0, 1, 2))
    update = there.update(CREFF, received, {}, config, round_number=2)
    uploads = wire.arrive((there.cohort(), update.upload))
    two = CREFF.server(there.problem, one, uploads, config, streams.generator(0, "aggregate", 2))
    still = config.changed(creff=config.creff.changed(steps=0))
    same = CREFF.server(there.problem, one, uploads, still, streams.generator(0, "aggregate", 2))
    assert torch.equal(same["features"], one["features"])
    assert (two["features"] != one["features"]).any()


def test_a_round_without_replies_changes_nothing(labelled, wire, config):
    there = labelled(0, 0)
    state = {"model": there.model[None]}
    update = there.update(CLIP2FL, CLIP2FL.broadcast(state, (0, 1)), {}, config)
    uploads = wire.arrive((there.cohort(), update.upload))
    assert CLIP2FL.server(there.problem, state, uploads, config, torch.Generator()) is state

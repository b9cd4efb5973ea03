"""CreamFL: clients learn in turn from own rows and public pairs; the server from what they say."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from fedsyn import streams
from fedsyn.core.wire import Upload, Uploads
from fedsyn.data.local import local_data
from fedsyn.data.silos import NOTHING, Silo
from fedsyn.errors import ConfigError, DataError
from fedsyn.federation.config import data_settings, load
from fedsyn.methods.base import present
from fedsyn.methods.creamfl.losses import CreamFLOptions
from fedsyn.methods.creamfl.method import CREAMFL
from fedsyn.models.mlp import MLP
from fedsyn.models.retrieval import RetrievalNet

OWN = CreamFLOptions(temperature=0.4, contrast=0.7, margin=0.5, orthogonality=0.3)
SIZES = (5, 4, 3)  # of a client with pairs, one with pictures and one with texts
NAMES = ("image", "text")
ENCODERS = {"image": 31, "text": 27}  # parameters of each, which come first in an own model


def config(plain, epochs=1, **own):
    """Plain descent."""
    return plain.changed(epochs=epochs, creamfl=OWN.changed(**own))


def server_says(there, seed=5):
    """Any representations of the public pairs."""
    draw = torch.Generator().manual_seed(seed)
    shape = (2, len(there.problem.public), 3)
    both = normalize(torch.randn(shape, generator=draw, dtype=torch.float64), dim=-1)
    return dict(zip(NAMES, both, strict=True))


def begun(there, seed=7):
    """Own models that have begun; those of clients 1 and 2 are encoders and classes."""
    room = CREAMFL.client_state(there.problem, there.model)["own"]
    draw = torch.Generator().manual_seed(seed)
    return 0.6 * torch.randn(len(there.sizes), len(room), generator=draw, dtype=torch.float64)


def halves(by_hand, client, w, row):
    """Representations of a row by a client's flat model, as its modalities have them."""
    if client == 0:
        return dict(zip(NAMES, by_hand.embedded(w, row), strict=True))
    name = NAMES[client - 1]
    mine = w[: ENCODERS[name]]
    whole = [mine if name == each else torch.ones(ENCODERS[each]).double() for each in NAMES]
    return {name: by_hand.embedded(torch.cat(whole), row)[client - 1]}


def classes(client, w):
    """The vectors of a classifier's classes."""
    size = ENCODERS[NAMES[client - 1]]
    return w[size : size + 9].reshape(3, 3)


def private(by_hand, there, client, w):
    """The loss of a client's own rows."""
    rows = there.rows(client)
    if client == 0:
        return by_hand.info_nce(w, there.problem.features[rows])
    weight, loss = classes(client, w), 0
    for row in rows:
        (z,) = halves(by_hand, client, w, there.problem.features[row]).values()
        y = int(there.problem.category[row])
        logits = [weight[c] @ z - (0.5 if c == y else 0) for c in range(3)]
        loss = loss + torch.stack(logits).exp().sum().log() - logits[y]
    apart = 0
    for c in range(3):
        logits = torch.stack([weight[c] @ weight[other] for other in range(3)])
        apart = apart + (logits.exp().sum().log() - logits[c]) / 3
    return loss / len(rows) + 0.3 * apart


def regularised(by_hand, there, client, w, before, server, inter=True, intra=True):
    """0.7 Σ_modality (L_inter + L_intra), public pair by public pair."""
    pairs, loss = there.problem.features[there.problem.public], 0
    for k, pair in enumerate(pairs):
        mine, old = (halves(by_hand, client, model, pair) for model in (w, before))
        for name, z in mine.items():
            others = server["text" if name == "image" else "image"]
            if inter:
                logits = torch.stack([z @ other / 0.4 for other in others])
                loss = loss + logits.exp().sum().log() - logits[k]
            if intra:
                near, far = ((z @ g / 0.4).exp() for g in (server[name][k], old[name]))
                loss = loss - (near / (near + far)).log()
    return 0.7 * loss / len(pairs)


@pytest.mark.parametrize(("inter", "intra"), [(True, True), (True, False), (False, True)])
def test_two_passes_of_every_kind_of_client_by_hand(mixed, by_hand, plain, inter, intra):
    there, own = mixed(*SIZES), config(plain, epochs=2, inter=inter, intra=intra)
    own = own.changed(momentum=0.5)
    server, start = server_says(there), begun(mixed(*SIZES))
    received = {name: value.expand(3, -1, -1) for name, value in server.items()}
    sent, kept, losses = there.client(CREAMFL, received, {"own": start}, own)
    for client in range(3):
        w, told, velocity = start[client], [], 0

        def on_own_rows(w, client=client):
            return private(by_hand, there, client, w)

        def on_public_pairs(w, client=client):
            return regularised(by_hand, there, client, w, start[client], server, inter, intra)

        for _ in range(2):
            told.append(on_own_rows(w))
            for loss in (on_own_rows, on_public_pairs):
                velocity = 0.5 * velocity + by_hand.gradient(loss, w)
                w = w - own.lr * velocity
        torch.testing.assert_close(kept["own"][client], w)
        torch.testing.assert_close(losses[client], torch.stack(told).mean().float())
        for k, row in enumerate(there.problem.public):
            found = halves(by_hand, client, w, there.problem.features[row])
            for name in NAMES:
                weight = sent[f"{name}.weight"][client, k]
                if name not in found:
                    assert weight == 0 and not sent[name][client, k].any()
                    continue
                others = server["text" if name == "image" else "image"]
                scores = torch.stack([(found[name] @ other).exp() for other in others])
                torch.testing.assert_close(weight, scores[k] / scores.sum())
                torch.testing.assert_close(sent[name][client, k], weight * found[name])


def test_without_both_contrasts_the_public_pairs_change_no_client(mixed, by_hand, plain):
    there, own = mixed(*SIZES), config(plain, inter=False, intra=False, aggregation="mean")
    server, start = server_says(there), begun(mixed(*SIZES))
    received = {name: value.expand(3, -1, -1) for name, value in server.items()}
    sent, kept, _ = there.client(CREAMFL, received, {"own": start}, own)
    for client in range(3):
        loss = lambda w, c=client: private(by_hand, there, c, w)  # noqa: E731
        expected = by_hand.descend(start[client], loss, own.lr, 1)
        torch.testing.assert_close(kept["own"][client], expected)
    assert sent["image.weight"].tolist() == [[1.0] * 6, [1.0] * 6, [0.0] * 6]
    assert sent["text.weight"].tolist() == [[1.0] * 6, [0.0] * 6, [1.0] * 6]


def test_the_server_follows_the_clients_and_then_the_task_by_hand(mixed, by_hand, wire, plain):
    there = mixed(*SIZES)
    own = config(plain, distillation=0.8, server_lr=0.2, server_epochs=2)
    draw = torch.Generator().manual_seed(3)
    state, arriving, replies = CREAMFL.init(there.problem, there.model, 3), [], []
    for client, size in enumerate(SIZES):
        z = normalize(torch.randn(2, 6, 3, generator=draw, dtype=torch.float64), dim=-1)
        weight = torch.rand(2, 6, generator=draw, dtype=torch.float64)
        weight[0] *= client != 2
        weight[1] = 0  # nobody has texts
        sent = {name: (weight[m, :, None] * z[m])[None] for m, name in enumerate(NAMES)}
        sent |= {f"{name}.weight": weight[m][None] for m, name in enumerate(NAMES)}
        one = wire.holding({client: size})
        arriving.append((one, Upload(present(one, **sent))))
        replies.append((weight[0], z[0]))
    uploads, stream = wire.arrive(*arriving), streams.generator(0, "aggregate")
    found = CREAMFL.server(there.problem, state, uploads, own, stream)
    pairs = there.problem.features[there.problem.public]
    means = [
        sum(weight[k] * z[k] for weight, z in replies) / sum(weight[k] for weight, _ in replies)
        for k in range(6)
    ]

    def towards_clients(w):
        images = [by_hand.embedded(w, pair)[0] for pair in pairs]
        squares = [((z - mean) ** 2).sum() for z, mean in zip(images, means, strict=True)]
        return 0.8 * sum(squares) / 6

    w = by_hand.descend(there.model, towards_clients, 0.2, 1)
    w = by_hand.descend(w, lambda w: by_hand.info_nce(w, pairs), 0.2, 2)
    torch.testing.assert_close(found["model"][0], w)
    image, text = zip(*(by_hand.embedded(w, pair) for pair in pairs), strict=True)
    received = CREAMFL.broadcast(found, (4, 9))
    torch.testing.assert_close(received["image"], torch.stack(image).expand(2, -1, -1))
    torch.testing.assert_close(received["text"], torch.stack(text).expand(2, -1, -1))


def test_nobody_receives_the_servers_model(mixed):
    there = mixed(*SIZES)
    received = CREAMFL.broadcast(CREAMFL.init(there.problem, there.model, 3), (0, 2))
    assert set(received) == {"image", "text"} and not CREAMFL.broadcasts_model


def test_without_distillation_the_server_learns_alone(mixed, plain):
    there, own = mixed(*SIZES), config(plain, distillation=0.0)
    alone, _ = there.play(CREAMFL, own, sampled=lambda round_number, client: False)
    among, _ = there.play(CREAMFL, own)
    torch.testing.assert_close(alone["model"], among["model"])
    other, _ = there.play(CREAMFL, config(plain))
    assert not torch.allclose(among["model"], other["model"])


def test_the_servers_optimiser_remembers_and_those_of_clients_begin_anew(mixed, plain):
    there = mixed(*SIZES)
    own = config(plain, distillation=0.0).changed(optimizer="adam")
    whole, _ = there.play(CREAMFL, own, rounds=2)
    assert whole["optimizer.step"].item() == 2
    state, _ = there.play(CREAMFL, own, rounds=1)
    forgotten = {name: value for name, value in state.items() if not name.startswith("optimizer")}
    second = [
        CREAMFL.server(there.problem, one, Uploads(), own, streams.generator(0, "aggregate", 2))
        for one in (state, forgotten)
    ]
    torch.testing.assert_close(second[0]["model"], whole["model"])
    assert not torch.allclose(second[1]["model"], whole["model"])


def test_clients_of_one_architecture_begin_alike_and_every_client_has_its_own(mixed, plain):
    there = mixed(4, 4, 4, 4)
    net, smaller = there.problem.net, RetrievalNet(MLP("image", (3, 3)), MLP("text", (2, 3)), 0)
    several = replace(there.problem, variants=(net, net, net, smaller))
    still = config(plain).changed(lr=1e-12)
    _, kept = replace(there, problem=several).play(CREAMFL, still, rounds=1)
    start, little = (each.init(streams.generator(0, "model")).double() for each in (net, smaller))
    for client, own, expected in (
        (0, slice(0, 58), start), (1, slice(0, 31), start[:31]), (2, slice(0, 27), start[31:]),
        (3, slice(0, len(little)), little),
    ):  # fmt: skip
        torch.testing.assert_close(kept[client]["own"][own], expected, atol=1e-9, rtol=0)
    assert not kept[3]["own"][len(little) :].any()


def test_the_rows_of_a_client_are_its_pairs_or_the_half_that_it_has_most_of(mixed):
    problem, some, more = mixed(*SIZES).problem, np.arange(3), np.arange(3, 9)
    silo = Silo(NOTHING, NOTHING, NOTHING, NOTHING, NOTHING)
    assert CREAMFL.rows(problem, silo) is NOTHING
    assert CREAMFL.rows(problem, replace(silo, images=some, texts=more)) is more
    assert CREAMFL.rows(problem, replace(silo, pairs=some, texts=more)) is some


def test_public_pairs_and_labels_are_needed(mixed, plain):
    there = mixed(*SIZES)
    lonely = data_settings(load(None, ["method=creamfl", "data.public=0"]))
    with pytest.raises(
        ConfigError, match=r"'creamfl' learns from public pairs: expected data.public > 0"
    ):
        local_data(lonely)
    unlabelled = replace(there, problem=replace(there.problem, category=None))
    with pytest.raises(DataError, match="clients that hold one modality learn by labels"):
        unlabelled.play(CREAMFL, config(plain), rounds=1)


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.integers(0, 99))
def test_who_is_heard_counts_by_what_it_says(wire, sizes, seed):
    draw = torch.Generator().manual_seed(seed)
    weight = torch.rand(len(sizes), 6, generator=draw, dtype=torch.float64) + 0.1
    sent = {name: weight[..., None] * torch.ones(3).double() for name in NAMES}
    sent |= {f"{name}.weight": weight for name in NAMES}
    all_of_them = wire.holding(dict(enumerate(sizes)))
    sums = wire.arrive((all_of_them, Upload(present(all_of_them, **sent)))).sums
    taken = torch.tensor(sizes) > 0
    torch.testing.assert_close(sums["image.weight"], weight[taken].sum(0))
    torch.testing.assert_close(sums["text"], weight[taken].sum(0)[:, None].expand(-1, 3))

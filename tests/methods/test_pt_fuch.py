"""PT-FUCH: private networks teach by prototypes, and learn by the received model's similarities."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from fedsyn import streams
from fedsyn.core.wire import Upload
from fedsyn.methods import pt_fuch
from fedsyn.methods.fedavg import FEDAVG
from fedsyn.methods.pt_fuch import PT_FUCH, PTFUCHOptions
from fedsyn.objectives.pairs.base import PairBatch

OWN = PTFUCHOptions(prototypes=8, distillation=0.7, cluster=0.6, transfer=0.5)


def unit(*shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=draw, dtype=torch.float64), dim=-1)


def near(model, seed):
    draw = torch.Generator().manual_seed(seed)
    return model + 0.3 * torch.randn(model.shape, generator=draw, dtype=torch.float64)


def fused(by_hand, w, pairs):
    """Of each pair: as many clusters as pairs are the pairs."""
    found = []
    for pair in pairs:
        image, text = by_hand.embedded(w, pair)
        found.append((image + text) / (image + text).square().sum().sqrt())
    return found


def private_loss(by_hand, w, teacher, pairs, prototypes):
    """F + 0.6 L_clu + 0.7 L_kd / L_clu where every pair is a cluster of its own."""
    mine = [by_hand.embedded(w, pair) for pair in pairs]
    theirs = [by_hand.embedded(teacher, pair) for pair in pairs]
    clu = kd = 0
    for i in range(len(pairs)):
        for modality in (0, 1):
            logits = torch.stack([mine[i][modality] @ p for p in prototypes]) / 0.26
            clu = clu + (logits.exp().sum().log() - logits[i]) / len(pairs)
        for j in range(len(pairs)):
            for a, b in ((0, 0), (1, 1), (0, 1), (1, 0)):
                difference = mine[i][a] @ mine[j][b] - theirs[i][a] @ theirs[j][b]
                kd = kd + difference**2 / len(pairs) ** 2
    return by_hand.info_nce(w, pairs) + 0.6 * clu + 0.7 * kd / clu.detach()


def js(by_hand, w, pairs, prototypes):
    """½ [KL(m‖p_image) + KL(m‖p_text)], mean over pairs."""
    total = 0
    for pair in pairs:
        p, q = [], []
        for z in by_hand.embedded(w, pair):
            similarity = torch.stack([z @ prototype for prototype in prototypes])
            p.append((similarity / 0.26).softmax(0))
            q.append((similarity / 0.81).softmax(0))
        m = (q[0] + q[1]) / 2
        total = total + sum((m * (m / one).log()).sum() for one in p) / 2
    return total / len(pairs)


@pytest.mark.parametrize("space", ["global", "private"])
def test_a_round_by_hand(world, by_hand, plain, space):
    there = world(5, 3)
    own = OWN.changed(space=space)
    config = plain.changed(epochs=1, pt_fuch=own)
    private = torch.stack([near(there.model, 3), near(there.model, 4)])
    known = unit(4, 3)
    received = {"model": there.model.expand(2, -1), "prototypes": known.expand(2, -1, -1)}
    sent, kept, losses = there.client(PT_FUCH, received, {"private": private}, config)
    for client in range(2):
        pairs, mine = there.pairs(client), private[client]
        old = fused(by_hand, mine, pairs)
        taught = by_hand.descend(
            mine,
            lambda w, p=pairs, o=old: private_loss(by_hand, w, there.model, p, o),
            config.lr,
            steps=1,
        )
        torch.testing.assert_close(kept["private"][client], taught)
        local = fused(by_hand, taught, pairs)

        def loss(w, pairs=pairs, local=local):
            terms = js(by_hand, w, pairs, local) + js(by_hand, w, pairs, known)
            return by_hand.info_nce(w, pairs) + 0.5 * terms

        expected = by_hand.descend(there.model, loss, config.lr, steps=1)
        torch.testing.assert_close(sent["model"][client], expected)
        torch.testing.assert_close(losses[client], loss(there.model).float())
        told = fused(by_hand, there.model, pairs) if space == "global" else local
        count = sent["counts"][client]
        assert sorted(count.tolist(), reverse=True) == [1] * len(pairs) + [0] * (8 - len(pairs))
        found = sent["prototypes"][client][count > 0]
        order = (found @ torch.stack(told).T).argmax(-1)
        assert sorted(order.tolist()) == list(range(len(pairs)))
        torch.testing.assert_close(found, torch.stack(told)[order])


def test_before_there_are_prototypes_the_model_trains_as_under_fedavg(world, plain):
    there = world(9, 0, 2, 1, 7)
    config = plain.changed(batch=4)
    mine, avg = (there.play(method, config, rounds=1)[0] for method in (PT_FUCH, FEDAVG))
    torch.testing.assert_close(mine["model"], avg["model"])
    assert mine["prototypes"].shape[-1] == 3
    mine, avg = (there.play(method, config, rounds=2)[0] for method in (PT_FUCH, FEDAVG))
    assert not torch.allclose(mine["model"], avg["model"])


def test_the_server_clusters_by_the_pairs_behind_prototypes(wire, plain):
    config = plain.changed(pt_fuch=OWN.changed(prototypes=2))
    east, mostly, north = [1.0, 0.0], [0.8, 0.6], [-0.6, 0.8]
    nothing = [0.0, 0.0]
    replies = [
        {"prototypes": [[east, nothing]], "counts": [[3, 0]]},
        {"prototypes": [[mostly, north]], "counts": [[1, 5]]},
    ]
    sent = []
    for client, reply in enumerate(replies):
        one = wire.holding({client: 4})
        own = {name: torch.tensor(value) for name, value in reply.items()}
        sent.append((one, Upload(config.weighted(one, model=torch.zeros(1, 2)), own)))
    state = PT_FUCH.init(None, torch.ones(2), 2)
    assert "prototypes" not in PT_FUCH.broadcast(state, (0, 1))
    stream = streams.generator(0, "aggregate")
    state = PT_FUCH.server(None, state, wire.arrive(*sent), config, stream)
    expected = torch.stack([normalize(torch.tensor([3 + 0.8, 0.6]), dim=0), torch.tensor(north)])
    found = state["prototypes"]
    torch.testing.assert_close(found[found[:, 0].argsort(descending=True)], expected)
    assert torch.equal(state["model"], torch.zeros(1, 2))
    assert torch.equal(PT_FUCH.broadcast(state, (0, 1))["prototypes"], found.expand(2, -1, -1))


def test_nobody_with_pairs_changes_nothing(world, plain):
    there = world(0, 0)
    state, kept = there.play(PT_FUCH, plain)
    assert set(state) == {"model"} and torch.equal(state["model"][0], there.model)
    assert all(torch.equal(mine["private"], there.model) for mine in kept.values())


def test_distillation_vanishes_where_similarities_agree():
    image, text = unit(2, 4, 3, seed=1), unit(2, 4, 3, seed=2)
    turn = torch.linalg.qr(unit(3, 3, seed=3)).Q  # similarities do not see a rotation
    batch = PairBatch(image, text, image)
    assert pt_fuch.distillation(batch, (image @ turn, text @ turn)).max() < 1e-24
    assert pt_fuch.distillation(batch, (text, text)).min() > 1e-3


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 6), st.integers(0, 4), st.integers(1, 5), st.integers(0, 3))
def test_padding_and_absent_prototypes_change_no_loss(pairs, padding, count, absent):
    image, text = unit(1, pairs + padding, 3, seed=1), unit(1, pairs + padding, 3, seed=2)
    teacher = unit(1, pairs + padding, 3, seed=3), unit(1, pairs + padding, 3, seed=4)
    prototypes = unit(1, count + absent, 3, seed=5)
    counts = torch.tensor([[2] * count + [0] * absent])
    valid = torch.arange(pairs + padding)[None] < pairs
    leaf = image.clone().requires_grad_()
    whole = PairBatch(leaf, text, leaf, valid)
    cut = PairBatch(image[:, :pairs], text[:, :pairs], image[:, :pairs])
    known, alive = (prototypes, counts), (prototypes[:, :count], counts[:, :count])
    found = torch.cat([
        pt_fuch.cluster_loss(whole, known, 0.26),
        pt_fuch.distillation(whole, teacher),
        pt_fuch.js(whole, known, OWN),
    ])  # fmt: skip
    expected = torch.cat([
        pt_fuch.cluster_loss(cut, alive, 0.26),
        pt_fuch.distillation(cut, tuple(z[:, :pairs] for z in teacher)),
        pt_fuch.js(cut, alive, OWN),
    ])  # fmt: skip
    torch.testing.assert_close(found, expected)
    (slope,) = torch.autograd.grad(found.sum(), leaf)
    assert slope.isfinite().all() and not slope[:, pairs:].any()

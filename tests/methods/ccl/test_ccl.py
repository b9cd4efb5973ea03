"""CCL: others' features are negatives and neighbours, and nobody's own are."""

import pytest
import torch
from torch.nn.functional import normalize

from fedsyn import streams
from fedsyn.core.wire import Intake, Joined, Upload, send
from fedsyn.methods.ccl.method import CCL, CCLOptions
from fedsyn.methods.fedavg import FEDAVG

OWN = CCLOptions(matching=0.7, neighbours=3, warmup=1, features=4, remote=6)
NOBODY = -1


@pytest.fixture
def config(plain):
    return plain.changed(ccl=OWN)


def unit(*shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=draw, dtype=torch.float64), dim=-1)


def received(there, owner=(0, 1, 1, 0, NOBODY, 7)):
    """What two clients are sent in a later round."""
    payload = {
        "model": there.model[None],
        "momentum": 0.9 * there.model[None],
        "features": unit(1, 6, 4),
        "owner": torch.tensor([owner]),
    }
    return CCL.broadcast(payload, (0, 1))


def held(there, keys=3):
    """What two clients have kept: so many keys."""
    kept = CCL.client_state(there.problem, there.model)
    kept = {name: torch.stack([value] * 2) for name, value in kept.items()}
    kept["queue"][:, :keys], kept["count"][:] = unit(2, keys, 4, seed=5), keys
    return kept


def project(there, w, rows):
    """Unit rows of pictures that a client looks at together, by the flat model ``w``."""
    net, x = there.problem.net, rows[None]
    return net.project(w[None], net.encode(w[None], x), torch.ones(1, len(rows), dtype=bool))[0]


def loss_by_hand(there, w, rows, keys, queue, others, config):
    """L_con + λ L_nei where the batch's keys are the last of the queue."""
    con = nei = 0
    for i, q in enumerate(project(there, w, rows)):
        among = [*queue, *(others if config.ccl.fusion else [])]
        exps = torch.stack([(q @ n / 0.5).exp() for n in among])
        con = con - ((q @ keys[i] / 0.5).exp() / exps.sum()).log()
        own = len(queue) - len(keys) + i
        known = [n for place, n in enumerate([*queue, *others]) if place != own]
        near = torch.stack([q @ n / 0.5 for n in known]).sort(descending=True).values[:3]
        p = near.exp() / near.exp().sum()
        nei = nei - (p * p.log()).sum()
    return (con + config.ccl.matching * nei) / len(rows)


@pytest.mark.parametrize("fusion", [True, False])
def test_two_steps_by_hand(pictures, by_hand, config, fusion):
    there = pictures(5, 3)
    own = OWN.changed(fusion=fusion)
    config = config.changed(ccl=own)
    payload, kept = received(there), held(there)
    sent, left, losses = there.client(CCL, payload, kept, config, round_number=2)
    for client in range(2):
        rows, w, slow = there.pairs(client), there.model, 0.9 * there.model
        queue, total = list(kept["queue"][client, :3]), 0
        others = [
            feature
            for feature, owner in zip(payload["features"][0], [0, 1, 1, 0, NOBODY, 7], strict=True)
            if owner not in (client, NOBODY)
        ]
        for _ in range(2):
            slow = 0.9 * slow + 0.1 * w
            keys = project(there, slow, rows)
            queue.extend(keys)

            def loss(w, rows=rows, keys=keys, queue=tuple(queue), others=others):
                return loss_by_hand(there, w, rows, keys, queue, others, config)

            total = total + loss(w)
            w = by_hand.descend(w, loss, config.lr, steps=1)
        torch.testing.assert_close(sent["model"][client], w)
        torch.testing.assert_close(sent["momentum"][client], slow)
        torch.testing.assert_close(losses[client], (total / 2).float())
        assert left["count"][client] == 3 + 2 * len(rows)
        # Batches are shuffled: the keys are the same, in another order.
        mine = left["queue"][client, : len(queue)]
        distance = torch.cdist(mine, torch.stack(queue))
        assert distance.min(0).values.max() < 1e-6 and distance.min(1).values.max() < 1e-6


def test_shared_features_are_of_the_momentum_encoder(pictures, config):
    there = pictures(5, 3)
    sent, _, _ = there.client(CCL, received(there), held(there), config)
    assert sent["shared"].tolist() == [4, 3] and sent["features"].shape == (2, 4, 4)
    expected = project(there, sent["momentum"][1], there.pairs(1))
    found = sent["features"][1, :3]
    assert torch.cdist(found, expected).min(1).values.max() < 1e-6
    assert len(found.unique(dim=0)) == 3 and not sent["features"][1, 3].any()


@pytest.mark.parametrize("change", [{"mixed": 3}, {"signs": True}])
def test_features_of_hidden_pictures_say_less_and_change_no_model(pictures, config, change):
    there = pictures(5, 3)
    plain, _, _ = there.client(CCL, received(there), held(there), config)
    config = config.changed(ccl=OWN.changed(**change))
    hidden, _, _ = there.client(CCL, received(there), held(there), config)
    assert torch.equal(plain["model"], hidden["model"])
    assert torch.cdist(plain["features"][0], hidden["features"][0]).min() > 1e-3


def test_nobody_meets_its_own_features(pictures, config):
    there = pictures(5, 3)
    payload = received(there)
    before, _, _ = there.client(CCL, payload, held(there), config, round_number=2)
    features = payload["features"].clone()
    features[:, [0, 3, 4]] = -features[:, [0, 3, 4]]  # those of the first client and of nobody
    after, _, _ = there.client(
        CCL, payload | {"features": features}, held(there), config, round_number=2
    )
    assert torch.equal(before["model"][0], after["model"][0])
    assert not torch.allclose(before["model"][1], after["model"][1])


def test_a_client_leaves_what_it_is_given_as_it_is(pictures, config):
    there = pictures(5, 3)
    payload, kept = received(there), held(there)
    before = [{name: value.clone() for name, value in each.items()} for each in (payload, kept)]
    there.client(CCL, payload, kept, config)
    for each, old in zip((payload, kept), before, strict=True):
        assert all(torch.equal(value, old[name]) for name, value in each.items())


def test_matching_begins_after_the_warmup(pictures, config):
    there = pictures(5, 3)
    without = config.changed(ccl=OWN.changed(matching=0.0))
    models = {}
    for number in (1, 2):
        for name, each in (("with", config), ("without", without)):
            sent, _, _ = there.client(CCL, received(there), held(there), each, round_number=number)
            models[number, name] = sent["model"]
    assert torch.equal(models[1, "with"], models[1, "without"])
    assert not torch.allclose(models[2, "with"], models[2, "without"])


def test_the_first_round_is_that_of_moco(pictures, config):
    there = pictures(9, 0, 4, 1, 7)
    config = config.changed(batch=4)
    mine, avg = (there.play(method, config, rounds=1)[0]["model"] for method in (CCL, FEDAVG))
    torch.testing.assert_close(mine, avg)


def test_without_fusion_and_matching_nothing_is_shared(pictures, config):
    there = pictures(5, 3)
    nothing = OWN.changed(fusion=False, matching=0.0)
    begun = CCL.broadcast(CCL.init(there.problem, there.model, 2), (0, 1))
    sent, _, _ = there.client(CCL, begun, held(there), config.changed(ccl=nothing))
    assert set(sent) == {"model", "momentum"}


REPLIES = {
    "model": torch.tensor([[2.0, 0.0], [0.0, 4.0], [1.0, 1.0]]),
    "momentum": torch.tensor([[1.0, 0.0], [0.0, 2.0], [5.0, 5.0]]),
    "features": torch.arange(24.0).view(3, 4, 2),
    "shared": torch.tensor([4, 2, 0]),
}


def chunk(wire, config, at):
    """Those of the clients 3, 5 and 8 at these places, and what they send."""
    some = wire.holding({(3, 5, 8)[place]: (1, 3, 0)[place] for place in at})
    reply = {name: value[at] for name, value in REPLIES.items()}
    own = {name: reply.pop(name) for name in ("features", "shared")}
    return some, Upload(config.weighted(some, **reply), own)


def test_the_server_draws_from_all_features_with_their_owners(wire, config):
    start = CCL.init(None, torch.zeros(2), 9)
    found = wire.arrive(chunk(wire, config, [0, 1]), chunk(wire, config, [2]))
    state = CCL.server(None, start, found, config, streams.generator(0, "aggregate"))
    assert state["model"].tolist() == [[0.5, 3.0]] and state["momentum"].tolist() == [[0.25, 1.5]]
    features, owner = state["features"][0], state["owner"][0]
    assert features.shape == (6, 2)
    of = {tuple(row.tolist()): 3 for row in REPLIES["features"][0]}
    of |= {tuple(row.tolist()): 5 for row in REPLIES["features"][1, :2]}
    assert {tuple(row.tolist()): int(one) for row, one in zip(features, owner, strict=True)} == of
    few = config.changed(ccl=OWN.changed(remote=2))
    one, two = (
        CCL.server(None, start, found, few, streams.generator(seed, "aggregate"))["features"]
        for seed in (0, 1)
    )
    assert one.shape == (1, 2, 2) and not torch.equal(one, two)


def test_where_few_are_sent_the_rest_is_nobodys(wire, config):
    start = CCL.init(None, torch.zeros(2), 9)
    found = wire.arrive(chunk(wire, config, [1]))
    state = CCL.server(None, start, found, config, streams.generator(0, "aggregate"))
    assert state["owner"].tolist() == [[5, 5, NOBODY, NOBODY, NOBODY, NOBODY]]
    assert not state["features"][0, 2:].any()


def test_a_node_may_send_what_several_clients_have_together(wire, config):
    whole = wire.arrive(chunk(wire, config, [0, 1, 2]))
    intake = Intake({})
    for node in ([[0]], [[1], [2]]):
        joined, ids = Joined(), []
        for some, upload in (chunk(wire, config, at) for at in node):
            joined.take(send(upload, torch.ones(len(some.ids), dtype=torch.bool)))
            ids += some.ids
        intake.take(ids, joined.payload)
    found = intake.uploads()
    assert found.ids == whole.ids
    for mine, theirs in ((found.sums, whole.sums), (found.own, whole.own)):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[name]) for name, value in mine.items())
    assert found.weights == whole.weights


def test_nobody_with_pictures_changes_nothing(pictures, config):
    there = pictures(0, 1)
    state, _ = there.play(CCL, config)
    assert torch.equal(state["model"][0], there.model)

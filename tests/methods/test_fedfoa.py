"""FedFoA: features go together on one client as on the others."""

import math
from dataclasses import replace

import pytest
import torch

from fedsyn.core.wire import Upload
from fedsyn.methods import fedfoa
from fedsyn.methods.fedavg import FEDAVG
from fedsyn.methods.fedfoa import FEDFOA, FedFoAOptions
from fedsyn.objectives.views.simclr import SimCLRObjective


def qr(z):
    """R of unit rows above √ε I, with a positive diagonal."""
    z = torch.stack([row / row.square().sum().sqrt() for row in z])
    above = torch.cat([z / math.sqrt(len(z)), math.sqrt(1e-3) * torch.eye(z.shape[1])])
    r = torch.linalg.qr(above).R
    return r.diagonal().sign()[:, None] * r


@pytest.mark.parametrize("pictures", [3, 20])
def test_the_factor_is_that_of_qr(pictures):
    features = torch.randn(
        2, pictures, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    valid = torch.arange(pictures) < torch.tensor([[pictures], [2]])
    found = fedfoa.factor(fedfoa.gram(features, valid), valid)
    torch.testing.assert_close(found[0], qr(features[0]))
    torch.testing.assert_close(found[1], qr(features[1, :2]))


def test_the_factor_sees_no_order_of_pictures():
    features = torch.randn(1, 8, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = torch.ones(1, 8, dtype=torch.bool)
    found = fedfoa.factor(fedfoa.gram(features, whole), whole)
    other = fedfoa.factor(fedfoa.gram(features.flip(1), whole), whole)
    torch.testing.assert_close(found, other)


def test_two_steps_by_hand(pictures, by_hand, plain):
    there = pictures(5, 3)
    net = there.problem.net
    there = replace(there, problem=replace(there.problem, objective=SimCLRObjective(0.5)))
    config = plain.changed(fedfoa=FedFoAOptions(mu=0.7))
    shared = qr(torch.randn(9, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64))
    received = {"model": there.model.expand(2, -1), "relation": shared.expand(2, -1, -1)}
    sent, _, losses = there.client(FEDFOA, received, {}, config)
    for client in range(2):
        rows = there.pairs(client)

        def loss(w, rows=rows):
            both = torch.cat([rows, rows])[None]
            features = net.encode(w[None], both)
            z = net.project(w[None], features, torch.ones(1, len(both[0]), dtype=torch.bool))[0]
            contrast, n = 0, len(rows)
            for i in range(2 * n):
                others = torch.stack([(z[i] @ z[j] / 0.5).exp() for j in range(2 * n) if j != i])
                contrast = contrast + others.sum().log() - z[i] @ z[(i + n) % (2 * n)] / 0.5
            return contrast / (2 * n) + 0.7 * (qr(features[0, :n]) - shared).square().sum()

        middle = by_hand.descend(there.model, loss, config.lr, steps=1)
        expected = by_hand.descend(middle, loss, config.lr, steps=1)
        torch.testing.assert_close(sent["model"][client], expected)
        mean = (loss(there.model) + loss(middle)) / 2
        torch.testing.assert_close(losses[client], mean.float())
        own = net.encode(sent["model"][client][None], rows[None])[0]
        torch.testing.assert_close(sent["relation"][client], qr(own))


def test_the_first_round_is_that_of_fedavg_and_the_second_is_not(pictures, plain):
    there = pictures(9, 0, 4, 7)
    for rounds, same in ((1, True), (2, False)):
        mine, avg = (there.play(method, plain, rounds)[0]["model"] for method in (FEDFOA, FEDAVG))
        assert torch.allclose(mine, avg) == same


def test_correlations_of_many_pictures_are_added_up_in_blocks(pictures, monkeypatch):
    there = pictures(7, 4)
    models, cohort = there.model.expand(2, -1), there.cohort()
    whole = fedfoa.relation(there.problem, models, cohort)
    monkeypatch.setattr(fedfoa, "BLOCK", 3)
    torch.testing.assert_close(fedfoa.relation(there.problem, models, cohort), whole)


def test_the_server_averages_correlations_as_models(wire, plain):
    replies = {
        "model": torch.tensor([[2.0], [6.0]]),
        "relation": torch.eye(2) * torch.ones(2, 1, 1),
    }
    replies["relation"][1] *= 5
    both = wire.holding({0: 1, 1: 3})
    uploads = wire.arrive((both, Upload(plain.weighted(both, **replies))))
    state = FEDFOA.server(None, {"model": torch.zeros(1, 1)}, uploads, plain, torch.Generator())
    assert state["model"].tolist() == [[5.0]]
    assert state["relation"].tolist() == [[[4.0, 0.0], [0.0, 4.0]]]
    assert FEDFOA.broadcast(state, (0, 1))["relation"].shape == (2, 2, 2)

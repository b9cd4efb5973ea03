"""FedProx pulls local models towards the received one."""

import torch

from fedsyn.methods.fedavg import FEDAVG
from fedsyn.methods.fedprox import FEDPROX, FedProxOptions


def test_two_steps_by_hand(world, by_hand, plain):
    there, mu = world(5, 3), 0.7
    config = plain.changed(fedprox=FedProxOptions(mu=mu))
    received = there.model.expand(2, -1)
    sent, _, _ = there.client(FEDPROX, {"model": received}, {}, config)
    for client in range(2):
        pairs = there.pairs(client)
        expected = by_hand.descend(
            there.model,
            lambda w, pairs=pairs: by_hand.info_nce(w, pairs),
            config.lr,
            steps=2,
            extra=lambda w: mu * (w - there.model),
        )
        torch.testing.assert_close(sent["model"][client], expected)


def test_without_a_pull_it_is_fedavg(world, plain):
    there = world(9, 0, 2, 1, 7)
    config = plain.changed(fedprox=FedProxOptions(mu=0.0), batch=4)
    prox, avg = (there.play(method, config)[0]["model"] for method in (FEDPROX, FEDAVG))
    torch.testing.assert_close(prox, avg)


def test_a_strong_pull_keeps_models_near(world, plain):
    there = world(9)
    moved = []
    for mu in (0.0, 1.0, 3.0):
        config = plain.changed(fedprox=FedProxOptions(mu=mu))
        state, _ = there.play(FEDPROX, config, rounds=1)
        moved.append((state["model"] - there.model).norm())
    assert moved[0] > moved[1] > moved[2] > 0

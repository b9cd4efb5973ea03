"""MOON contrasts the trained model's embeddings with the received and the previous model's."""

import math

import pytest
import torch

from fedsyn.methods.fedavg import FEDAVG
from fedsyn.methods.moon import MOON, MoonOptions
from fedsyn.objectives.similarity import contrast


def test_the_contrast_of_one_pair_by_hand():
    z, near, far = (torch.tensor(u) for u in ([1.0, 0.0], [0.6, 0.8], [-0.8, 0.6]))
    expected = -math.log(math.exp(0.6 / 0.5) / (math.exp(0.6 / 0.5) + math.exp(-0.8 / 0.5)))
    assert contrast(z, near, far, 0.5).item() == pytest.approx(expected)


def test_two_steps_by_hand(world, by_hand, plain):
    there, config = world(5, 3), plain.changed(moon=MoonOptions(mu=0.8))
    received = there.model.expand(2, -1)
    previous = received + 0.3 * torch.randn(
        received.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )
    sent, kept, losses = there.client(MOON, {"model": received}, {"previous": previous}, config)
    for client in range(2):
        pairs = there.pairs(client)

        def loss(w, pairs=pairs, old=previous[client]):
            total = 0
            for pair in pairs:
                three = (by_hand.embedded(model, pair) for model in (w, there.model, old))
                for z, z_glob, z_prev in zip(*three, strict=True):
                    near, far = ((z @ other / 0.5).exp() for other in (z_glob, z_prev))
                    total = total - (near / (near + far)).log() / 2
            return by_hand.info_nce(w, pairs) + 0.8 * total / len(pairs)

        middle = by_hand.descend(there.model, loss, config.lr, steps=1)
        expected = by_hand.descend(middle, loss, config.lr, steps=1)
        torch.testing.assert_close(sent["model"][client], expected)
        mean = (loss(there.model) + loss(middle)) / 2
        torch.testing.assert_close(losses[client], mean.float())
    assert torch.equal(kept["previous"], sent["model"])


def test_without_the_contrast_it_is_fedavg(world, plain):
    there = world(9, 0, 2, 1, 7)
    config = plain.changed(moon=MoonOptions(mu=0.0), batch=4)
    mine, avg = (there.play(method, config)[0]["model"] for method in (MOON, FEDAVG))
    torch.testing.assert_close(mine, avg)


def test_a_client_that_sat_out_keeps_its_own_last_model(world, plain):
    there = world(6, 5)
    _, before = there.play(MOON, plain, rounds=1)
    _, after = there.play(
        MOON, plain, sampled=lambda round_number, client: round_number == 1 or client == 0
    )
    assert torch.equal(after[1]["previous"], before[1]["previous"])
    assert not torch.equal(after[0]["previous"], before[0]["previous"])

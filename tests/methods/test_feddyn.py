"""FedDyn's regulariser, and what the server adds for it."""

import torch

from fedsyn.core.wire import Upload
from fedsyn.methods.base import present
from fedsyn.methods.fedavg import FEDAVG
from fedsyn.methods.feddyn import FEDDYN, FedDynOptions


def test_two_steps_and_the_next_gradient_by_hand(world, by_hand, plain):
    there, alpha = world(5, 3), 0.4
    config = plain.changed(feddyn=FedDynOptions(alpha=alpha))
    draw = torch.Generator().manual_seed(3)
    own = 0.1 * torch.randn(2, there.model.numel(), generator=draw, dtype=torch.float64)
    received = {"model": there.model.expand(2, -1)}
    sent, kept, _ = there.client(FEDDYN, received, {"gradient": own}, config)
    for client in range(2):

        def loss(w, pairs=there.pairs(client), g=own[client]):  # noqa: B008
            distance = (w - there.model).square().sum()
            return by_hand.info_nce(w, pairs) - g @ w + alpha / 2 * distance

        trained = by_hand.descend(there.model, loss, config.lr, steps=2)
        torch.testing.assert_close(sent["model"][client], trained)
        expected = own[client] - alpha * (trained - there.model)
        torch.testing.assert_close(kept["gradient"][client], expected)


def test_the_server_by_hand(wire, plain):
    config = plain.changed(feddyn=FedDynOptions(alpha=0.5))
    state = FEDDYN.init(None, torch.tensor([1.0, 1.0]), 4)
    for replies, h, model in [
        # Changes add up to [4, 0] and [1, 1]; of four clients two took part, then one.
        ([[5.0, 0.0], [1.0, 2.0]], [-0.5, 0.0], [4.0, 1.0]),
        ([[5.0, 2.0]], [-0.625, -0.125], [6.25, 2.25]),
    ]:
        clients = [
            (client, 1 + 2 * client, w)  # the size does not matter
            for client, w in enumerate(replies)
        ]
        sent = []
        for client, size, w in (*clients, (3, 0, [9.0, 9.0])):
            one = wire.holding({client: size})
            sent.append((one, Upload(present(one, model=torch.tensor([w])))))
        state = FEDDYN.server(None, state, wire.arrive(*sent), config, torch.Generator())
        assert state["h"].tolist() == [h]
        assert state["model"].tolist() == [model]


def test_h_stays_the_mean_of_the_clients_gradients(world, plain):
    there = world(9, 0, 2, 1, 7)
    config = plain.changed(batch=4, feddyn=FedDynOptions(alpha=0.4))
    state, kept = there.play(FEDDYN, config, rounds=4, sampled=lambda r, c: (r + c) % 2 == 0)
    gradients = torch.stack([kept[client]["gradient"] for client in range(5)])
    torch.testing.assert_close(state["h"][0], gradients.mean(0))


def test_without_a_regulariser_clients_train_as_under_fedavg(world, plain):
    there = world(9, 2)
    config = plain.changed(feddyn=FedDynOptions(alpha=1e-12))
    zero = torch.zeros(2, there.model.numel(), dtype=torch.float64)
    received = {"model": there.model.expand(2, -1)}
    mine, _, _ = there.client(FEDDYN, received, {"gradient": zero}, config)
    avg, _, _ = there.client(FEDAVG, received, {}, config)
    torch.testing.assert_close(mine["model"], avg["model"])

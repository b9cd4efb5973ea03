"""FedDyn's regulariser, and what the server adds for it."""

import torch

from fedsyn.config import FedDynConfig, MethodConfig
from fedsyn.methods import METHODS


def test_two_steps_and_the_next_gradient_by_hand(world, by_hand, plain):
    there, alpha = world(5, 3), 0.4
    config = plain.model_copy(update={"feddyn": FedDynConfig(alpha=alpha)})
    draw = torch.Generator().manual_seed(3)
    own = 0.1 * torch.randn(2, there.model.numel(), generator=draw, dtype=torch.float64)
    payload = {"model": there.model.expand(2, -1)}
    sent, kept, _ = there.client("feddyn", payload, {"gradient": own}, config)
    for client in range(2):

        def loss(w, pairs=there.pairs(client), g=own[client]):  # noqa: B008
            distance = (w - there.model).square().sum()
            return by_hand.info_nce(w, pairs) - g @ w + alpha / 2 * distance

        trained = by_hand.descend(there.model, loss, config.lr, steps=2)
        torch.testing.assert_close(sent["model"][client], trained)
        expected = own[client] - alpha * (trained - there.model)
        torch.testing.assert_close(kept["gradient"][client], expected)


def test_the_server_by_hand():
    method, config = METHODS["feddyn"], MethodConfig(feddyn=FedDynConfig(alpha=0.5))
    state = method.init(None, torch.tensor([1.0, 1.0]), 4)
    for replies, h, model in [
        # Changes add up to [4, 0] and [1, 1]; of four clients two took part, then one.
        ([[5.0, 0.0], [1.0, 2.0]], [-0.5, 0.0], [4.0, 1.0]),
        ([[5.0, 2.0]], [-0.625, -0.125], [6.25, 2.25]),
    ]:
        heard = {}
        for client, w in enumerate(replies):
            sent = {"model": torch.tensor([w])}
            size = torch.tensor([1 + 2 * client])  # does not matter
            heard = method.hear(heard, (client,), sent, size, config)
        nothing = {"model": torch.tensor([[9.0, 9.0]])}
        heard = method.hear(heard, (3,), nothing, torch.tensor([0]), config)
        state = method.server(None, state, heard, config, torch.Generator())
        assert state["h"].tolist() == [h]
        assert state["model"].tolist() == [model]


def test_h_stays_the_mean_of_the_clients_gradients(world, plain):
    there = world(9, 0, 2, 1, 7)
    config = plain.model_copy(update={"batch": 4, "feddyn": FedDynConfig(alpha=0.4)})
    state, kept = there.play("feddyn", config, rounds=4, sampled=lambda r, c: (r + c) % 2 == 0)
    gradients = torch.stack([kept[client]["gradient"] for client in range(5)])
    torch.testing.assert_close(state["h"][0], gradients.mean(0))


def test_without_a_regulariser_clients_train_as_under_fedavg(world, plain):
    there = world(9, 2)
    config = plain.model_copy(update={"feddyn": FedDynConfig(alpha=1e-12)})
    zero = torch.zeros(2, there.model.numel(), dtype=torch.float64)
    payload = {"model": there.model.expand(2, -1)}
    mine, _, _ = there.client("feddyn", payload, {"gradient": zero}, config)
    avg, _, _ = there.client("fedavg", payload, {}, config)
    torch.testing.assert_close(mine["model"], avg["model"])

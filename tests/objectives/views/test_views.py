"""Objectives of two views of pictures, step by step as their algorithms read."""

from collections import deque

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from fedsyn import ops
from fedsyn.models.representation import build
from fedsyn.models.settings import ModelConfig
from fedsyn.objectives.pairs.info_nce import InfoNCELoss
from fedsyn.objectives.views.base import Paired, Views
from fedsyn.objectives.views.byol import BYOLObjective
from fedsyn.objectives.views.moco import MoCoObjective, empty
from fedsyn.objectives.views.simclr import SimCLRObjective

NET = build(ModelConfig(channels=(8,), hidden=(6,), dim=5), (4, 4, 1), predicts=True)
SIZES = (4, 2, 3)  # pictures of each client in a batch
OBJECTIVES = [
    SimCLRObjective(0.3),
    MoCoObjective(0.3, 0.9, 6),
    BYOLObjective(0.9),
    Paired(InfoNCELoss(0.3)),
]


def draw(seed=0, dtype=torch.float64):
    """Models of three clients, and batches of views with rows that take no part."""
    generator = torch.Generator().manual_seed(seed)
    params = torch.stack([NET.init(generator) for _ in SIZES]).to(dtype)
    first, second = torch.randn(2, len(SIZES), 4, 16, generator=generator).to(dtype)
    return params, Views(first, second, torch.arange(4) < torch.tensor(SIZES)[:, None])


def mine(views, client):
    """The two views of a client's pictures, those that take part."""
    return (x[client, : SIZES[client]][None] for x in (views.first, views.second))


def projected(w, *pictures, predict=False):
    """Unit rows of pictures that go through the heads together, by a flat model."""
    x = torch.cat(pictures, 1)
    whole = torch.ones(x.shape[:2], dtype=torch.bool)
    head = NET.predict if predict else NET.project
    return head(w[None], NET.encode(w[None], x), whole)[0]


def steps(objective, count=2):
    """Models, views and losses of some steps, the models moved between them."""
    params, _ = draw()
    learner = objective.begin(NET, params)
    for step in range(count):
        params = params + 0.1 * step
        _, views = draw(seed=step + 1)
        leaf = params.clone().requires_grad_()
        seen = learner(leaf, torch.arange(len(SIZES)), views, torch.tensor(step))
        (gradient,) = torch.autograd.grad(seen.loss.sum(), leaf)
        yield params, views, seen, gradient


def check(client, seen, gradient, w, expected):
    """The loss that is expected, and its gradient."""
    torch.testing.assert_close(seen.loss[client], expected)
    torch.testing.assert_close(gradient[client], torch.autograd.grad(expected, w)[0])


def test_simclr_by_hand():
    for params, views, seen, gradient in steps(SimCLRObjective(0.3)):
        for client, n in enumerate(SIZES):
            w = params[client].requires_grad_()
            z = projected(w, *mine(views, client))
            loss = 0
            for i in range(2 * n):
                others = torch.stack([(z[i] @ z[j] / 0.3).exp() for j in range(2 * n) if j != i])
                loss = loss + others.sum().log() - z[i] @ z[(i + n) % (2 * n)] / 0.3
            check(client, seen, gradient, w, loss / (2 * n))
        params.requires_grad_(False)


def test_moco_by_hand():
    slow, queue = {}, [deque(maxlen=6) for _ in SIZES]
    for params, views, seen, gradient in steps(MoCoObjective(0.3, 0.9, 6), count=3):
        for client, n in enumerate(SIZES):
            w = params[client].requires_grad_()
            first, second = mine(views, client)
            slow[client] = (0.9 * slow.get(client, w) + 0.1 * w).detach()
            keys = projected(slow[client], second)
            queue[client].extend(keys)
            loss = 0
            for q, k in zip(projected(w, first), keys, strict=True):
                among = torch.stack([(q @ other / 0.3).exp() for other in queue[client]])
                loss = loss + among.sum().log() - q @ k / 0.3
            check(client, seen, gradient, w, loss / n)
        params.requires_grad_(False)


def test_byol_by_hand():
    slow = {}
    for params, views, seen, gradient in steps(BYOLObjective(0.9), count=3):
        for client, n in enumerate(SIZES):
            w = params[client].requires_grad_()
            both = list(mine(views, client))
            slow[client] = (0.9 * slow.get(client, w) + 0.1 * w).detach()
            p, z = projected(w, *both, predict=True), projected(slow[client], *both)
            pairs = [(p[i], z[i + n]) for i in range(n)] + [(p[i + n], z[i]) for i in range(n)]
            check(client, seen, gradient, w, sum(2 - 2 * a @ b for a, b in pairs) / n)
        params.requires_grad_(False)


def test_an_objective_of_pairs_takes_the_views_for_the_pair():
    params, views = draw()
    seen = Paired(InfoNCELoss(0.3)).begin(NET, params)(
        params, torch.arange(3), views, torch.tensor(0)
    )
    for client in range(3):
        first, second = projected(params[client], *mine(views, client)).chunk(2)
        torch.testing.assert_close(seen.loss[client], ops.info_nce(first, second, 1 / 0.3))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_what_is_seen_are_the_features_of_the_first_views(objective):
    params, views = draw()
    seen = objective.begin(NET, params)(params, torch.arange(3), views, torch.tensor(0))
    torch.testing.assert_close(seen.features, NET.encode(params, views.first))
    assert torch.equal(seen.valid, views.valid)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_client_learns_the_same_alone_and_in_a_stack(objective):
    params, _ = draw(dtype=torch.float32)
    together = objective.begin(NET, params)
    alone = [objective.begin(NET, params[client : client + 1]) for client in range(3)]
    for step in range(3):
        _, views = draw(seed=step + 1, dtype=torch.float32)
        # Those that still train are a part, and not in order.
        clients = torch.tensor([2, 0, 1][: 3 - step])
        at = Views(*(part[clients] for part in views))
        found = together(params[clients], clients, at, torch.tensor(step)).loss
        for place, client in enumerate(clients.tolist()):
            own = Views(*(part[client : client + 1] for part in views))
            loss = alone[client](
                params[client : client + 1], torch.tensor([0]), own, torch.tensor(step)
            ).loss
            torch.testing.assert_close(found[place], loss[0], rtol=1e-6, atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(st.integers(3, 7), st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=8))
def test_a_queue_is_first_in_first_out(size, batches):
    queue, expected = empty(2, size, 3, torch.zeros(())), [deque(maxlen=size) for _ in range(2)]
    draw, clients = torch.Generator().manual_seed(0), torch.tensor([1, 0])
    for sizes in batches:
        keys = normalize(torch.randn(2, 3, 3, generator=draw), dim=-1)
        valid = torch.arange(3) < torch.tensor(sizes)[:, None]
        own = queue.put(clients, keys, valid)
        held, exists = queue.held(clients)
        assert torch.equal(own >= 0, valid)
        for place, client in enumerate(clients.tolist()):
            expected[client].extend(keys[place, : sizes[place]])
            assert torch.equal(held[place, own[place][valid[place]]], keys[place, : sizes[place]])
            found = {tuple(key.tolist()) for key in held[place, exists[place]]}
            assert found == {tuple(key.tolist()) for key in expected[client]}
            assert exists[place].sum() == len(expected[client])

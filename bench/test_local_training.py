"""Local training on the CPU: in one call, step by step, compiled, and one client after another.

Run with ``pytest bench/test_local_training.py``. Every contender trains the clients of a chunk for
one epoch of five batches by InfoNCE and Adam. One core.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from fedsyn import ops
from fedsyn.core.batches import epochs
from fedsyn.core.cohort import Cohort
from fedsyn.core.optim import Optimizer
from fedsyn.core.training import Training, train
from fedsyn.models.retrieval import build
from fedsyn.models.settings import ModelConfig
from fedsyn.objectives.pairs.info_nce import InfoNCELoss
from fedsyn.tasks.retrieval import RetrievalProblem
from formulas import forced

PAIRS, BATCH, SCALE = 320, 64, 5.0
NET = build(ModelConfig(), 128, 128, {})
CLIENTS = (8, 32)
Loss = Callable[..., Tensor]

pytestmark = pytest.mark.usefixtures("one_thread")


class Case:
    """Pairs, a model to start from, and the batches of all clients."""

    def __init__(self, clients: int) -> None:
        draw = torch.Generator().manual_seed(0)
        self.features = torch.randn(clients * PAIRS, 256, generator=draw)
        self.model = NET.init(draw)
        held = np.arange(clients * PAIRS).reshape(clients, PAIRS)
        self.cohort = Cohort(tuple(range(clients)), tuple(held), 0, 1)
        self.start = self.model.expand(clients, -1)
        self.batches = epochs(self.cohort.rows, BATCH, 1, self.cohort.streams("local"))


def in_one_call(case: Case) -> Tensor:
    own = InfoNCELoss(1 / SCALE)
    problem = RetrievalProblem(features=case.features, net=NET, objective=own, criterion=own)
    return problem.train(case.start, case.cohort, Training(epochs=1))[0]


def stepwise(case: Case, loss: Loss | None = None) -> Tensor:
    loss = loss or loss_of(case)
    return train(case.start, loss, case.batches, Optimizer("adam", 1e-3))[0]


def loss_of(case: Case) -> Loss:
    def loss(params: Tensor, _: Tensor, index: Tensor, valid: Tensor, step: Tensor) -> Tensor:
        return ops.info_nce(*NET.embed(params, case.features[index]), SCALE, valid)

    return loss


_compiled: dict[Case, Loss] = {}


def compiled(case: Case) -> Tensor:
    if case not in _compiled:
        _compiled[case] = torch.compile(loss_of(case), dynamic=False)
    return stepwise(case, _compiled[case])


def loop(case: Case) -> Tensor:
    """The same with modules, one client after another."""
    found = []
    for client in range(len(case.start)):
        nets = []
        views = NET.layout.views(case.model[None])
        for modality in ("image", "text"):
            linear = nn.Linear(128, 256), nn.Linear(256, 64)
            for layer, module in enumerate(linear):
                module.weight.data.copy_(views[f"{modality}.{layer}.weight"][0].T)
                module.bias.data.copy_(views[f"{modality}.{layer}.bias"][0, 0])
            nets.append(nn.Sequential(linear[0], nn.ReLU(), linear[1]))
        params = [p for net in nets for p in net.parameters()]
        optimizer = torch.optim.Adam(params, 1e-3, fused=True)
        own = torch.arange(BATCH)
        for rows in case.batches.index[:, client]:
            parts = case.features[rows].split(128, -1)
            u, v = (normalize(net(part), dim=-1) for net, part in zip(nets, parts, strict=True))
            logits = SCALE * u @ v.T
            loss = (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        flat = [(p.T if p.ndim == 2 else p).reshape(-1).detach() for p in params]
        found.append(torch.cat(flat))
    return torch.stack(found)


CONTENDERS = {
    "kernel": forced("cpu", in_one_call),
    "step by step": stepwise,
    "step by step, torch.compile": compiled,
    "one client after another": loop,
}


@pytest.mark.parametrize("name", CONTENDERS)
@pytest.mark.parametrize("clients", CLIENTS)
def test_local_training(benchmark: BenchmarkFixture, clients: int, name: str) -> None:
    benchmark.group = f"local training, {clients} clients"
    case, contender = Case(clients), CONTENDERS[name]
    found, expected = contender(case), loop(case)
    moved = (expected - case.start).norm()
    # Adam's steps have the size of the rate whatever the gradient: rounding shows where that is 0.
    assert (found - expected).norm() < 1e-2 * moved
    benchmark.pedantic(contender, (case,), rounds=20, warmup_rounds=2)

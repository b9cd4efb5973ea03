"""Local training on the CPU: in one call, step by step, compiled, and one client after another.

Run with ``pytest bench/test_local_training.py``. Every contender trains the clients of a chunk for
one epoch of five batches by InfoNCE and Adam; then once more with towers that have a linear term,
trained or frozen, or none. One core.
"""

from collections.abc import Callable
from itertools import pairwise

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
from fedsyn.ops.local_training import SKIPS
from fedsyn.tasks.retrieval import RetrievalProblem
from formulas import forced

PAIRS, BATCH, SCALE = 320, 64, 5.0
NET = build(ModelConfig(), 128, 128, {})
CLIENTS = (8, 32)
WIDTHS = {"narrow": (128, 256, 64), "wide": (512, 256, 512)}
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


# ---- With a linear term ------------------------------------------------------------------------


class TermCase:
    """Pairs, two towers of the same widths, and the batches of all clients."""

    def __init__(self, clients: int, widths: tuple[int, ...], skip: str) -> None:
        draw = torch.Generator().manual_seed(0)
        self.widths, self.skip = widths, skip
        self.features = torch.randn(clients * PAIRS, 2 * widths[0], generator=draw)
        shapes = [shape for a, b in pairwise(widths) for shape in ((a, b), (1, b))]
        shapes += [(widths[0], widths[-1])] * (skip != "none")
        self.shapes = 2 * shapes
        parts = [torch.randn(s, generator=draw) / widths[0] ** 0.5 for s in self.shapes]
        self.model = torch.cat([part.flatten() for part in parts])
        kept = [skip == "frozen" and shape == shapes[-1] for shape in self.shapes]
        sizes = torch.tensor([part.numel() for part in parts])
        self.frozen = torch.tensor(kept).repeat_interleave(sizes)
        self.start = self.model.expand(clients, -1)
        held = np.arange(clients * PAIRS).reshape(clients, PAIRS)
        cohort = Cohort(tuple(range(clients)), tuple(held), 0, 1)
        self.batches = epochs(cohort.rows, BATCH, 1, cohort.streams("local"))


def terms_in_one_call(case: TermCase) -> Tensor:
    sizes = case.batches.valid.sum(-1)
    operands = (case.start, case.features, case.batches.index, sizes, (case.widths,) * 2, SCALE)
    return ops.train_info_nce(*operands, skip=case.skip)[0]


def terms_stepwise(case: TermCase) -> Tensor:
    def loss(params: Tensor, _: Tensor, index: Tensor, valid: Tensor, step: Tensor) -> Tensor:
        if case.skip == "frozen":
            params = torch.where(case.frozen, params.detach(), params)
        towers, skip = (case.widths,) * 2, case.skip != "none"
        pair = ops.mlp(case.features[index], params, towers, head="unit", skip=skip)
        image, text = pair.chunk(2, -1)
        return ops.info_nce(image, text, SCALE, valid)

    return train(case.start, loss, case.batches, Optimizer("adam", 1e-3))[0]


def terms_loop(case: TermCase) -> Tensor:
    """The formula, one client after another."""
    found, own = [], torch.arange(BATCH)
    sizes = [a * b for a, b in case.shapes]
    for client, start in enumerate(case.start):
        parts = start.clone().split(sizes)
        params = [part.view(shape) for part, shape in zip(parts, case.shapes, strict=True)]
        trained = [
            p.requires_grad_()
            for p, kept in zip(params, case.frozen.split(sizes), strict=True)
            if not kept.any()
        ]
        optimizer = torch.optim.Adam(trained, 1e-3, fused=True)
        half = len(params) // 2
        for rows in case.batches.index[:, client]:
            sides = []
            for x, tower in zip(
                case.features[rows].chunk(2, -1), (params[:half], params[half:]), strict=True
            ):
                w1, b1, w2, b2, *term = tower
                u = torch.addmm(b2, torch.addmm(b1, x, w1).relu(), w2)
                sides.append(normalize(u + x @ term[0] if term else u, dim=-1))
            logits = SCALE * sides[0] @ sides[1].T
            loss = (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found.append(torch.cat([p.detach().flatten() for p in params]))
    return torch.stack(found)


TERM_CONTENDERS = {
    "kernel": forced("cpu", terms_in_one_call),
    "step by step": terms_stepwise,
    "one client after another": terms_loop,
}


@pytest.mark.parametrize("name", TERM_CONTENDERS)
@pytest.mark.parametrize("skip", SKIPS)
@pytest.mark.parametrize("size", WIDTHS)
def test_local_training_with_a_linear_term(
    benchmark: BenchmarkFixture, size: str, skip: str, name: str
) -> None:
    benchmark.group = f"local training, {size} towers, linear term: {skip}"
    case, contender = TermCase(10, WIDTHS[size], skip), TERM_CONTENDERS[name]
    found, expected = contender(case), terms_loop(case)
    moved = (expected - case.start).norm()
    assert (found - expected).norm() < 1e-2 * moved
    assert torch.equal(found[:, case.frozen], case.start[:, case.frozen])
    benchmark.pedantic(contender, (case,), rounds=20, warmup_rounds=2)

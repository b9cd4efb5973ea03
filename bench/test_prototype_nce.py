"""Contrast against prototypes, forward and backward on the CPU: kernel, eager, torch.compile.

Run with ``pytest bench/test_prototype_nce.py``. One thread each: what a core does, which the other
tenants of a machine disturb least. Read the minimum or the median.
"""

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from fedsyn.ops import prototype_nce
from formulas import forced

SCALE = 14.0
# [clients, rows, prototypes, width]: a client's batch, a stack of fifty of them, a server's.
SIZES = [
    (1, 64, 24, 128),
    (1, 64, 24, 256),
    (50, 64, 32, 64),
    (1, 512, 100, 128),
    (1, 512, 100, 256),
    (1, 4096, 240, 128),
    (1, 4096, 240, 256),
    (1, 8192, 1000, 128),
    (1, 8192, 1000, 256),
]


pytestmark = pytest.mark.usefixtures("one_thread")


on_cpu = forced("cpu", prototype_nce)


def kernel(x: Tensor, prototypes: Tensor, target: Tensor) -> Tensor:
    loss = on_cpu(x, prototypes, target, SCALE)
    return loss.sum() if loss.ndim else loss


def eager(x: Tensor, prototypes: Tensor, target: Tensor) -> Tensor:
    logits = SCALE * x @ prototypes.mT
    if x.ndim == 2:
        return cross_entropy(logits, target)
    return cross_entropy(logits.mT, target) * len(x)


CONTENDERS = {
    "kernel": kernel,
    "eager": eager,
    "torch.compile": torch.compile(eager, dynamic=False),
}


def operands(clients: int, rows: int, count: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """One client as PyTorch's users have it, without a client axis."""
    generator = torch.Generator().manual_seed(0)
    lead = (clients,) if clients > 1 else ()
    x = normalize(torch.randn(*lead, rows, width, generator=generator), dim=-1)
    prototypes = normalize(torch.randn(*lead, count, width, generator=generator), dim=-1)
    return x, prototypes, torch.randint(0, count, (*lead, rows), generator=generator)


@pytest.mark.parametrize("name", CONTENDERS)
@pytest.mark.parametrize("both", [False, True], ids=["rows", "rows and prototypes"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_forward_and_backward(
    benchmark: BenchmarkFixture, name: str, both: bool, size: tuple[int, int, int, int]
) -> None:
    x, prototypes, target = operands(*size)
    x.requires_grad_()
    prototypes.requires_grad_(both)
    leaves = (x, prototypes) if both else (x,)
    benchmark.group = f"prototype_nce {list(size)}, gradients of {len(leaves)}"

    def call() -> tuple[Tensor, ...]:
        return torch.autograd.grad(CONTENDERS[name](x, prototypes, target), leaves)

    wide = [leaf.detach().double().requires_grad_() for leaf in (x, prototypes)]
    expected = torch.autograd.grad(eager(wide[0], wide[1], target), wide[: len(leaves)])
    for got, wanted in zip(call(), expected, strict=True):
        assert ((got.double() - wanted).norm() / wanted.norm()).item() <= 1e-5
    large = size[0] * size[1] * size[2] > 1 << 19
    benchmark.pedantic(call, rounds=7 if large else 500, warmup_rounds=2)

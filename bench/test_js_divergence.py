"""The Jensen–Shannon divergence on the CPU: kernel, PyTorch formula, and what inductor makes of it.

Run with ``pytest bench/test_js_divergence.py``. One thread each: what a core does, which the other
tenants of a machine disturb least. Read the minimum or the median.
"""

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from fedsyn.ops import js_divergence
from fedsyn.ops.js_divergence import js_divergence_reference
from formulas import forced

# Rows of a server's filter: prototypes (24) and pairs of 20 000 candidates with 50 clients (100).
SIZES = [(4096, 10), (4096, 24), (20_000 * 50, 100)]


pytestmark = pytest.mark.usefixtures("one_thread")


CONTENDERS = {
    "kernel": forced("cpu", js_divergence),
    "reference": js_divergence_reference,
    "torch.compile": torch.compile(js_divergence_reference, dynamic=False),
}


def operands(rows: int, k: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(rows, k, generator=generator).softmax(-1) for _ in range(2)]


@pytest.mark.parametrize("name", CONTENDERS)
@pytest.mark.parametrize(("rows", "k"), SIZES, ids=lambda size: str(size))
def test_forward(benchmark: BenchmarkFixture, name: str, rows: int, k: int) -> None:
    p, q = operands(rows, k)
    benchmark.group = f"js_divergence forward [{rows}, {k}]"
    call = CONTENDERS[name]
    expected = js_divergence_reference(p[:4096].double(), q[:4096].double())
    torch.testing.assert_close(call(p, q)[:4096].double(), expected, rtol=0, atol=1e-6)
    benchmark.pedantic(call, (p, q), rounds=5 if rows > 10_000 else 100, warmup_rounds=1)


@pytest.mark.parametrize("name", CONTENDERS)
@pytest.mark.parametrize(("rows", "k"), [*SIZES[:2], (100_000, 100)], ids=lambda size: str(size))
def test_forward_and_backward(benchmark: BenchmarkFixture, name: str, rows: int, k: int) -> None:
    p, q = (x.requires_grad_() for x in operands(rows, k))
    benchmark.group = f"js_divergence forward and backward [{rows}, {k}]"

    def call() -> tuple[Tensor, ...]:
        return torch.autograd.grad(CONTENDERS[name](p, q).sum(), (p, q))

    ratio = (2 * p / (p + q)).detach().double()
    torch.testing.assert_close(call()[0].double(), 0.5 * ratio.log(), rtol=0, atol=1e-6)
    benchmark.pedantic(call, rounds=5 if rows > 10_000 else 100, warmup_rounds=1)

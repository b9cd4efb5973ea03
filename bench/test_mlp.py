"""Stacked perceptrons on the CPU: kernel, baddbmm and autograd, a loop of nn.Sequential.

Run with ``pytest bench/test_mlp.py``. Every contender gives the output and the gradient to
what the size says. On one core and on two. Read the minimum or the median.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn
from torch.nn.functional import normalize

from fedsyn.ops import mlp
from fedsyn.ops.mlp import mlp_reference
from formulas import forced

Towers = tuple[tuple[int, ...], ...]
# Output [C, B, out]; its gradient, one of each parameter, or none.
Found = tuple[Tensor, Tensor | tuple[Tensor, ...] | None]

RETRIEVAL: Towers = ((128, 256, 64), (128, 256, 64))
WIDE: Towers = ((512, 256, 512), (512, 256, 512))
# Clients, rows, towers, slope, head, what the gradient is taken of, whether there is a linear term.
SIZES: dict[str, tuple[int, int, Towers, float, str, str | None, bool]] = {
    "retrieval, 8 clients": (8, 64, RETRIEVAL, 0.0, "unit", "params", False),
    "retrieval, 8 clients, linear term": (8, 64, RETRIEVAL, 0.0, "unit", "params", True),
    "retrieval, 50 clients": (50, 64, RETRIEVAL, 0.0, "unit", "params", False),
    "retrieval, 50 clients, linear term": (50, 64, RETRIEVAL, 0.0, "unit", "params", True),
    "wide, 10 clients": (10, 64, WIDE, 0.0, "unit", "params", False),
    "wide, 10 clients, linear term": (10, 64, WIDE, 0.0, "unit", "params", True),
    "critic to x, 32 clients": (32, 64, ((256, 256, 256, 1),), 0.2, "linear", "x", False),
    "generator, 32 clients": (32, 64, ((384, 256, 256),), 0.0, "linear", "params", False),
    "evaluation, 8192 rows": (1, 8192, RETRIEVAL, 0.0, "unit", None, False),
    "evaluation, 8192 rows, linear term": (1, 8192, RETRIEVAL, 0.0, "unit", None, True),
}
compiled_reference = torch.compile(mlp_reference, dynamic=False)

pytestmark = pytest.mark.usefixtures("one_thread")


class Case:
    """Operands of a size, the wanted one a leaf, and the networks as modules."""

    def __init__(
        self,
        clients: int,
        rows: int,
        towers: Towers,
        slope: float,
        head: str,
        of: str | None,
        skip: bool,
    ) -> None:
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(clients, *shape, generator=generator)

        self.network, self.of = (towers, slope, head, skip), of
        parts = []
        for tower in towers:
            for a, b in pairwise(tower):
                parts += [draw(a * b) * 1.5 / a**0.5, 0.1 * draw(b)]
            if skip:
                parts.append(draw(tower[0] * tower[-1]) / tower[0] ** 0.5)
        self.sizes = [part.shape[1] for part in parts]
        self.params = torch.cat(parts, -1)
        self.x = draw(rows, sum(tower[0] for tower in towers))
        self.grad = draw(rows, sum(tower[-1] for tower in towers))
        if of is not None:
            getattr(self, of).requires_grad_()
        self.modules = [self.module(row.split(self.sizes)) for row in self.params.detach()]

    def module(self, params: Sequence[Tensor]) -> list[nn.ModuleList]:
        """One client's towers: layers, and the linear term if there is one."""
        towers, slope, _, skip = self.network
        parts, built = iter(params), []
        for tower in towers:
            layers: list[nn.Module] = []
            for a, b in pairwise(tower):
                layer = nn.Linear(a, b)
                layer.weight.data, layer.bias.data = next(parts).view(a, b).T.clone(), next(parts)
                layers += [layer, nn.LeakyReLU(slope) if slope else nn.ReLU()]
            terms: list[nn.Module] = [nn.Sequential(*layers[:-1])]
            if skip:
                term = nn.Linear(tower[0], tower[-1], bias=False)
                term.weight.data = next(parts).view(tower[0], tower[-1]).T.clone()
                terms.append(term)
            built.append(nn.ModuleList(terms).requires_grad_(self.of == "params"))
        return built

    def double(self) -> "Case":
        """The same in float64."""
        other = object.__new__(Case)
        other.__dict__.update(self.__dict__)
        for name in ("x", "params", "grad"):
            value = getattr(self, name)
            setattr(other, name, value.detach().double().requires_grad_(value.requires_grad))
        return other


def differentiate(case: Case, out: Tensor) -> Found:
    """The output, and the gradient that the size asks for."""
    if case.of is None:
        return out, None
    return out.detach(), torch.autograd.grad(out, getattr(case, case.of), case.grad)[0]


# ---- Contenders ---------------------------------------------------------------------------------


def stacked(case: Case, function: Any = mlp_reference) -> Found:
    return differentiate(case, function(case.x, case.params, *case.network))


def fused(case: Case) -> Found:
    return stacked(case, mlp)


def compiled(case: Case) -> Found:
    return stacked(case, compiled_reference)


def loop(case: Case) -> Found:
    towers, _, head, _ = case.network
    outputs = []
    for x, client in zip(case.x, case.modules, strict=True):
        sides = zip(client, x.split([tower[0] for tower in towers], -1), strict=True)
        parts = [sum(term(side) for term in terms) for terms, side in sides]
        if head == "unit":
            parts = [normalize(u, dim=-1) for u in parts]
        outputs.append(torch.cat(parts, -1))
    out = torch.stack(outputs)
    if case.of != "params":
        return differentiate(case, out)
    leaves = [p for client in case.modules for module in client for p in module.parameters()]
    return out.detach(), torch.autograd.grad(out, leaves, case.grad)


CONTENDERS: dict[str, Callable[[Case], Found]] = {
    "kernel": forced("cpu", fused),
    "baddbmm, autograd": stacked,
    "torch.compile of it": compiled,
    "a loop of nn.Sequential": loop,
}


def check(case: Case, found: Found) -> None:
    """Both within 1e-4 of the largest number expected (a ReLU may go either way by rounding)."""
    out, gradient = found
    if isinstance(gradient, tuple):  # of every client's modules
        rows = torch.cat([g.T.reshape(-1) for g in gradient])
        gradient = rows.view(case.params.shape)
    for got, expected in zip((out, gradient), stacked(case.double()), strict=True):
        if isinstance(got, Tensor) and isinstance(expected, Tensor):
            error = (got.double() - expected).norm() / expected.norm()
            assert error < 1e-4, error
        else:
            assert got is expected is None


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", CONTENDERS)
@pytest.mark.parametrize("size", SIZES)
def test_mlp(benchmark: BenchmarkFixture, size: str, name: str, threads: int) -> None:
    torch.set_num_threads(threads)
    benchmark.group = f"mlp {size}, {threads} thread{'s' * (threads > 1)}"
    case, contender = Case(*SIZES[size]), CONTENDERS[name]
    with torch.set_grad_enabled(case.of is not None):
        check(case, contender(case))
        benchmark.pedantic(contender, (case,), rounds=30, warmup_rounds=3)

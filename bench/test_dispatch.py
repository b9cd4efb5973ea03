"""What an operator costs over calling its CPU kernel directly, on operands next to nothing.

Both allocate their results. One thread; read the minimum.
"""

from types import ModuleType

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from fedsyn import ops
from fedsyn.ops.backends import native

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(native() is None, reason="the compiled module is absent"),
]
ROWS, WIDTH = 4, 8


def compiled() -> ModuleType:
    """The compiled module, which is there where these tests are not skipped."""
    module = native()
    assert module is not None
    return module


def info_nce(x: Tensor, y: Tensor) -> Tensor:
    return ops.info_nce(x, y, 10.0)


def info_nce_directly(x: Tensor, y: Tensor) -> Tensor:
    scale = torch.full((1,), 10.0)
    rows, columns, loss = x.new_empty(1, ROWS), x.new_empty(1, ROWS), x.new_empty(1)
    addresses = [t.data_ptr() for t in (x, y, scale)], [t.data_ptr() for t in (rows, columns, loss)]
    compiled().info_nce_cpu_float32(*addresses[0], 0, *addresses[1], 1, ROWS, ROWS, WIDTH, 0, 1)
    return loss


def js_divergence_directly(p: Tensor, q: Tensor) -> Tensor:
    out = p.new_empty(1, ROWS)
    compiled().js_divergence_cpu_float32(p.data_ptr(), q.data_ptr(), out.data_ptr(), ROWS, WIDTH, 1)
    return out


def js_nearest(p: Tensor, q: Tensor) -> Tensor:
    return ops.js_nearest(p[0], q[0])[0]


def js_nearest_directly(p: Tensor, q: Tensor) -> Tensor:
    divergence, client = p.new_empty(ROWS), p.new_empty(ROWS, dtype=torch.int64)
    addresses = [t.data_ptr() for t in (p, q, divergence, client)]
    compiled().js_nearest_cpu_float32(*addresses, ROWS, ROWS, WIDTH, 1)
    return divergence


PARAMS = torch.rand(1, 2 * (WIDTH + 1) * WIDTH)
TOWERS = ((WIDTH, WIDTH, WIDTH),)


def mlp(x: Tensor, _: Tensor) -> Tensor:
    return ops.mlp(x, PARAMS, TOWERS, head="unit")


def mlp_directly(x: Tensor, _: Tensor) -> Tensor:
    out = x.new_empty(1, ROWS, WIDTH)
    addresses = [t.data_ptr() for t in (x, PARAMS, out)]
    sizes = ([WIDTH] * 3, [3], 1, ROWS, PARAMS.stride(0))
    compiled().mlp_cpu_float32(*addresses, 0, *sizes, 0.0, "unit", False, 1)
    return out


OPERATORS = {
    "info_nce": (info_nce, info_nce_directly),
    "js_divergence": (ops.js_divergence, js_divergence_directly),
    "js_nearest": (js_nearest, js_nearest_directly),
    "mlp": (mlp, mlp_directly),
}


@pytest.mark.parametrize("name", ["kernel", "operator"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_dispatch(benchmark: BenchmarkFixture, operator: str, name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    operands = [torch.rand(1, ROWS, WIDTH, generator=generator).softmax(-1) for _ in range(2)]
    by_operator, directly = OPERATORS[operator]
    torch.testing.assert_close(by_operator(*operands), directly(*operands))
    benchmark.group = f"dispatch of {operator}"
    call = by_operator if name == "operator" else directly
    benchmark.pedantic(call, operands, rounds=2000, iterations=10)

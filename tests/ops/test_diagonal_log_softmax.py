"""The log-probability of each row's own partner: values against float64, for every backend."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from fedsyn import ops

cpu_backends = [name for name in ("reference", "cpu") if name in ops.backends()]
every_backend = pytest.mark.parametrize("name", cpu_backends)
operator = torch.ops.fedsyn.diagonal_log_softmax.default


def unit(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return normalize(drawn, dim=-1).to(dtype)


def oracle(x, y, scale):
    """log(e^{s_kk} / Σ_j e^{s_kj}) in float64, from the whole matrix."""
    logits = scale * x.double() @ y.double().T
    return (logits - logits.logsumexp(1, keepdim=True)).diagonal()


@every_backend
@settings(deadline=None, max_examples=40)
@given(st.integers(0, 60), st.integers(1, 20), st.floats(-30, 30), st.integers(0, 99))
def test_agrees_with_float64(name, rows, width, scale, seed):
    x, y = unit(rows, width, seed=seed), unit(rows, width, seed=seed + 100)
    with ops.backend(name):
        found = ops.diagonal_log_softmax(x, y, scale)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), oracle(x, y, scale), rtol=1e-5, atol=1e-5)


@every_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_more_rows_than_a_block_holds(name, dtype):
    x, y = unit(3000, 24, dtype=dtype), unit(3000, 24, seed=1, dtype=dtype)
    if name == "cpu" and dtype in (torch.float16, torch.float64):
        pytest.skip("the kernel has float32 and bfloat16")
    with ops.backend(name):
        found = ops.diagonal_log_softmax(x, y, 14.0)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    tight = 1e-12 if dtype == torch.float64 else 2e-5
    torch.testing.assert_close(found.double(), oracle(x, y, 14.0), rtol=tight, atol=tight)


@every_backend
def test_a_row_that_cannot_tell_its_partner_gives_it_one_chance_in_all(name):
    alike = torch.ones(50, 4)
    with ops.backend(name):
        found = ops.diagonal_log_softmax(alike, alike, 3.0)
    assert found.tolist() == pytest.approx([-math.log(50)] * 50, abs=1e-5)


@every_backend
def test_non_contiguous_rows(name):
    x, y = unit(9, 8), unit(8, 9, seed=1).T
    with ops.backend(name):
        found = ops.diagonal_log_softmax(x[:, ::2], y[:, ::2], 4.0)
        expected = ops.diagonal_log_softmax(x[:, ::2].clone(), y[:, ::2].contiguous(), 4.0)
    torch.testing.assert_close(found, expected)


def test_no_gradient_flows():
    x = unit(5, 3).requires_grad_()
    assert not ops.diagonal_log_softmax(x, x, 1.0).requires_grad


def test_opcheck_and_compile():
    x, y = unit(7, 3), unit(7, 3, seed=1)
    torch.library.opcheck(operator, (x, y, 2.0))
    torch.library.opcheck(operator, (x.bfloat16(), y.bfloat16(), 2.0))
    compiled = torch.compile(ops.diagonal_log_softmax, fullgraph=True, backend="aot_eager")
    expected = ops.diagonal_log_softmax(x, y, 2.0)
    torch.testing.assert_close(compiled(x, y, 2.0), expected)


@every_backend
@pytest.mark.parametrize(
    ("x", "y", "scale", "error", "message"),
    [
        (torch.ones(3, 2), torch.ones(4, 2), 1.0, ValueError, r"\(3, 2\) and \(4, 2\)"),
        (torch.ones(2, 3, 2), torch.ones(2, 3, 2), 1.0, ValueError, r"\[P, D\] .* got \(2, 3, 2\)"),
        (torch.ones(3, 0), torch.ones(3, 0), 1.0, ValueError, r"D > 0, got \(3, 0\)"),
        (torch.ones(3, 2), torch.ones(3, 2), math.inf, ValueError, "finite scale, got inf"),
        (torch.ones(3, 2), torch.ones(3, 2), "1", TypeError, "scale a number, got str"),
        (torch.ones(3, 2), torch.ones(3, 2).double(), 1.0, TypeError, "float32 and torch.fl"),
    ],
)
def test_refuses_with_one_sentence(name, x, y, scale, error, message):
    with ops.backend(name), pytest.raises(error, match=message) as raised:
        ops.diagonal_log_softmax(x, y, scale)
    assert str(raised.value).startswith("diagonal_log_softmax: ")

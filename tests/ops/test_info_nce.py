"""InfoNCE: values and gradients against float64, for every backend and instruction set."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, normalize

from fedsyn import ops
from fedsyn.ops.backends import native

cpu_backends = [name for name in ("reference", "cpu") if name in ops.backends()]
isas = native().cpu_isas() if native() else ()
needs_native = pytest.mark.skipif(native() is None, reason="the compiled module is absent")
operator = torch.ops.fedsyn.info_nce.default

# Blocks of the CPU kernel are 384 x 256: sizes on both sides of one and of several of them.
SIZES = [(1, 2, 1), (3, 7, 5), (2, 193, 33), (1, 391, 8), (1, 1200, 17)]


def unit(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1).to(
        dtype
    )


def oracle(x, y, scale, valid=None):
    """Loss [C] in float64, client by client: two cross-entropies of the rows that take part."""
    losses = []
    for c in range(len(x)):
        kept = slice(None) if valid is None else valid[c]
        logits = scale[c] * x[c, kept] @ y[c, kept].T
        target = torch.arange(len(logits))
        both = cross_entropy(logits, target) + cross_entropy(logits.T, target)
        losses.append(both / 2 if len(logits) else logits.sum())
    return torch.stack(losses)


def with_gradients(function, x, y, scale, valid, dtype):
    leaves = [x.to(dtype).requires_grad_(), y.to(dtype).requires_grad_()]
    leaves.append(scale.to(torch.float32 if dtype == torch.bfloat16 else dtype).requires_grad_())
    loss = function(*leaves, valid)
    # Clients weigh differently, so that gradients of one cannot pass for those of another.
    weight = 1 + torch.arange(len(loss), dtype=loss.dtype)
    return loss.detach(), torch.autograd.grad((weight * loss).sum(), leaves)


def assert_agree(x, y, scale, valid, dtype):
    """Compare with the oracle on the very same (rounded) operands."""
    x, y = x.to(dtype), y.to(dtype)
    loss, gradients = with_gradients(ops.info_nce, x, y, scale, valid, dtype)
    expected, oracles = with_gradients(oracle, x, y, scale, valid, torch.float64)
    torch.testing.assert_close(loss.double(), expected, rtol=2e-6, atol=2e-6)
    bound = 1e-2 if dtype == torch.bfloat16 else 1e-5
    for gradient, exact in zip(gradients, oracles, strict=True):
        # A single row has gradient zero: then rounding is measured against the terms that cancel.
        size = max(exact.norm().item(), float(scale.detach().abs().max()) / x.shape[1])
        assert (gradient.double() - exact).norm().item() <= bound * size


def some_rows(clients, batch):
    """A mask of a prefix for the first client, of any rows for the others, of none for the last."""
    valid = torch.rand(clients, batch, generator=torch.Generator().manual_seed(5)) < 0.6
    valid[0] = torch.arange(batch) < (2 * batch + 2) // 3
    if clients > 1:
        valid[-1] = False
    return valid


@pytest.mark.parametrize("name", cpu_backends)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [14.0, 100.0, -3.0, 0.0])
@pytest.mark.parametrize("shape", SIZES, ids=str)
@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
def test_agrees_with_float64(name, dtype, scale, shape, masked):
    x, y = unit(*shape), unit(*shape, seed=1)
    valid = some_rows(*shape[:2]) if masked else None
    with ops.backend(name):
        assert_agree(x, y, torch.full(shape[:1], scale), valid, dtype)


@pytest.mark.parametrize("name", cpu_backends)
def test_agrees_with_float64_for_rows_of_any_length(name):
    # Similarities up to 600: a shift is needed, and whole rows underflow without one of their own.
    x, y = 5 * unit(2, 300, 6), 4 * unit(2, 300, 6, seed=1)
    with ops.backend(name):
        assert_agree(x, y, torch.tensor([30.0, 1.0]), None, torch.float32)


@needs_native
@pytest.mark.parametrize("isa", isas)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [10.0, 90.0])
def test_every_instruction_set_agrees_with_float64_on_rectangles(isa, dtype, scale):
    """The distributed form: more columns than rows, partners at an offset."""
    (m, n, width, offset), grad = (201, 590, 21, 300), 2.0
    x, y = unit(1, m, width).to(dtype), unit(1, n, width, seed=1).to(dtype)
    scales, grads = torch.tensor([scale]), torch.tensor([grad])
    rows, columns = torch.empty(m), torch.empty(n)
    dx, dy, dscale = torch.empty_like(x), torch.empty_like(y), torch.empty(1)
    suffix = f"cpu_{str(dtype).removeprefix('torch.')}"
    inputs = [t.data_ptr() for t in (x, y, scales)]
    sizes = (1, m, n, width, offset)
    getattr(native(), f"info_nce_{suffix}")(
        *inputs, 0, rows.data_ptr(), columns.data_ptr(), 0, *sizes, 1, isa
    )
    outputs = [t.data_ptr() for t in (dx, dy, dscale)]
    getattr(native(), f"info_nce_backward_{suffix}")(
        grads.data_ptr(), *inputs, 0, rows.data_ptr(), columns.data_ptr(), *outputs, *sizes, 1, isa
    )
    a, b = x[0].double().requires_grad_(), y[0].double().requires_grad_()
    s = scales.double().requires_grad_()
    logits = s * a @ b.T
    torch.testing.assert_close(rows.double(), logits.logsumexp(1).detach(), rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(columns.double(), logits.logsumexp(0).detach(), rtol=2e-6, atol=2e-6)
    loss = (logits.logsumexp(1).sum() + logits.logsumexp(0).sum()) / 2
    loss = grad / m * (loss - logits.diagonal(offset).sum())
    for value, exact in zip(
        (dx[0], dy[0], dscale), torch.autograd.grad(loss, (a, b, s)), strict=True
    ):
        bound = 1e-5 if dtype == torch.float32 else 1e-2
        assert (value.double() - exact).norm() <= bound * exact.norm()


@pytest.mark.parametrize("name", cpu_backends)
@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.floats(0.1, 100))
def test_is_log_batch_at_uniform_similarity(name, batch, scale):
    x = torch.zeros(batch, 8)
    x[:, 0] = 1
    with ops.backend(name):
        assert ops.info_nce(x, x, scale).item() == pytest.approx(math.log(batch), abs=2e-5)


@pytest.mark.parametrize("name", cpu_backends)
@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10))
def test_invalid_rows_do_not_exist(name, kept):
    x, y = unit(10, 4, dtype=torch.float32), unit(10, 4, seed=1, dtype=torch.float32)
    valid = torch.arange(10) < kept
    x, y = (t.masked_fill(~valid[:, None], math.nan if name == "cpu" else 0) for t in (x, y))
    with ops.backend(name):
        expected = ops.info_nce(x[:kept], y[:kept], 3.0)
        torch.testing.assert_close(ops.info_nce(x, y, 3.0, valid), expected)
    assert kept or expected.item() == 0


@pytest.mark.parametrize("name", cpu_backends)
def test_a_client_without_rows_has_loss_and_gradient_zero(name):
    x = unit(2, 4, 3, dtype=torch.float32).requires_grad_()
    y = unit(2, 4, 3, seed=1, dtype=torch.float32)
    with ops.backend(name):
        loss = ops.info_nce(x, y, 2.0, torch.zeros(2, 4, dtype=torch.bool))
        loss.sum().backward()
        assert loss.tolist() == [0, 0] and torch.equal(x.grad, torch.zeros_like(x))
        assert ops.info_nce(x[:, :0], y[:, :0], 2.0).tolist() == [0, 0]
        assert ops.info_nce(x[:0], y[:0], 2.0).shape == (0,)


@pytest.mark.parametrize("name", cpu_backends)
def test_each_client_has_its_own_scale_and_any_leading_axes(name):
    x, y = unit(2, 3, 5, 4, dtype=torch.float32), unit(2, 3, 5, 4, seed=1, dtype=torch.float32)
    scale = torch.tensor([[1.0], [9.0]])
    with ops.backend(name):
        all_of_them = ops.info_nce(x, y, scale)
        assert all_of_them.shape == (2, 3)
        torch.testing.assert_close(all_of_them[1, 2], ops.info_nce(x[1, 2], y[1, 2], 9.0))


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_neither_threads_nor_the_stack_nor_a_second_run_change_a_bit(dtype):
    x, y = unit(3, 700, 24, dtype=dtype), unit(3, 700, 24, seed=1, dtype=dtype)
    scale = torch.tensor([5.0, 20.0, 90.0])

    def run(threads, clients=slice(None)):
        torch.set_num_threads(threads)
        with ops.backend("cpu"):
            loss, gradients = with_gradients(
                ops.info_nce, x[clients], y[clients], scale[clients], None, dtype
            )
        return [loss, *gradients]

    one = run(1)
    for threads in (1, 2, 4, 5):
        assert all(torch.equal(a, b) for a, b in zip(one, run(threads), strict=True))
    alone = run(4, slice(0, 1))  # weighs 1 in both
    assert all(torch.equal(a[:1], b) for a, b in zip(one, alone, strict=True))


@pytest.mark.parametrize("name", cpu_backends)
def test_non_contiguous_operands_and_gradients(name):
    x, y = unit(2, 8, 6, dtype=torch.float32), unit(2, 6, 8, seed=1, dtype=torch.float32).mT
    valid = torch.ones(8, 2, dtype=torch.bool).T
    with ops.backend(name):
        expected = ops.info_nce(x[:, ::2], y.contiguous()[:, ::2], 4.0)
        torch.testing.assert_close(ops.info_nce(x[:, ::2], y[:, ::2], 4.0, valid[:, ::2]), expected)


@pytest.mark.parametrize("name", cpu_backends)
@pytest.mark.parametrize("scale", [5.0, 500.0])
def test_what_is_not_a_number_stays_so(name, scale):
    x, y = unit(2, 5, 4, dtype=torch.float32), unit(2, 5, 4, seed=1, dtype=torch.float32)
    x[1, 3, 2] = math.nan
    x.requires_grad_()
    with ops.backend(name):
        loss = ops.info_nce(x, y, scale)
        (gradient,) = torch.autograd.grad(loss.sum(), x)
    assert loss.isnan().tolist() == [False, True]
    assert gradient[0].isfinite().all() and gradient[1].isnan().any()


def test_half_precision_sums_in_float32():
    x, y = unit(1, 64, 16, dtype=torch.float16), unit(1, 64, 16, seed=1, dtype=torch.float16)
    loss = ops.info_nce(x, y, 50.0)
    assert loss.dtype == torch.float32
    expected = oracle(x.double(), y.double(), torch.tensor([50.0]))
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-6)


def test_gradcheck_and_opcheck():
    x, y = (unit(2, 4, 3, seed=s).requires_grad_() for s in (0, 1))
    scale = torch.tensor([2.0, 5.0], dtype=torch.float64, requires_grad=True)
    valid = torch.tensor([[True] * 4, [True, False, True, True]])
    assert torch.autograd.gradcheck(lambda *a: ops.info_nce(*a), (x, y, scale, valid))
    for dtype in (torch.float64, torch.float32):
        flat = (x, y, scale) if dtype == torch.float64 else (x.float(), y.float(), scale.float())
        leaves = [t.detach().requires_grad_() for t in flat]
        torch.library.opcheck(operator, (*leaves, None))
        torch.library.opcheck(operator, (*leaves, valid))


def test_compiles_without_graph_breaks():
    def step(x, y, scale):
        return ops.info_nce(x, y, scale).sum()

    x, y = (unit(2, 9, 4, seed=s, dtype=torch.float32).requires_grad_() for s in (0, 1))
    scale = torch.tensor(7.0, requires_grad=True)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(step(x, y, scale), (x, y, scale))
    result = torch.autograd.grad(compiled(x, y, scale), (x, y, scale))
    for a, b in zip(result, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", cpu_backends)
@pytest.mark.parametrize(
    ("x", "y", "scale", "valid", "error", "message"),
    [
        (torch.ones(3, 2), torch.ones(4, 2), 1.0, None, ValueError, r"\(3, 2\) and \(4, 2\)"),
        (torch.ones(2), torch.ones(2), 1.0, None, ValueError, r"at least 2 axes"),
        (torch.ones(3, 0), torch.ones(3, 0), 1.0, None, ValueError, r"D > 0, got x \(3, 0\)"),
        (torch.ones(3, 2), torch.ones(3, 2), math.nan, None, ValueError, "finite scale, got nan"),
        (torch.ones(3, 2), torch.ones(3, 2, device="meta"), 1.0, None, ValueError, "cpu and meta"),
        (torch.ones(3, 2), torch.ones(3, 2).double(), 1.0, None, TypeError, "float32 and torch.fl"),
        (torch.ones(2, 2).long(), torch.ones(2, 2).long(), 1.0, None, TypeError, "int64"),
        (
            torch.ones(3, 2),
            torch.ones(3, 2),
            1.0,
            torch.ones(2).bool(),
            ValueError,
            r"valid \(3,\)",
        ),
        (torch.ones(3, 2), torch.ones(3, 2), 1.0, torch.ones(3), TypeError, "boolean valid"),
    ],
)
def test_refuses_with_one_sentence(name, x, y, scale, valid, error, message):
    with ops.backend(name), pytest.raises(error, match=message) as raised:
        ops.info_nce(x, y, scale, valid)
    assert str(raised.value).startswith("info_nce: ") and "\n" not in str(raised.value)


@needs_native
def test_the_native_module_refuses_before_it_touches_memory(check_refused):
    calls = [
        ((8, 8, 8, 0, 8, 8, 0, 1, -1, 3, 2, 0), "m is -1"),
        ((8, 8, 8, 0, 8, 8, 0, 1, 3, 3, 0, 0), "width is 0"),
        ((8, 0, 8, 0, 8, 8, 0, 1, 3, 3, 2, 0), "null"),
        ((8, 8, 8, 8, 8, 8, 0, 1, 3, 4, 2, 0), "valid rows need"),
        ((8, 8, 8, 0, 8, 8, 8, 1, 3, 4, 2, 0), "the loss needs"),
        ((8, 8, 8, 0, 8, 8, 0, 1, 3, 3, 2, 0, 1, "mmx"), "'mmx' is unknown"),
    ]
    check_refused([("info_nce_cpu_float32", *call) for call in calls])

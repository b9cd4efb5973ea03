"""Contrast against prototypes: every backend against the formula in float64."""

import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, normalize

from fedsyn.ops import backend, backends, prototype_nce
from fedsyn.ops.backends import native
from fedsyn.ops.prototype_nce import loss_and_gradients_reference, prototype_nce_reference

operator = torch.ops.fedsyn.prototype_nce.default

needs_native = pytest.mark.skipif(native() is None, reason="the compiled module is absent")
isas = native().cpu_isas() if native() is not None else ()
cpu_backends = [name for name in ("reference", "cpu") if name in backends()]
gpu_backends = ["reference", "triton", "cuda"]

draws = settings(deadline=None, max_examples=30)


def unit(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return normalize(rows, dim=-1).to(dtype)


def problem(clients, rows, count, width, seed=0, ignored=0.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, count, (clients, rows), generator=generator)
    target[torch.rand(clients, rows, generator=generator) < ignored] = -1
    x = unit(clients, rows, width, seed=seed, dtype=dtype)
    return x, unit(clients, count, width, seed=seed + 1, dtype=dtype), target


def oracle(x, prototypes, target, scale, valid=None):
    """Loss, dX, dP and dscale by torch's cross-entropy and autograd in float64, by client."""
    leaves = [t.detach().double().requires_grad_() for t in (x, prototypes)]
    scale = torch.as_tensor(scale, dtype=torch.float64).expand(len(x)).clone().requires_grad_()
    losses = []
    for c, labels in enumerate(target):
        logits = scale[c] * leaves[0][c] @ leaves[1][c].T
        if valid is not None:
            logits = logits.masked_fill(~valid[c], -math.inf)
            labels = labels.where((labels >= 0) & valid[c][labels.clamp(min=0)], -1)
        kept = labels >= 0
        none = 0 * (leaves[0][c].sum() + leaves[1][c].sum() + scale[c])
        losses.append(cross_entropy(logits[kept], labels[kept]) if kept.any() else none)
    loss = torch.stack(losses)
    return loss.detach(), *torch.autograd.grad(loss.sum(), (*leaves, scale))


def run_native(x, prototypes, target, scale, valid=None, isa="", threads=1):
    clients, rows, width = x.shape
    loss, to_scale = torch.full((clients,), math.pi), torch.empty(clients)
    to_x, to_prototypes = torch.empty_like(x), torch.empty_like(prototypes)
    native().prototype_nce_cpu_float32(
        *(t.data_ptr() for t in (x, prototypes, target)),
        *(0, scale, 0 if valid is None else valid.data_ptr()),
        *(t.data_ptr() for t in (loss, to_x, to_prototypes, to_scale)),
        *(clients, rows, prototypes.shape[1], width, threads, isa),
    )
    return loss, to_x, to_prototypes, to_scale


def assert_near(got, expected, tolerance=1e-5, least=1e-6):
    for value, wanted in zip(got, expected, strict=True):
        wanted = wanted.double()
        scale = wanted.abs().max().clamp(min=least) if wanted.numel() else 1.0
        assert value.shape == wanted.shape
        torch.testing.assert_close(value.double() / scale, wanted / scale, rtol=0, atol=tolerance)


def differentiate(x, prototypes, target, scale, valid=None):
    x, prototypes = x.clone().requires_grad_(), prototypes.clone().requires_grad_()
    scale = torch.as_tensor(scale, dtype=x.dtype).expand(x.shape[:-2]).clone().requires_grad_()
    loss = prototype_nce(x, prototypes, target, scale, valid)
    return loss.detach(), *torch.autograd.grad(loss.sum(), (x, prototypes, scale))


# ---- Values and gradients -----------------------------------------------------------------------


@pytest.mark.parametrize("name", cpu_backends)
@draws
@given(
    st.integers(1, 3),
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(1, 40),
    st.integers(0, 99),
)
def test_agrees_with_cross_entropy_in_float64(name, clients, rows, count, width, seed):
    x, p, target = problem(clients, rows, count, width, seed, ignored=0.2)
    with backend(name):
        got = differentiate(x, p, target, 3.0)
    # Rows that fit their prototype perfectly have no gradient but that of rounding: 1e-7 · scale.
    assert_near(got, oracle(x, p, target, 3.0), least=1.0)


@needs_native
@pytest.mark.parametrize("isa", isas)
@pytest.mark.parametrize(
    ("clients", "rows", "count", "width"),
    [(1, 1, 1, 1), (2, 13, 33, 17), (1, 300, 1000, 20), (3, 64, 24, 300), (1, 600, 5, 7)],
)
@pytest.mark.parametrize("masked", [False, True])
def test_every_instruction_set_agrees(isa, clients, rows, count, width, masked):
    x, p, target = problem(clients, rows, count, width, ignored=0.1)
    valid = torch.rand(clients, count, generator=torch.Generator().manual_seed(3)) < 0.6
    valid = valid if masked else None
    got = run_native(x, p, target, 20.0, valid, isa)
    assert_near(got, oracle(x, p, target, 20.0, valid))


@pytest.mark.parametrize("name", cpu_backends)
@pytest.mark.parametrize("scale", [100.0, 0.0, -7.0])
def test_any_scale(name, scale):
    x, p, target = problem(2, 40, 30, 16)
    with backend(name):
        got = differentiate(x, p, target, scale)
    assert_near(got, oracle(x, p, target, scale), 5e-5 if scale == 100 else 1e-5)


@pytest.mark.parametrize("name", cpu_backends)
def test_each_client_has_its_own_scale(name):
    x, p, target = problem(3, 9, 5, 8)
    scale = torch.tensor([0.5, 10.0, 30.0])
    with backend(name):
        got = differentiate(x, p, target, scale)
    assert_near(got, oracle(x, p, target, scale))


def test_the_reference_is_the_formula_in_blocks(monkeypatch):
    monkeypatch.setattr(sys.modules["fedsyn.ops.prototype_nce"], "_BLOCK", 64)
    x, p, target = problem(2, 50, 7, 6, ignored=0.2, dtype=torch.float64)
    scale = torch.tensor([3.0, 5.0], dtype=torch.float64)
    got = loss_and_gradients_reference(x, p, target, scale, None, True, True, True)
    torch.testing.assert_close(got, oracle(x, p, target, scale))


def test_the_formula_and_the_operator_agree_in_float64():
    x, p, target = problem(2, 9, 5, 4, ignored=0.3, dtype=torch.float64)
    torch.testing.assert_close(
        prototype_nce_reference(x, p, target, 3.0), prototype_nce(x, p, target, 3.0)
    )


def test_bfloat16_keeps_its_sums_in_float32():
    x, p, target = problem(2, 64, 20, 32, dtype=torch.bfloat16)
    loss, to_x, to_p, _ = differentiate(x, p, target, 14.0)
    expected = oracle(x, p, target, 14.0)
    assert (loss.dtype, to_x.dtype, to_p.dtype) == (torch.float32, torch.bfloat16, torch.bfloat16)
    assert_near([loss], expected[:1])
    assert_near([to_x, to_p], expected[1:3], 1e-2)


@pytest.mark.parametrize("name", cpu_backends)
def test_only_what_is_wanted_is_computed(name):
    x, p, target = problem(2, 10, 4, 6)
    with backend(name):
        full = operator(x, p, target, None, 5.0, None, True, True, True)
        for wanted in [(True, False, False), (False, True, False), (False, False, False)]:
            results = operator(x, p, target, None, 5.0, None, *wanted)
            assert torch.equal(results[0], full[0])
            for result, whole, want in zip(results[1:], full[1:], wanted, strict=True):
                assert torch.equal(result, whole) if want else result.numel() == 0


@pytest.mark.parametrize("name", cpu_backends)
def test_the_upstream_gradient_multiplies(name):
    x, p, target = problem(2, 10, 4, 6)
    with backend(name):
        _, once, _, _ = differentiate(x, p, target, 5.0)
        leaf = x.clone().requires_grad_()
        prototype_nce(leaf, p, target, 5.0).backward(torch.tensor([3.0, -1.0]))
    torch.testing.assert_close(leaf.grad, once * torch.tensor([3.0, -1.0])[:, None, None])


def test_gradcheck_to_the_second_order():
    x, p, target = problem(2, 5, 4, 3, dtype=torch.float64)
    target[0, 1] = -1
    valid = torch.tensor([[True] * 4, [True, False, True, True]])
    scale = torch.tensor([2.0, 3.0], dtype=torch.float64)
    leaves = tuple(t.requires_grad_() for t in (x, p, scale))

    def loss(a, b, s):
        return prototype_nce(a, b, target, s, valid)

    assert torch.autograd.gradcheck(loss, leaves)
    assert torch.autograd.gradgradcheck(loss, leaves)


# ---- Rows and prototypes that take no part ------------------------------------------------------


@pytest.mark.parametrize("name", cpu_backends)
def test_ignored_rows_and_absent_prototypes_may_hold_anything(name):
    x, p, target = problem(2, 30, 8, 6)
    valid = torch.arange(8).expand(2, 8) < 5
    target = target % 5
    target[:, ::3] = -1
    with backend(name):
        expected = differentiate(x, p, target, 9.0, valid)
        x[:, ::3], p[:, 5:] = math.nan, math.inf
        got = differentiate(x, p, target, 9.0, valid)
    for value, wanted in zip(got, expected, strict=True):
        assert torch.equal(value, wanted)
    assert (got[1][:, ::3] == 0).all() and (got[2][:, 5:] == 0).all()


@pytest.mark.parametrize("name", cpu_backends)
def test_absent_prototypes_change_no_bit(name):
    x, p, target = problem(1, 30, 5, 6)
    valid = torch.tensor([[True, False, True, True, False, True, True]])
    wide = torch.zeros(1, 7, 6)
    wide[valid] = p[0]
    with backend(name):
        got = differentiate(x, wide, valid[0].nonzero().flatten()[target], 9.0, valid)
        expected = differentiate(x, p, target, 9.0)
    assert_near([got[0], got[1], got[2][valid]], [expected[0], expected[1], expected[2][0]], 1e-6)
    if name == "cpu":
        assert torch.equal(got[1], expected[1]) and torch.equal(got[2][valid], expected[2][0])


@pytest.mark.parametrize("name", cpu_backends)
@pytest.mark.parametrize("nothing", ["targets", "prototypes", "rows"])
def test_a_batch_of_nothing_has_loss_and_gradients_zero(name, nothing):
    x, p, target = problem(2, 6, 4, 5)
    valid = torch.full((2, 4), nothing != "prototypes")
    if nothing == "targets":
        target = torch.full_like(target, -1)
    if nothing == "rows":
        x, target = x[:, :0], target[:, :0]
    with backend(name):
        results = differentiate(x, p, target, 5.0, valid)
    assert all(torch.equal(value, torch.zeros_like(value)) for value in results)


@pytest.mark.parametrize("name", cpu_backends)
def test_a_target_without_its_prototype_takes_no_part(name):
    x, p, target = problem(1, 6, 4, 5)
    valid = torch.tensor([[True, False, True, True]])
    with backend(name):
        got = prototype_nce(x, p, target, 5.0, valid)
        assert_near([got], [prototype_nce(x, p, target.masked_fill(target == 1, -1), 5.0, valid)])


@pytest.mark.parametrize("name", cpu_backends)
def test_nan_stays_in_its_client(name):
    x, p, target = problem(2, 6, 4, 5)
    x[1, 2, 3] = math.nan
    with backend(name):
        loss, to_x, _, _ = differentiate(x, p, target, 5.0)
    assert loss.isnan().tolist() == [False, True]
    assert not to_x[0].isnan().any() and to_x[1, 2].isnan().all()


# ---- Bits ---------------------------------------------------------------------------------------


@needs_native
@pytest.mark.parametrize("masked", [False, True])
def test_neither_threads_nor_the_stack_change_a_bit(masked):
    x, p, target = problem(3, 5000, 40, 32, ignored=0.1)
    valid = torch.arange(40).expand(3, 40) < torch.tensor([[40], [17], [33]]) if masked else None
    valid = None if valid is None else valid.contiguous()
    one = run_native(x, p, target, 14.0, valid)
    for threads in (1, 2, 3):
        again = run_native(x, p, target, 14.0, valid, threads=threads)
        assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    for c in range(3):
        mask = None if valid is None else valid[c : c + 1].contiguous()
        alone = run_native(x[c : c + 1], p[c : c + 1], target[c : c + 1], 14.0, mask)
        assert all(torch.equal(a[c], b[0]) for a, b in zip(one, alone, strict=True))


@needs_native
@pytest.mark.parametrize("isa", isas)
def test_nothing_outside_the_results_is_written(isa):
    margin = 16
    for rows, count, width in [(1, 1, 1), (13, 5, 9), (70, 33, 17)]:
        x, p, target = problem(1, rows, count, width)
        sizes = (1, x.numel(), p.numel(), 1)
        outputs = [torch.full((size + 2 * margin,), math.pi) for size in sizes]
        native().prototype_nce_cpu_float32(
            *(t.data_ptr() for t in (x, p, target)),
            *(0, 3.0, 0),
            *(t[margin:].data_ptr() for t in outputs),
            *(1, rows, count, width, 1, isa),
        )
        for output in outputs:
            assert (output[:margin] == math.pi).all() and (output[-margin:] == math.pi).all()
            assert (output[margin:-margin] != math.pi).all()


@pytest.mark.parametrize("name", cpu_backends)
def test_any_leading_axes_and_any_strides(name):
    x, p, target = problem(6, 8, 5, 4)
    with backend(name):
        flat = differentiate(x, p, target, 5.0)
        axes = differentiate(*(t.view(2, 3, *t.shape[1:]) for t in (x, p, target)), 5.0)
        single = differentiate(x[0], p[0], target[0], 5.0)
        strided = differentiate(
            *(t.transpose(0, 1).contiguous().transpose(0, 1) for t in (x, p, target)), 5.0
        )
    for a, b, c, d in zip(flat, axes, single, strided, strict=True):
        assert torch.equal(a.view(b.shape), b)
        torch.testing.assert_close(a[0], c)
        torch.testing.assert_close(a, d)


# ---- The operator as torch sees it --------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck(dtype):
    x, p, target = problem(2, 6, 4, 5, dtype=dtype)
    valid = torch.ones(2, 4, dtype=torch.bool)
    scales = torch.tensor([2.0, 3.0], dtype=dtype)
    for want in (True, False):
        arguments = (x, p, target, scales, 1.0, valid, want, want, want)
        torch.library.opcheck(operator, arguments)
    torch.library.opcheck(operator, (x, p, target, None, 4.0, None, True, False, False))


@pytest.mark.parametrize("scale", [4.0, torch.tensor([2.0, 3.0])])
def test_compiles_as_one_graph_with_its_backward_pass(scale):
    def loss(a, b):
        unit_a = normalize(a, dim=-1)
        return prototype_nce(unit_a, normalize(b, dim=-1), target, scale).square().sum()

    x, p, target = problem(2, 6, 4, 5)
    leaves = (x.requires_grad_(), p.requires_grad_())
    expected = torch.autograd.grad(loss(*leaves), leaves)
    got = torch.autograd.grad(torch.compile(loss, fullgraph=True)(*leaves), leaves)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


# ---- Refusals -----------------------------------------------------------------------------------

X, P, T = torch.zeros(6, 5), torch.zeros(4, 5), torch.zeros(6, dtype=torch.int64)


@pytest.mark.parametrize("name", cpu_backends)
@pytest.mark.parametrize(
    ("x", "p", "target", "scale", "valid", "error", "message"),
    [
        (X, P[:, :3], T, 1.0, None, ValueError, r"\(6, 5\) and \(4, 3\)"),
        (X[None], P, T, 1.0, None, ValueError, r"\(1, 6, 5\) and \(4, 5\)"),
        (X, P[:0], T, 1.0, None, ValueError, r"K > 0 and D > 0, got prototypes \(0, 5\)"),
        (X[:, :0], P[:, :0], T, 1.0, None, ValueError, r"D > 0, got prototypes \(4, 0\)"),
        (X, P, T[:5], 1.0, None, ValueError, r"target \(6,\) .* got \(5,\)"),
        (X, P, T, 1.0, torch.ones(5).bool(), ValueError, r"valid \(4,\), got \(6,\) and \(5,\)"),
        (X, P, T + 4, 1.0, None, ValueError, "below the number of prototypes, 4, got 4"),
        (X, P, T, math.nan, None, ValueError, "finite scale, got nan"),
        (X, P, T, torch.tensor(math.inf), None, ValueError, "finite scale.*inf"),
        (X, P, T, torch.ones(2), None, ValueError, r"broadcasts to \(\), got \(2,\)"),
        (X, P.to("meta"), T, 1.0, None, ValueError, "one device, got cpu and meta"),
        (X, P.double(), T, 1.0, None, TypeError, "got torch.float32 and torch.float64"),
        (X.half(), P.half(), T, 1.0, None, TypeError, "got torch.float16 and torch.float16"),
        (X, P, T.int(), 1.0, None, TypeError, "int64 target .* got torch.int32"),
        (X, P, T, 1.0, torch.ones(4), TypeError, "boolean valid, got torch.int64 and torch.fl"),
        (X.numpy(), P, T, 1.0, None, TypeError, "got ndarray, Tensor and Tensor"),
    ],
)
def test_refuses_what_does_not_fit(name, x, p, target, scale, valid, error, message):
    with backend(name), pytest.raises(error, match=message) as raised:
        prototype_nce(x, p, target, scale, valid)
    assert "\n" not in str(raised.value) and str(raised.value).startswith("prototype_nce: ")


@needs_native
def test_the_native_module_refuses_before_it_touches_memory(check_refused):
    calls = [
        ((8, 8, 8, 0, 1.0, 0, 8, 8, 8, 8, 1, 1, 0, 1), "count is 0"),
        ((8, 8, 8, 0, 1.0, 0, 8, 8, 8, 8, -1, 1, 1, 1), "clients is -1"),
        ((0, 8, 8, 0, 1.0, 0, 8, 8, 8, 8, 1, 1, 1, 1), "null"),
        ((8, 8, 8, 0, 1.0, 0, 8, 8, 8, 8, 1, 1, 1, 1, 1, "mmx"), "'mmx' is unknown"),
    ]
    check_refused([("prototype_nce_cpu_float32", *call) for call in calls])


# ---- On a GPU -----------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("name", gpu_backends)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_gpu_agrees_with_the_oracle(name, dtype, tolerance):
    for shape in [(1, 64, 24, 128), (3, 100, 7, 32), (1, 512, 1000, 64)]:
        x, p, target = problem(*shape, ignored=0.1, dtype=dtype)
        valid = torch.arange(shape[2]).expand(shape[0], -1) < max(1, shape[2] - 2)
        expected = oracle(x, p, target, 14.0, valid)
        x, p = x.cuda().requires_grad_(), p.cuda().requires_grad_()
        with backend(name):
            loss = prototype_nce(x, p, target.cuda(), 14.0, valid.cuda())
            again = prototype_nce(x, p, target.cuda(), 14.0, valid.cuda())
        assert torch.equal(loss, again)
        got = loss.detach().cpu(), *(g.cpu() for g in torch.autograd.grad(loss.sum(), (x, p)))
        assert_near(got[:1], expected[:1], 1e-5)
        assert_near(got[1:], expected[1:3], tolerance)


@pytest.mark.gpu
@pytest.mark.parametrize("name", gpu_backends)
def test_gpu_targets_that_do_not_exist_take_no_part(name):
    x, p, target = (t.cuda() for t in problem(2, 30, 8, 32))
    with backend(name):
        expected = prototype_nce(x, p, target.masked_fill(target == 3, -1), 5.0)
        got = prototype_nce(x, p, target.masked_fill(target == 3, 99), 5.0)
    assert torch.equal(got, expected)

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsyn.ops import backend, backends, js_divergence
from fedsyn.ops.backends import native
from fedsyn.ops.js_divergence import js_divergence_backward_reference

LN2 = math.log(2)
operator = torch.ops.fedsyn.js_divergence.default
backward_operator = torch.ops.fedsyn.js_divergence_backward.default

needs_native = pytest.mark.skipif(native() is None, reason="the compiled module is absent")
isas = native().cpu_isas() if native() is not None else ()
cpu_backends = [name for name in ("reference", "cpu") if name in backends()]
gpu_backends = ["reference", "cuda"]

draws = settings(deadline=None, max_examples=40)
seeds = st.integers(0, 2**32 - 1)
widths = st.integers(1, 70)
rows = st.integers(0, 40)


def distributions(seed, *shape, spread=3.0, zeros=0.2, dtype=torch.float32):
    """Pairs of rows, some nearly alike, some with exact zeros, at least one entry positive."""
    generator = torch.Generator().manual_seed(seed)

    def draw():
        logits = spread * torch.randn(shape, generator=generator, dtype=torch.float64)
        mass = logits.exp() * (torch.rand(shape, generator=generator) >= zeros)
        mass[..., 0] += 1e-3
        return (mass / mass.sum(-1, keepdim=True)).to(dtype)

    p, q = draw(), draw()
    close = torch.rand(shape[:-1], generator=generator) < 0.3
    return p, torch.where(close[..., None], p + 1e-3 * (q - p), q)


def oracle(p, q):
    """In float64 and by entropies, H(m) − (H(p) + H(q)) / 2: another formula than the kernels'."""
    p, q = p.detach().double().cpu(), q.detach().double().cpu()
    entropy = torch.special.entr
    return (entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2).sum(-1)


def gradient_oracle(p, q):
    """½ ln(2p / (p + q)) in float64, where it is finite."""
    p, q = p.detach().double().cpu(), q.detach().double().cpu()
    return 0.5 * (2 * p / (p + q)).log(), 0.5 * (2 * q / (p + q)).log()


def run_native(p, q, isa, threads=1):
    out = p.new_empty(p.shape[:-1])
    kernel = getattr(native(), f"js_divergence_cpu_{str(p.dtype).removeprefix('torch.')}")
    kernel(p.data_ptr(), q.data_ptr(), out.data_ptr(), out.numel(), p.shape[-1], threads, isa)
    return out


def run_native_backward(grad, p, q, isa, threads=1):
    grad_p, grad_q = torch.empty_like(p), torch.empty_like(q)
    kernel = getattr(native(), f"js_divergence_backward_cpu_{str(p.dtype).removeprefix('torch.')}")
    kernel(
        *(x.data_ptr() for x in (grad, p, q, grad_p, grad_q)),
        grad.numel(),
        p.shape[-1],
        threads,
        isa,
    )
    return grad_p, grad_q


# ---- Values -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", cpu_backends)
@draws
@given(seed=seeds, n=rows, k=widths)
def test_agrees_with_the_float64_oracle_in_range_and_symmetric(name, seed, n, k):
    p, q = distributions(seed, n, k)
    with backend(name):
        value, swapped = js_divergence(p, q), js_divergence(q, p)
    assert value.shape == (n,) and value.dtype == p.dtype
    assert torch.all((value.double() >= 0) & (value.double() <= LN2))
    torch.testing.assert_close(value.double(), oracle(p, q), rtol=0, atol=1e-6)
    torch.testing.assert_close(value, swapped, rtol=0, atol=5e-7)


@needs_native
@pytest.mark.parametrize("isa", isas)
@draws
@given(seed=seeds, n=rows, k=widths)
def test_every_instruction_set_agrees_with_the_oracle(isa, seed, n, k):
    p, q = distributions(seed, n, k)
    torch.testing.assert_close(run_native(p, q, isa).double(), oracle(p, q), rtol=0, atol=1e-6)


@needs_native
@pytest.mark.parametrize("isa", isas)
@pytest.mark.parametrize("k", [1, 100, 1023, 4096])
def test_float64_and_long_rows(isa, k):
    p, q = distributions(k, 50, k, dtype=torch.float64)
    torch.testing.assert_close(run_native(p, q, isa), oracle(p, q), rtol=0, atol=1e-14)
    single = run_native(p.float(), q.float(), isa)
    torch.testing.assert_close(single.double(), oracle(p.float(), q.float()), rtol=0, atol=1e-6)


@needs_native
@pytest.mark.parametrize("isa", isas)
def test_nothing_outside_the_rows_is_written(isa):
    for k in range(1, 71):
        p, q = distributions(k, 3, k)
        outputs = torch.full((3, 16 + 3 * k + 16), math.pi)  # value, grad_p, grad_q with margins
        value, grad_p, grad_q = (row[16:].data_ptr() for row in outputs)
        operands = (p.data_ptr(), q.data_ptr())
        native().js_divergence_cpu_float32(*operands, value, 3, k, 1, isa)
        ones = torch.ones(3)
        native().js_divergence_backward_cpu_float32(
            ones.data_ptr(), *operands, grad_p, grad_q, 3, k, 1, isa
        )
        assert torch.all(outputs[:, :16] == math.pi) and torch.all(outputs[:, -16:] == math.pi)
        assert torch.all(outputs[0, 16 + 3 :] == math.pi)


@needs_native
def test_the_number_of_threads_does_not_change_a_bit():
    p, q = distributions(0, 30_000, 40)
    assert torch.equal(run_native(p, q, "", threads=1), run_native(p, q, "", threads=3))
    grad = torch.linspace(-1, 1, 30_000)
    one = run_native_backward(grad, p, q, "", threads=1)
    three = run_native_backward(grad, p, q, "", threads=3)
    assert torch.equal(one[0], three[0]) and torch.equal(one[1], three[1])


@pytest.mark.parametrize("name", cpu_backends)
@draws
@given(seed=seeds, k=widths)
def test_identical_rows_give_zero_and_disjoint_rows_ln_2(name, seed, k):
    p, q = distributions(seed, 5, k)
    with backend(name):
        assert torch.all(js_divergence(p, p) <= (0 if name == "cpu" else 1e-6))
        zeros = torch.zeros_like(p)
        apart = js_divergence(torch.cat((p, zeros), -1), torch.cat((zeros, q), -1))
    torch.testing.assert_close(apart, torch.full((5,), LN2), rtol=0, atol=5e-7)


@needs_native
@pytest.mark.parametrize("isa", isas)
def test_tiny_divergences_keep_their_relative_accuracy(isa):
    p = torch.full((1, 64), 1 / 64)
    step = torch.tensor([1.0, -1.0]).repeat(32)
    for size in (1e-2, 1e-3, 1e-4):
        q = p + size * p * step
        d = ((p - q) / (p + q)).double()
        expected = 0.25 * ((p + q).double() * (d * d + d**4 / 6 + d**6 / 15)).sum(-1)
        torch.testing.assert_close(run_native(p, q, isa).double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", cpu_backends)
def test_nan_comes_out_where_it_went_in(name):
    p, q = distributions(0, 3, 20)
    p[1, 17] = math.nan
    p.requires_grad_()
    with backend(name):
        value = js_divergence(p, q)
    assert value.isnan().tolist() == [False, True, False]
    value.sum().backward()
    assert p.grad[1, 17].isnan() and not p.grad[0].isnan().any()


# ---- Shapes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", cpu_backends)
@pytest.mark.parametrize("shape", [(7,), (0, 7), (3, 0, 7), (2, 3, 5, 7)])
def test_any_batch_axes_also_empty_ones(name, shape):
    p, q = distributions(1, *shape)
    p.requires_grad_()
    with backend(name):
        value = js_divergence(p, q)
    assert value.shape == shape[:-1]
    torch.testing.assert_close(value.double(), oracle(p, q).view(shape[:-1]), rtol=0, atol=1e-6)
    value.sum().backward()
    assert p.grad.shape == shape


@pytest.mark.parametrize("name", cpu_backends)
def test_batch_axes_broadcast_and_gradients_sum_over_them(name):
    p, _ = distributions(2, 5, 1, 9, zeros=0.0, dtype=torch.float64)
    _, q = distributions(3, 4, 9, zeros=0.0, dtype=torch.float64)
    p.requires_grad_(), q.requires_grad_()
    with backend(name):
        value = js_divergence(p, q)
    assert value.shape == (5, 4)
    torch.testing.assert_close(value, oracle(p, q))
    value.sum().backward()
    to_p, to_q = gradient_oracle(*torch.broadcast_tensors(p.detach(), q.detach()))
    torch.testing.assert_close(p.grad, to_p.sum(1, keepdim=True))
    torch.testing.assert_close(q.grad, to_q.sum(0))


@pytest.mark.parametrize("name", cpu_backends)
def test_non_contiguous_operands_give_the_same(name):
    p, q = distributions(4, 6, 11)
    strided = torch.empty(11, 12).T[::2]
    strided.copy_(p)
    with backend(name):
        torch.testing.assert_close(js_divergence(strided, q), js_divergence(p, q))


# ---- Gradients --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", cpu_backends)
@draws
@given(seed=seeds, n=st.integers(1, 20), k=widths)
def test_gradients_agree_with_the_float64_oracle(name, seed, n, k):
    p, q = distributions(seed, n, k, zeros=0.0)
    p.requires_grad_(), q.requires_grad_()
    with backend(name):
        js_divergence(p, q).sum().backward()
    to_p, to_q = gradient_oracle(p, q)
    torch.testing.assert_close(p.grad.double(), to_p, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(q.grad.double(), to_q, rtol=1e-6, atol=1e-6)


@needs_native
@pytest.mark.parametrize("isa", isas)
@draws
@given(seed=seeds, k=widths)
def test_every_instruction_set_has_the_reference_gradients(isa, seed, k):
    p, q = distributions(seed, 4, k)
    grad = torch.linspace(-1, 2, 4)
    expected = js_divergence_backward_reference(grad.double(), p.double(), q.double())
    in_both = (p > 0) & (q > 0)  # elsewhere the convention depends on the dtype
    for got, wanted in zip(run_native_backward(grad, p, q, isa), expected, strict=True):
        torch.testing.assert_close(got[in_both].double(), wanted[in_both], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", cpu_backends)
def test_gradients_at_zeros_are_finite_as_documented(name, dtype):
    p = torch.tensor([0.0, 0.0, 1.0], dtype=dtype, requires_grad=True)
    q = torch.tensor([0.0, 0.5, 0.5], dtype=dtype, requires_grad=True)
    with backend(name):
        js_divergence(p, q).backward()
    floor = 0.5 * math.log(torch.finfo(dtype).tiny)
    expected = torch.tensor([0.0, floor, 0.5 * math.log(4 / 3)], dtype=dtype)
    torch.testing.assert_close(p.grad, expected, rtol=1e-6, atol=1e-7)
    expected = torch.tensor([0.0, 0.5 * LN2, 0.5 * math.log(2 / 3)], dtype=dtype)
    torch.testing.assert_close(q.grad, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", cpu_backends)
def test_gradcheck_to_the_second_order_inside_the_simplex(name):
    p, q = distributions(5, 3, 6, spread=0.5, zeros=0.0, dtype=torch.float64)
    p.requires_grad_(), q.requires_grad_()
    with backend(name):
        assert torch.autograd.gradcheck(js_divergence, (p, q))
        assert torch.autograd.gradgradcheck(js_divergence, (p, q))


# ---- The operator as torch sees it --------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", cpu_backends)
def test_opcheck(name, dtype):
    p, q = distributions(6, 4, 10, zeros=0.0, dtype=dtype)
    with backend(name):
        torch.library.opcheck(operator, (p, q))
        torch.library.opcheck(operator, (p.requires_grad_(), q.requires_grad_()))
        torch.library.opcheck(backward_operator, (torch.ones(4, dtype=dtype), p, q))


def test_compiles_as_one_graph_with_its_backward_pass():
    def loss(a, b):
        return js_divergence(a.softmax(-1), b.softmax(-1)).square().sum()

    generator = torch.Generator().manual_seed(7)
    a = torch.randn(5, 1, 8, generator=generator, requires_grad=True)
    b = torch.randn(3, 8, generator=generator, requires_grad=True)
    expected = torch.autograd.grad(loss(a, b), (a, b))
    got = torch.autograd.grad(torch.compile(loss, fullgraph=True)(a, b), (a, b))
    for x, y in zip(got, expected, strict=True):
        torch.testing.assert_close(x, y)


def test_the_raw_operators_refuse_what_would_read_beyond_memory():
    p = torch.full((2, 4), 0.25)
    with pytest.raises(ValueError, match="alike"):
        operator(p, p[:1])
    with pytest.raises(ValueError, match="alike"):
        backward_operator(torch.ones(3), p, p)


# ---- Refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "q", "error", "message"),
    [
        (torch.ones(2, 3), torch.ones(2, 4), ValueError, r"same K > 0, got \(2, 3\) and \(2, 4\)"),
        (torch.ones(2, 0), torch.ones(2, 0), ValueError, r"same K > 0, got \(2, 0\)"),
        (torch.ones(()), torch.ones(()), ValueError, r"same K > 0, got \(\) and \(\)"),
        (torch.ones(2, 3), torch.ones(5, 3), ValueError, r"broadcast, got \(2, 3\) and \(5, 3\)"),
        (torch.ones(2), torch.ones(2).double(), TypeError, "got torch.float32 and torch.float64"),
        (torch.ones(2).half(), torch.ones(2).half(), TypeError, "float32 or float64, got torch.fl"),
        (torch.ones(2).long(), torch.ones(2).long(), TypeError, "got torch.int64"),
        (torch.ones(2), torch.ones(2, device="meta"), ValueError, "device, got cpu and meta"),
        ([0.5, 0.5], torch.ones(2), TypeError, "expected two tensors, got list and Tensor"),
    ],
)
def test_refuses_with_one_sentence_that_names_what_was_passed(p, q, error, message):
    with pytest.raises(error, match=message) as raised:
        js_divergence(p, q)
    assert "\n" not in str(raised.value) and str(raised.value).startswith("js_divergence: ")


@needs_native
def test_the_native_module_refuses_before_it_touches_memory(check_refused):
    calls = [
        ((8, 8, 8, -1, 3), "rows is -1"),
        ((8, 8, 8, 1, 0), "k is 0"),
        ((0, 8, 8, 1, 3), "null"),
        ((8, 8, 8, 1, 3, 0), "threads is 0"),
        ((8, 8, 8, 1, 3, 1, "mmx"), "'mmx' is unknown"),
    ]
    check_refused([("js_divergence_cpu_float32", *call) for call in calls])


# ---- On a GPU ---------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("name", gpu_backends)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gpu_values_and_gradients_agree_with_the_oracle(name, dtype):
    atol = 1e-6 if dtype == torch.float32 else 1e-13
    for k in (*range(1, 71), 100, 128, 1000, 1024):
        p, q = (x.cuda().requires_grad_() for x in distributions(k, 333, k, zeros=0.0, dtype=dtype))
        with backend(name):
            value = js_divergence(p, q)
        value.sum().backward()
        torch.testing.assert_close(value.detach().cpu().double(), oracle(p, q), rtol=0, atol=atol)
        for x, expected in zip((p, q), gradient_oracle(p, q), strict=True):
            torch.testing.assert_close(x.grad.cpu().double(), expected, rtol=atol, atol=2 * atol)


@pytest.mark.gpu
@pytest.mark.parametrize("k", [3, 24, 100])
def test_gpu_edges(k):
    p, q = (x.cuda() for x in distributions(8, 200, k))
    with backend("cuda"):
        value = js_divergence(p, q)
        assert torch.all((value.double() >= 0) & (value.double() <= LN2))
        torch.testing.assert_close(value.cpu().double(), oracle(p, q), rtol=0, atol=1e-6)
        assert torch.equal(value, js_divergence(p, q))  # bit for bit
        assert torch.all(js_divergence(p, p) == 0)
        assert js_divergence(p[:0], q[:0]).shape == (0,)
        # One element off the 16-byte grid.
        shifted = torch.empty(p.numel() + 1, device="cuda")[1:].view_as(p).copy_(p)
        torch.testing.assert_close(js_divergence(shifted, q), value, rtol=0, atol=1e-6)
        poisoned = p.clone()
        poisoned[7, k - 1] = math.nan
        assert js_divergence(poisoned, q).isnan().nonzero().flatten().tolist() == [7]


@pytest.mark.gpu
def test_gpu_operator_checks_streams_and_graphs():
    p, q = (x.cuda() for x in distributions(9, 64, 24, zeros=0.0))
    with backend("cuda"):
        torch.library.opcheck(operator, (p.clone().requires_grad_(), q))
        expected = js_divergence(p, q)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            on_stream = js_divergence(p, q)
        stream.synchronize()
        assert torch.equal(on_stream, expected)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = js_divergence(p, q)
        graph.replay()
        assert torch.equal(captured, expected)


@pytest.mark.gpu
def test_gpu_backward_uses_the_backend_that_the_forward_was_forced_to():
    p = torch.full((2, 4), 0.25, device="cuda", requires_grad=True)
    with backend("reference"):
        value = js_divergence(p, p.detach()).sum()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        value.backward()
    assert not any("backward_kernel" in event.key for event in profile.key_averages())

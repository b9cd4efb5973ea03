"""The gradient penalty and the critic's step against double backward in float64."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import leaky_relu
from torch.utils._python_dispatch import TorchDispatchMode

from fedsyn.models.generator import SLOPE, critic
from fedsyn.models.layout import Layout
from fedsyn.ops import backend, backends, critic_loss, critic_step, gradient_penalty
from fedsyn.ops import gradient_penalty_of as penalty_of
from fedsyn.ops.backends import native

operator = torch.ops.fedsyn.critic_step.default

needs_native = pytest.mark.skipif(native() is None, reason="the compiled module is absent")
isas = native().cpu_isas() if native() is not None else ()
cpu_backends = [name for name in ("reference", "cpu") if name in backends()]
every_backend = pytest.mark.parametrize("name", cpu_backends)

# Rows a client (one, around the kernel's block of 64, more than its chunk of 1024), widths.
SIZES = [
    (1, (3, 1)),
    (1, (5, 7, 1)),
    (2, (1, 1, 1, 1)),
    (63, (33, 17, 9, 5, 1)),
    (64, (128, 40, 31, 1)),
    (65, (10, 12, 11, 13, 6, 1)),
    (200, (300, 20, 1)),
    (1300, (20, 33, 8, 1)),
]
sizes = pytest.mark.parametrize(("rows", "widths"), SIZES, ids=str)


class Case:
    """Batches of clients and their critics, drawn by a seed."""

    def __init__(self, rows, widths, clients=(3,), seed=0, dtype=torch.float32):
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape):
            values = torch.randn(*clients, *shape, generator=generator, dtype=torch.float64)
            return values.to(dtype)

        layers = list(itertools.pairwise(widths))
        self.weights = [draw(a, b) * (1.5 / math.sqrt(a)) for a, b in layers]
        self.biases = [0.1 * draw(1, b) for _, b in layers]
        self.real, self.fake, self.between = (draw(rows, widths[0]) for _ in range(3))
        self.fake += 0.5  # not so near to real that their scores cancel
        self.scored = (self.real, self.fake)

    def layers(self):
        """Weights and biases as leaves."""
        parameters = [p.clone().requires_grad_() for p in (*self.weights, *self.biases)]
        return parameters[: len(self.weights)], parameters[len(self.weights) :]


def score(x, weights, biases, slope):
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        x = leaky_relu(x @ weight + bias, slope)
    return (x @ weights[-1] + biases[-1]).squeeze(-1)


def double_backward(x, weights, biases, slope):
    at = x.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(
        score(at, weights, biases, slope).sum(), at, create_graph=True
    )
    return (gradient.square().sum(-1).clamp(min=1e-24).sqrt() - 1).square().mean(-1)


def alternate(weights, biases):
    return [value for pair in zip(weights, biases, strict=True) for value in pair]


def flat(gradients, parameters):
    rows = [
        torch.zeros_like(p) if g is None else g for g, p in zip(gradients, parameters, strict=True)
    ]
    return torch.cat([row.flatten(-2) for row in rows], -1)


def oracle(case, scored=True, between=True, slope=SLOPE, weight=10.0):
    """Loss, penalty and flat gradient by autograd in float64."""
    weights, biases = ([p.detach().double().requires_grad_() for p in ps] for ps in case.layers())
    loss = penalty = torch.zeros(case.real.shape[:-2], dtype=torch.float64)
    if scored:
        real, fake = (score(x.double(), weights, biases, slope).mean(-1) for x in case.scored)
        loss = fake - real
    if between:
        penalty = double_backward(case.between.double(), weights, biases, slope)
        loss = loss + weight * penalty
    parameters = alternate(weights, biases) if scored else weights
    gradients = torch.autograd.grad(loss.sum(), parameters, allow_unused=True)
    return loss.detach(), penalty.detach(), flat(gradients, parameters)


def close(got, expected, tolerance=1e-5):
    """Within the tolerance of the largest number expected."""
    bound = tolerance * max(expected.abs().max().item(), 1e-30)
    torch.testing.assert_close(got.double().cpu(), expected, rtol=0, atol=bound)


def run_native(case, isa="", threads=1, scored=True, between=True, gradient=True, margin=0):
    """Loss, penalty and gradient, each between two margins of pi."""
    clients, rows, _ = case.real.shape
    parameters = alternate(case.weights, case.biases) if scored else case.weights
    count = sum(p[0].numel() for p in parameters) if gradient else 0
    outputs = [
        torch.full((margin + size + margin,), math.pi)
        for size in (clients, clients, clients * count)
    ]
    places = [out[margin:].data_ptr() for out in outputs]
    native().critic_step_cpu_float32(
        *((case.real.data_ptr(), case.fake.data_ptr()) if scored else (0, 0)),
        case.between.data_ptr() if between else 0,
        [p.data_ptr() for p in case.weights],
        [p.stride(0) for p in case.weights],
        [p.data_ptr() for p in case.biases],
        [p.stride(0) for p in case.biases],
        [case.real.shape[-1], *(p.shape[-1] for p in case.weights)],
        *(clients, rows, SLOPE, 10.0, places[0], places[1], places[2] if gradient else 0),
        *(threads, isa),
    )
    if margin:
        for out in outputs:
            assert torch.all(out[:margin] == math.pi) and torch.all(out[-margin:] == math.pi)
    loss, penalty, found = (out[margin : len(out) - margin] for out in outputs)
    return loss, penalty, found.view(clients, count)


# ---- Values and gradients ---------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.integers(1, 9), min_size=0, max_size=3),
    st.integers(1, 6),
    st.integers(1, 3),
    st.integers(0, 99),
)
def test_equals_double_backward(hidden, dim, clients, seed):
    net = critic(dim, tuple(hidden))
    layout = Layout(net.shapes)
    generator = torch.Generator().manual_seed(seed)
    row = torch.randn(clients, layout.size, generator=generator, dtype=torch.float64)
    x = torch.randn(clients, 4, dim, generator=generator, dtype=torch.float64)

    mine = row.clone().requires_grad_()
    penalty = gradient_penalty(x, *net.layers(layout.views(mine)), SLOPE)
    penalty.sum().backward()

    theirs = row.clone().requires_grad_()
    expected = double_backward(x, *net.layers(layout.views(theirs)), SLOPE)
    expected.sum().backward()
    torch.testing.assert_close(penalty, expected)
    torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-9, rtol=1e-7)


@every_backend
@sizes
def test_penalty_and_its_gradient_agree_with_float64(name, rows, widths):
    case = Case(rows, widths)
    weights, biases = case.layers()
    with backend(name):
        penalty = gradient_penalty(case.between, weights, biases, SLOPE)
    assert penalty.shape == (3,) and penalty.dtype == torch.float32
    penalty.sum().backward()
    _, expected, gradient = oracle(case, scored=False, weight=1.0)
    close(penalty.detach(), expected)
    close(flat([w.grad for w in weights], weights), gradient)
    assert all(bias.grad is None for bias in biases)


@every_backend
@pytest.mark.parametrize("between", [True, False])
@sizes
def test_a_step_agrees_with_float64(name, between, rows, widths):
    case = Case(rows, widths)
    at = case.between if between else None
    with backend(name):
        step = critic_step(*case.scored, at, case.weights, case.biases, SLOPE, 10.0)
    for got, expected in zip(step, oracle(case, between=between), strict=True):
        close(got, expected)
    assert torch.all(step.gradient[:, -1] == 0)  # of the last bias: not even rounding
    assert not any(value.requires_grad for value in step)


@every_backend
@sizes
def test_the_loss_has_the_gradient_of_the_step(name, rows, widths):
    case = Case(rows, widths)
    weights, biases = case.layers()
    with backend(name):
        step = critic_step(*case.scored, case.between, weights, biases, SLOPE, 10.0)
        loss = critic_loss(*case.scored, case.between, weights, biases, SLOPE, 10.0)
    upstream = torch.tensor([1.0, -2.0, 0.5])
    loss.backward(upstream)
    assert torch.equal(loss, step.loss)
    parameters = alternate(weights, biases)
    got = flat([p.grad for p in parameters], parameters)
    assert torch.equal(got, upstream[:, None] * step.gradient)


@needs_native
@pytest.mark.parametrize("isa", isas)
@sizes
def test_every_instruction_set_agrees_and_stays_within_its_outputs(isa, rows, widths):
    case = Case(rows, widths, seed=1)
    for parts in ({}, {"scored": False}, {"between": False}):
        found = run_native(case, isa, margin=40, **parts)
        for got, expected in zip(found, oracle(case, **parts), strict=True):
            close(got, expected)


@pytest.mark.parametrize("slope", [0.0, 1.0, 1.5])
@every_backend
def test_any_slope_from_relu_on(name, slope):
    case = Case(20, (6, 8, 7, 1))
    with backend(name):
        step = critic_step(*case.scored, case.between, case.weights, case.biases, slope, 10.0)
    for got, expected in zip(step, oracle(case, slope=slope), strict=True):
        close(got, expected)


@every_backend
def test_a_critic_of_unit_slope_has_no_penalty(name):
    weight = torch.tensor([[0.6], [0.8]])
    with backend(name):
        assert gradient_penalty(torch.randn(5, 2), [weight], [torch.zeros(1, 1)], SLOPE) < 1e-12


@every_backend
def test_a_flat_critic_has_penalty_one_and_a_finite_gradient(name):
    weight = torch.zeros(2, 1, requires_grad=True)
    with backend(name):
        penalty = gradient_penalty(torch.randn(5, 2), [weight], [torch.zeros(1, 1)], SLOPE)
    penalty.backward()
    assert penalty.item() == pytest.approx(1.0)
    assert weight.grad.isfinite().all()


@every_backend
@pytest.mark.parametrize("at", ["between", "weights", "biases"])
def test_nan_makes_its_own_client_nan(name, at):
    case = Case(70, (5, 6, 4, 1))
    place = {"between": case.between, "weights": case.weights[0], "biases": case.biases[0]}
    place[at][1, 0, 0] = math.nan
    weights, biases = case.layers()
    with backend(name):
        penalty = gradient_penalty(case.between, weights, biases, SLOPE)
        step = critic_step(*case.scored, case.between, weights, biases, SLOPE, 10.0)
    penalty.sum().backward()
    for value in (penalty, weights[0].grad.sum((1, 2)), *step[:2], step.gradient.sum(-1)):
        assert value.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_takes_the_reference(dtype):
    case = Case(16, (6, 8, 1), dtype=dtype)
    step = critic_step(*case.scored, case.between, case.weights, case.biases, SLOPE, 1.0)
    assert all(value.dtype == dtype for value in step)
    for got, expected in zip(step, oracle(case, weight=1.0), strict=True):
        close(got, expected, tolerance=0.05)


# ---- What results depend on -------------------------------------------------------------------


@needs_native
@pytest.mark.parametrize("rows", [64, 1300])
@pytest.mark.parametrize("clients", [1, 7])
def test_neither_threads_nor_another_run_change_a_bit(clients, rows):
    case = Case(rows, (60, 256, 255, 1), (clients,))
    first = run_native(case)
    for threads in (1, 2, 3):
        for got, expected in zip(run_native(case, threads=threads), first, strict=True):
            assert torch.equal(got, expected)


@needs_native
@pytest.mark.parametrize("rows", [5, 1300])
def test_a_client_does_not_depend_on_its_stack(rows):
    case, alone = (Case(rows, (10, 33, 1)) for _ in range(2))
    together = run_native(case)
    for client in range(3):
        for part in ("real", "fake", "between"):
            setattr(alone, part, getattr(case, part)[client : client + 1])
        alone.weights = [p[client : client + 1] for p in case.weights]
        alone.biases = [p[client : client + 1] for p in case.biases]
        for got, expected in zip(run_native(alone), together, strict=True):
            assert torch.equal(got[0], expected[client])


@needs_native
@pytest.mark.parametrize("parts", [{}, {"scored": False}, {"between": False}], ids=str)
def test_the_value_is_the_same_without_the_gradient(parts):
    case = Case(70, (10, 33, 9, 1))
    for got, expected in zip(
        run_native(case, gradient=False, **parts)[:2], run_native(case, **parts)[:2], strict=True
    ):
        assert torch.equal(got, expected)


@every_backend
def test_memory_layout_does_not_matter(name):
    case = Case(9, (5, 7, 6, 1))
    net = critic(5, (7, 6))
    layout = Layout(net.shapes)
    row = torch.cat([p.flatten(-2) for p in alternate(case.weights, case.biases)], -1)
    views = net.layers(layout.views(row))

    def strided(x):
        wide = torch.empty(x.shape[-1], 2 * x.shape[-2], x.shape[0]).permute(2, 1, 0)[:, ::2]
        return wide.copy_(x)

    with backend(name):
        expected = critic_step(*case.scored, case.between, case.weights, case.biases, SLOPE, 1.0)
        for weights, biases in (views, [[strided(p) for p in ps] for ps in views]):
            rows = [strided(x) for x in (*case.scored, case.between)]
            for got, same in zip(
                critic_step(*rows, weights, biases, SLOPE, 1.0), expected, strict=True
            ):
                torch.testing.assert_close(got, same)


@every_backend
@pytest.mark.parametrize("axes", [(), (2, 3), (0,), (3, 0)])
def test_any_batch_axes_also_none_and_empty_ones(name, axes):
    case = Case(6, (4, 5, 1), axes)
    weights, biases = case.layers()
    with backend(name):
        penalty = gradient_penalty(case.between, weights, biases, SLOPE)
        loss = critic_loss(*case.scored, case.between, weights, biases, SLOPE, 10.0)
    assert penalty.shape == loss.shape == axes
    (penalty.sum() + loss.sum()).backward()
    if 0 not in axes:
        _, expected, of_penalty = oracle(case, scored=False, weight=1.0)
        close(penalty.detach(), expected)
        _, _, of_loss = oracle(case)
        first = weights[0].numel() // penalty.numel()
        close(weights[0].grad.flatten(-2), of_penalty[..., :first] + of_loss[..., :first])


# ---- The operator as torch sees it --------------------------------------------------------------


def test_gradcheck():
    case = Case(5, (3, 4, 5, 1), (2,), dtype=torch.float64)
    weights, biases = case.layers()

    def penalty(*weights):
        return gradient_penalty(case.between, weights, biases, SLOPE)

    def loss(*parameters):
        layers = parameters[: len(weights)], parameters[len(weights) :]
        return critic_loss(*case.scored, case.between, *layers, SLOPE, 10.0)

    assert torch.autograd.gradcheck(penalty, weights)
    assert torch.autograd.gradcheck(loss, (*weights, *biases))


@pytest.mark.parametrize("parts", ["all", "scored", "between"])
@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, torch.float32) for name in cpu_backends] + [("reference", torch.float64)],
)
def test_opcheck(name, dtype, parts):
    case = Case(5, (3, 4, 1), dtype=dtype)
    rows = [
        *(case.scored if parts != "between" else (None, None)),
        case.between if parts != "scored" else None,
    ]
    with backend(name):
        layers = (case.weights, case.biases)
        torch.library.opcheck(operator, (*rows, *layers, SLOPE, 10.0, False))
        torch.library.opcheck(operator, (*rows, *layers, SLOPE, 10.0, True))
        torch.library.opcheck(operator, (*rows, *case.layers(), SLOPE, 10.0, True))


def test_compiles_as_one_graph_with_its_backward_pass():
    case = Case(6, (3, 4, 1))
    weights, biases = case.layers()

    def loss(weights, biases):
        doubled = [2 * weight for weight in weights]
        both = critic_loss(*case.scored, case.between, doubled, biases, SLOPE, 10.0)
        return (both + gradient_penalty(case.between, doubled, biases, SLOPE)).square().sum()

    expected = torch.autograd.grad(loss(weights, biases), (*weights, *biases))
    compiled = torch.compile(loss, fullgraph=True)
    got = torch.autograd.grad(compiled(weights, biases), (*weights, *biases))
    for x, y in zip(got, expected, strict=True):
        torch.testing.assert_close(x, y)


class Calls(TorchDispatchMode):
    """Records whether each call of the operator asked for the gradient."""

    def __init__(self):
        super().__init__()
        self.gradient = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is operator:
            self.gradient.append(args[-1])
        return func(*args, **(kwargs or {}))


def test_the_gradient_is_computed_only_where_it_is_wanted():
    case = Case(5, (3, 4, 1))
    weights, biases = case.layers()
    scored = (*case.scored, case.between)
    with Calls() as calls:
        gradient_penalty(case.between, weights, biases, SLOPE)
        gradient_penalty(case.between, case.weights, biases, SLOPE)
        critic_loss(*scored, case.weights, biases, SLOPE, 10.0)
        critic_loss(*scored, case.weights, case.biases, SLOPE, 10.0)
        with torch.no_grad():
            critic_loss(*scored, weights, biases, SLOPE, 10.0)
    assert calls.gradient == [True, False, True, False, False]
    value, _, gradient = operator(None, None, case.between, weights, biases, SLOPE, 1.0, False)
    assert gradient.shape == (3, 0)
    with pytest.raises(ValueError, match="not asked for"):
        value.sum().backward()


def test_second_derivatives_are_refused_and_not_wrong():
    case = Case(5, (3, 4, 1))
    weights, biases = case.layers()
    penalty = gradient_penalty(case.between, weights, biases, SLOPE)
    (first,) = torch.autograd.grad(penalty.sum(), weights[0], create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivatives"):
        first.sum().backward()


def test_rows_are_constants():
    case = Case(5, (3, 4, 1))
    weights, biases = case.layers()
    at = case.between.requires_grad_()
    loss = critic_loss(*case.scored, at, weights, biases, SLOPE, 10.0)
    (loss + gradient_penalty(at, weights, biases, SLOPE)).sum().backward()
    assert at.grad is None
    with pytest.raises(ValueError, match="critic_loss: expected constant rows, got fake with a gr"):
        fake = case.fake.requires_grad_()
        critic_loss(case.real, fake, at, weights, biases, SLOPE, 10.0)


# ---- Refusals ---------------------------------------------------------------------------------


def ones(*shape):
    return torch.ones(shape)


REFUSED = [
    (ones(2, 3), [], [], 0.2, ValueError, "at least one, got 0 and 0"),
    (ones(2, 3), [ones(3, 1)], [], 0.2, ValueError, "at least one, got 1 and 0"),
    (
        *(ones(2, 3), [ones(3, 4), ones(5, 1)], [ones(1, 4), ones(1, 1)], 0.2),
        *(ValueError, r"expected weights\[1\] \(4, 1\), got \(5, 1\)"),
    ),
    (
        *(ones(2, 3), [ones(3, 2)], [ones(1, 2)], 0.2),
        *(ValueError, r"expected weights\[0\] \(3, 1\), got \(3, 2\)"),
    ),
    (
        *(ones(2, 3), [ones(3, 0), ones(0, 1)], [ones(1, 0), ones(1, 1)], 0.2),
        *(ValueError, r"expected weights\[0\] \(3, 0\), got"),
    ),
    (
        *(ones(2, 3), [ones(3, 1)], [ones(1)], 0.2),
        *(ValueError, r"expected biases\[0\] \(1, 1\), got \(1,\)"),
    ),
    (ones(2, 3), [ones()], [ones(1, 1)], 0.2, ValueError, r"weights\[0\] \(3, 1\), got \(\)"),
    (
        *(ones(4, 2, 3), [ones(3, 1)], [ones(1, 1)], 0.2),
        *(ValueError, r"expected weights\[0\] \(4, 3, 1\), got \(3, 1\)"),
    ),
    (ones(0, 3), [ones(3, 1)], [ones(1, 1)], 0.2, ValueError, r"B, D > 0, got \(0, 3\)"),
    (ones(2, 0), [ones(0, 1)], [ones(1, 1)], 0.2, ValueError, r"B, D > 0, got \(2, 0\)"),
    (ones(3), [ones(3, 1)], [ones(1, 1)], 0.2, ValueError, r"B, D > 0, got \(3,\)"),
    (ones(2, 3), [ones(3, 1)], [ones(1, 1)], math.nan, ValueError, "a finite slope, got nan"),
    (ones(2, 3), [ones(3, 1)], [ones(1, 1)], math.inf, ValueError, "a finite slope, got inf"),
    (ones(2, 3), [ones(3, 1)], [ones(1, 1)], -0.1, ValueError, "slope >= 0, got -0.1"),
    (ones(2, 3), [ones(3, 1)], [ones(1, 1)], "0.2", TypeError, "slope a number, got str"),
    (
        *(ones(2, 3), [ones(3, 1).double()], [ones(1, 1)], 0.2),
        *(TypeError, r"torch.float32 and weights\[0\] torch.float64"),
    ),
    (
        *(ones(2, 3).long(), [ones(3, 1).long()], [ones(1, 1).long()], 0.2),
        *(TypeError, "one floating dtype, got .* torch.int64"),
    ),
    (
        *(ones(2, 3), [ones(3, 1)], [ones(1, 1).to("meta")], 0.2),
        *(ValueError, r"cpu and biases\[0\] on meta"),
    ),
    ([[1.0]], [ones(3, 1)], [ones(1, 1)], 0.2, TypeError, "a tensor, got list"),
    (ones(2, 3), [[1.0]], [ones(1, 1)], 0.2, TypeError, r"weights\[0\] a tensor, got list"),
]


@every_backend
@pytest.mark.parametrize(("x", "weights", "biases", "slope", "error", "message"), REFUSED)
def test_refuses_with_one_sentence_that_names_what_was_passed(
    name, x, weights, biases, slope, error, message
):
    calls = {
        "gradient_penalty": lambda: gradient_penalty(x, weights, biases, slope),
        "critic_step": lambda: critic_step(x, x, x, weights, biases, slope, 10.0),
        "critic_loss": lambda: critic_loss(x, x, x, weights, biases, slope, 10.0),
    }
    for op, call in calls.items():
        with backend(name), pytest.raises(error, match=message) as raised:
            call()
        assert "\n" not in str(raised.value) and str(raised.value).startswith(f"{op}: ")


@every_backend
def test_a_step_refuses_batches_of_different_shape_and_infinite_weights_of_the_penalty(name):
    x, layers = ones(2, 3), ([ones(3, 1)], [ones(1, 1)])
    with backend(name):
        with pytest.raises(ValueError, match=r"critic_step: expected fake \(2, 3\), got \(4, 3\)"):
            critic_step(x, ones(4, 3), x, *layers, SLOPE, 10.0)
        with pytest.raises(ValueError, match=r"critic_step: expected between \(2, 3\), got \(1, 3"):
            critic_step(x, x, x[:1], *layers, SLOPE, 10.0)
        with pytest.raises(
            ValueError, match="critic_step: expected a finite penalty_weight, got i"
        ):
            critic_step(x, x, x, *layers, SLOPE, math.inf)


@needs_native
def test_a_forced_kernel_is_refused_where_there_is_none():
    case = Case(5, (3, 4, 1), dtype=torch.float64)
    with backend("cpu"), pytest.raises(ValueError, match=r"cpu torch.float64 tensors have only re"):
        gradient_penalty(case.between, case.weights, case.biases, SLOPE)


@every_backend
def test_the_raw_operator_refuses_what_would_read_beyond_memory(name):
    case = Case(5, (3, 4, 1))
    layers = (case.weights, case.biases, SLOPE, 10.0, True)
    with backend(name):
        with pytest.raises(ValueError, match="expected real and fake, between, or all"):
            operator(case.real, None, case.between, *layers)
        with pytest.raises(ValueError, match="expected real and fake, between, or all"):
            operator(None, None, None, *layers)
        with pytest.raises(ValueError, match=r"expected fake \(3, 5, 3\), got \(2, 5, 3\)"):
            operator(case.real, case.fake[:2], None, *layers)


@needs_native
def test_the_native_module_refuses_before_it_touches_memory(check_refused):
    changes = [
        ({"real": 0}, "expected real and fake rows"),
        ({"real": 0, "fake": 0, "between": 0}, "expected real and fake rows"),
        ({"weights": []}, "for every layer"),
        ({"bias_strides": []}, "for every layer"),
        ({"widths": [3, 0]}, "width is 0"),
        ({"widths": [3, 2]}, "the last width is not 1"),
        ({"clients": -1}, "clients is -1"),
        ({"rows": 0}, "rows is 0"),
        ({"loss": 0}, "null"),
        ({"weights": [0]}, "null"),
        ({"threads": 0}, "threads is 0"),
        ({"isa": "mmx"}, "'mmx' is unknown"),
    ]
    arguments = {
        **{"real": 8, "fake": 8, "between": 8, "weights": [8], "weight_strides": [3]},
        **{"biases": [8], "bias_strides": [1], "widths": [3, 1], "clients": 1, "rows": 2},
        **{"slope": 0.2, "penalty_weight": 1.0, "loss": 8, "penalty": 8, "gradient": 8},
    }
    check_refused(
        [("critic_step_cpu_float32", arguments | change, message) for change, message in changes]
    )


# ---- Of any critic ------------------------------------------------------------------------------


def network(*between, seed=0):
    torch.manual_seed(seed)
    modules = [nn.Linear(4, 6)]
    for module in between:
        modules += [module, nn.Linear(6, 6)]
    modules[-1] = nn.Linear(modules[-1].in_features, 1)
    return nn.Sequential(*modules)


def penalty_by_autograd(net, x):
    at = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(at).sum(), at, create_graph=True)
    return (gradient.norm(dim=-1) - 1).square().mean(-1)


def gradients_of(penalty, net):
    return torch.autograd.grad(penalty.sum(), list(net.parameters()), materialize_grads=True)


ROWS = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
PIECEWISE = {
    "leaky": lambda: network(nn.LeakyReLU(0.2), nn.LeakyReLU(0.2)),
    "relu": lambda: network(nn.ReLU()),
    "linear": lambda: nn.Sequential(nn.Linear(4, 1)),
    "no bias": lambda: nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 1)),
}
OTHER = {
    "layer norm": lambda: network(nn.LayerNorm(6), nn.LeakyReLU(0.2)),
    "tanh": lambda: network(nn.Tanh()),
    "softplus": lambda: network(nn.LeakyReLU(0.2), nn.Softplus()),
    "two slopes": lambda: network(nn.LeakyReLU(0.2), nn.LeakyReLU(0.1)),
    "negative slope": lambda: network(nn.LeakyReLU(-0.2)),
    "activation at the end": lambda: nn.Sequential(*network(nn.ReLU()), nn.Tanh()),
    "two linear": lambda: nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 1)),
    "nested": lambda: nn.Sequential(network(nn.ReLU())),
    "spectral norm": lambda: nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 1)
    ).eval(),
    "dropout in eval mode": lambda: network(nn.Dropout(0.5), nn.LeakyReLU(0.2)).eval(),
}


@pytest.mark.parametrize("kind", [*PIECEWISE, *OTHER])
def test_any_critic_has_the_penalty_of_double_backward(kind):
    net = (PIECEWISE | OTHER)[kind]()
    penalty, expected = penalty_of(net, ROWS), penalty_by_autograd(net, ROWS)
    torch.testing.assert_close(penalty, expected)
    for got, wanted in zip(gradients_of(penalty, net), gradients_of(expected, net), strict=True):
        torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(penalty_of(lambda x: net(x).squeeze(-1), ROWS), expected)
    with torch.no_grad():
        assert not penalty_of(net, ROWS).requires_grad


@pytest.mark.parametrize("kind", [*PIECEWISE, *OTHER])
def test_the_analytic_operator_is_used_where_it_holds(kind):
    net = (PIECEWISE | OTHER)[kind]()
    with torch.profiler.profile() as profile:
        penalty_of(net, ROWS)
    names = {event.name for event in profile.events()}
    assert ("fedsyn::critic_step" in names) == (kind in PIECEWISE)


def test_a_hook_takes_a_critic_from_the_analytic_operator():
    net = network(nn.ReLU())
    net[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    torch.testing.assert_close(penalty_of(net, ROWS), penalty_by_autograd(net, ROWS))


@pytest.mark.parametrize("kind", ["leaky", "tanh"])
def test_any_critic_on_several_batches(kind):
    net = (PIECEWISE | OTHER)[kind]()
    x = torch.stack([ROWS, 2 * ROWS, -ROWS])
    penalty = penalty_of(net, x)
    torch.testing.assert_close(penalty, torch.stack([penalty_by_autograd(net, b) for b in x]))
    expected = gradients_of(torch.stack([penalty_by_autograd(net, b) for b in x]), net)
    for got, wanted in zip(gradients_of(penalty, net), expected, strict=True):
        torch.testing.assert_close(got, wanted)


def test_a_critic_that_ignores_its_rows_has_penalty_one():
    offset = torch.ones((), requires_grad=True)
    assert penalty_of(lambda x: offset.expand(len(x)), ROWS).item() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("net", "x", "error", "message"),
    [
        (network(nn.Dropout(0.5)), ROWS, ValueError, "active Dropout"),
        (network(nn.BatchNorm1d(6)), ROWS, ValueError, "BatchNorm1d in training mode"),
        (network(nn.Tanh()), ROWS[:0], ValueError, r"B, D > 0, got \(0, 4\)"),
        (network(nn.ReLU()), ROWS[:0], ValueError, r"B, D > 0, got \(0, 4\)"),
        (network(nn.ReLU()), ROWS.double(), TypeError, "one floating dtype"),
        (network(nn.ReLU()), [1.0], TypeError, "expected x a tensor, got list"),
        (nn.Linear(4, 2), ROWS, ValueError, r"expected scores \(9,\), got \(9, 2\)"),
        (lambda x: x.detach().sum(-1), ROWS, ValueError, "expected scores with a gradient"),
    ],
    ids=itertools.count(),
)
def test_refuses_critics_that_have_no_penalty(net, x, error, message):
    with pytest.raises(error, match=message):
        penalty_of(net, x)


# ---- On a GPU ---------------------------------------------------------------------------------


@pytest.mark.gpu
@sizes
def test_gpu_agrees_with_float64(rows, widths):
    case = Case(rows, widths)
    on_gpu = [x.cuda() for x in (*case.scored, case.between)]
    layers = [[p.cuda() for p in ps] for ps in (case.weights, case.biases)]
    step = critic_step(*on_gpu, *layers, SLOPE, 10.0)
    for got, expected in zip(step, oracle(case), strict=True):
        close(got, expected)
    again = critic_step(*on_gpu, *layers, SLOPE, 10.0)
    assert all(torch.equal(x, y) for x, y in zip(step, again, strict=True))

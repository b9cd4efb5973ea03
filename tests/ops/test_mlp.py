"""The perceptrons of all clients against PyTorch's own layers in float64."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn.functional import leaky_relu, linear, normalize

from fedsyn.models.layout import Layout
from fedsyn.models.mlp import MLP
from fedsyn.ops import backend, backends, mlp
from fedsyn.ops.backends import native

operators = torch.ops.fedsyn

needs_native = pytest.mark.skipif(native() is None, reason="the compiled module is absent")
isas = native().cpu_isas() if native() is not None else ()
cpu_backends = [name for name in ("reference", "cpu") if name in backends()]
every_backend = pytest.mark.parametrize("name", cpu_backends)
HEADS = ["linear", "unit", "tanh_unit"]

# Rows (one, around the kernel's blocks of 192, more than its chunk of 1024), towers.
SIZES = [
    (1, ((3, 2),)),
    (1, ((1, 1), (2, 5, 1))),
    (5, ((7, 33, 3),)),
    (64, ((128, 40, 31), (20, 16, 8))),
    (193, ((9, 17, 12, 65, 1),)),
    (200, ((300, 20, 33),)),
    (2100, ((5, 10, 3), (4, 6))),
]
sizes = pytest.mark.parametrize(("rows", "towers"), SIZES, ids=str)
every_head = pytest.mark.parametrize("head", HEADS)
with_and_without = pytest.mark.parametrize("skip", [False, True])


class Case:
    """Batches of clients, their parameters and a gradient of the output, drawn by a seed."""

    def __init__(self, rows, towers, clients=3, seed=0, slope=0.2, dtype=torch.float32, skip=False):
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return torch.randn(clients, *shape, generator=generator, dtype=torch.float64)

        self.towers, self.slope, self.skip = towers, slope, skip
        parts = []
        for tower in towers:
            for fan_in, fan_out in pairwise(tower):
                parts += [draw(fan_in * fan_out) * (1.5 / math.sqrt(fan_in)), 0.3 * draw(fan_out)]
            if skip:
                parts.append(draw(tower[0] * tower[-1]) / math.sqrt(tower[0]))
        # Rounded, so that every precision computes the same network.
        self.params = torch.cat(parts, -1).to(dtype)
        self.x = draw(rows, sum(tower[0] for tower in towers)).to(dtype)
        while (near := near_kinks(self.x, self.params, towers, slope, skip)).any():
            self.x[near] = draw(rows, self.x.shape[-1]).to(dtype)[near]
        self.grad = draw(rows, sum(tower[-1] for tower in towers)).to(dtype)


def hidden_and_output(x, params, towers, slope, skip):
    """One client's values before each activation, and each tower's output."""
    hidden, outputs, at = [], [], 0
    for own, tower in zip(x.split([tower[0] for tower in towers], -1), towers, strict=True):
        a = own
        for layer, (fan_in, fan_out) in enumerate(pairwise(tower)):
            if layer:
                hidden.append(a)
                a = leaky_relu(a, slope)
            weight = params[at : at + fan_in * fan_out].view(fan_in, fan_out)
            at += fan_in * fan_out
            a = linear(a, weight.T, params[at : at + fan_out])
            at += fan_out
        if skip:
            size = tower[0] * tower[-1]
            a = a + own @ params[at : at + size].view(tower[0], tower[-1])
            at += size
        outputs.append(a)
    assert at == len(params)
    return hidden, outputs


def near_kinks(x, params, towers, slope, skip):
    """Rows [C, B] at which rounding could decide on which side of a kink they are."""
    near = torch.zeros(x.shape[:-1], dtype=torch.bool)
    for client in range(len(x)):
        values = (x[client].double(), params[client].double())
        hidden, _ = hidden_and_output(*values, towers, slope, skip)
        for z in hidden:
            near[client] |= (z.abs() < 1e-5).any(-1)
    return near


def formula(x, params, towers, slope, head, skip):
    rows = []
    for client in range(len(x)):
        _, outputs = hidden_and_output(x[client], params[client], towers, slope, skip)
        if head == "tanh_unit":
            outputs = [u.tanh() for u in outputs]
        if head != "linear":
            outputs = [normalize(u, dim=-1) for u in outputs]
        rows.append(torch.cat(outputs, -1))
    return torch.stack(rows)


def oracle(case, head):
    """Output and gradients to x and the parameters by autograd in float64."""
    x, params = (t.detach().double().requires_grad_() for t in (case.x, case.params))
    out = formula(x, params, case.towers, case.slope, head, case.skip)
    return out.detach(), *torch.autograd.grad(out, (x, params), case.grad.double())


def by_operator(case, head):
    x, params = (t.detach().requires_grad_() for t in (case.x, case.params))
    out = mlp(x, params, case.towers, case.slope, head, case.skip)
    return out.detach(), *torch.autograd.grad(out, (x, params), case.grad)


def sizes_of(case, head):
    """What errors of output and gradients are measured by: the largest number expected.

    A head's gradient is that of a linear one less a part of it, divided by a length: what cancels
    there leaves its rounding. So does what cancels in an output, which is about one but for that.
    """
    found = [value.abs().max() for value in oracle(case, head) if value.numel()]
    if head == "linear":
        found[0] = found[0].clamp(min=1)
    else:
        lengths = []
        for x, params in zip(case.x.double(), case.params.double(), strict=True):
            _, outputs = hidden_and_output(x, params, case.towers, case.slope, case.skip)
            outputs = [u.tanh() for u in outputs] if head == "tanh_unit" else outputs
            lengths += [u.norm(dim=-1).min() for u in outputs]
        of_linear = [value.abs().max() for value in oracle(case, "linear")]
        for i in (1, 2):
            found[i] = torch.maximum(found[i], of_linear[i] / min(lengths))
    return found


def all_close(got, case, head, tolerance=1e-5):
    """Output and gradients agree with float64."""
    bounds = [tolerance * size.item() for size in sizes_of(case, head)]
    for value, expected, bound in zip(got, oracle(case, head), bounds, strict=True):
        assert value.shape == expected.shape
        torch.testing.assert_close(value.double().cpu(), expected, rtol=0, atol=bound)


def run_native(case, head, isa="", threads=1, to_x=True, to_params=True, margin=0, stride=None):
    """Output and both gradients, each between two margins of pi; for parameters in the way."""
    clients, rows, _ = case.x.shape
    stride = case.params.stride(0) if stride is None else stride
    towers = case.towers
    kept = sum(sum(tower[1:-1]) + (head != "linear") for tower in towers)
    counts = (case.grad.numel(), clients * rows * kept, case.x.numel(), case.params.numel())
    memory = [torch.full((margin + count + margin,), math.pi) for count in counts]
    out, saved, grad_x, grad_params = (m[margin:].data_ptr() for m in memory)
    sizes = ([width for tower in towers for width in tower], [len(tower) for tower in towers])
    numbers = (clients, rows, stride, case.slope, head, case.skip, threads, isa)
    operands = (case.x.data_ptr(), case.params.data_ptr(), out, saved)
    native().mlp_cpu_float32(*operands, *sizes, *numbers)
    results = (grad_x if to_x else 0, grad_params if to_params else 0)
    native().mlp_backward_cpu_float32(case.grad.data_ptr(), *operands, *results, *sizes, *numbers)
    for m in memory if margin else []:
        assert torch.all(m[:margin] == math.pi) and torch.all(m[-margin:] == math.pi)
    found = [m[margin : len(m) - margin] for m in (memory[0], *memory[2:])]
    shapes = (case.grad.shape, case.x.shape, case.params.shape)
    return [values.view(shape) for values, shape in zip(found, shapes, strict=True)]


# ---- Values and gradients ---------------------------------------------------------------------

widths = st.lists(st.integers(1, 40), min_size=2, max_size=5).map(tuple)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(widths, min_size=1, max_size=3).map(tuple),
    st.integers(1, 40),
    st.integers(1, 3),
    st.sampled_from([0.0, 0.2, 1.0, 1.5]),
    st.sampled_from(HEADS),
    st.integers(0, 99),
    st.booleans(),
)
@example(((33, 1),), 1, 1, 0.0, "linear", 0, False)  # the only output is 5.5e-4
def test_agrees_with_pytorchs_layers_on_every_instruction_set(
    towers, rows, clients, slope, head, seed, skip
):
    case = Case(rows, towers, clients, seed, slope, skip=skip)
    for isa in isas:
        all_close(run_native(case, head, isa, margin=40), case, head)
    with backend("reference"):
        all_close(by_operator(case, head), case, head)


@every_backend
@every_head
@with_and_without
@sizes
def test_agrees_with_float64(name, skip, head, rows, towers):
    case = Case(rows, towers, skip=skip)
    with backend(name):
        all_close(by_operator(case, head), case, head)


@needs_native
@pytest.mark.parametrize("isa", isas)
@every_head
@with_and_without
@sizes
def test_every_instruction_set_agrees_and_stays_within_its_outputs(isa, skip, head, rows, towers):
    case = Case(rows, towers, seed=1, slope=0.0, skip=skip)
    all_close(run_native(case, head, isa, margin=40), case, head)


@every_backend
def test_parameters_lie_as_in_the_layout_of_a_model(name):
    nets = (MLP("image", (5, 7, 3)), MLP("text", (4, 6, 3)))
    layout = Layout({**nets[0].shapes, **nets[1].shapes})
    params = torch.randn(2, layout.size)
    x = torch.randn(2, 6, 9)
    views = layout.views(params)
    outputs = []
    for net, part in zip(nets, x.split([5, 4], -1), strict=True):
        (first, last), (bias, shift) = net.layers(views)
        outputs.append((part @ first + bias).relu() @ last + shift)
    expected = torch.cat(outputs, -1)
    with backend(name):
        torch.testing.assert_close(mlp(x, params, [net.widths for net in nets]), expected)


@needs_native
@pytest.mark.parametrize("isa", isas)
@every_head
@sizes
def test_a_linear_term_of_zeros_changes_no_bit(isa, head, rows, towers):
    case, without = (Case(rows, towers, skip=skip) for skip in (True, False))
    own, layers, at = [], [], 0
    for tower in towers:
        end = at + sum((a + 1) * b for a, b in pairwise(tower))
        layers.append(torch.arange(at, end))
        at = end + tower[0] * tower[-1]
        own.append(torch.arange(end, at))
    own, layers = torch.cat(own), torch.cat(layers)
    case.params[:, own] = 0
    case.x, case.grad = without.x, without.grad
    without.params = case.params[:, layers].contiguous()
    out, to_x, to_params = run_native(case, head, isa)
    for got, expected in zip(
        (out, to_x, to_params[:, layers]), run_native(without, head, isa), strict=True
    ):
        assert torch.equal(got, expected)


@every_backend
def test_the_linear_term_of_a_single_layer_is_as_its_weight(name):
    case = Case(70, ((6, 5), (3, 1)), skip=True)
    with backend(name):
        _, _, to_params = by_operator(case, "unit")
    weight, _, term, *other = to_params.split([30, 5, 30, 3, 1, 3], -1)
    assert torch.equal(weight, term) and torch.equal(other[0], other[2])


@every_backend
@with_and_without
def test_half_the_gradient_is_the_same_as_in_the_whole(name, skip):
    case = Case(70, ((6, 20, 5), (3, 4)), skip=skip)
    for head in HEADS:
        with backend(name):
            _, to_x, to_params = by_operator(case, head)
            x, params = case.x.clone().requires_grad_(), case.params.clone().requires_grad_()
            mlp(x, case.params, case.towers, case.slope, head, skip).backward(case.grad)
            mlp(case.x, params, case.towers, case.slope, head, skip).backward(case.grad)
        torch.testing.assert_close(x.grad, to_x)
        torch.testing.assert_close(params.grad, to_params)
        assert params.grad.is_contiguous()


@every_backend
@pytest.mark.parametrize("head", ["unit", "tanh_unit"])
def test_a_row_of_zeros_stays_one_and_has_a_finite_gradient(name, head):
    params = torch.zeros(1, 3, requires_grad=True)
    with backend(name):
        out = mlp(torch.ones(1, 1, 2), params, ((2, 1),), head=head)
        out.sum().backward()
    assert out.item() == 0
    torch.testing.assert_close(params.grad, torch.full((1, 3), 1e12))


@every_backend
@pytest.mark.parametrize("at", ["x", "params"])
@every_head
@with_and_without
def test_nan_makes_its_own_rows_nan_and_no_others(name, skip, at, head):
    case = Case(70, ((5, 6, 4),), skip=skip)
    if at == "x":
        case.x[1, 3, 0] = math.nan
    else:
        case.params[1, 0] = math.nan
    with backend(name):
        out, _, to_params = by_operator(case, head)
    wrong = out.isnan().all(-1)
    assert torch.equal(wrong, out.isnan().any(-1))
    expected = torch.zeros(3, 70, dtype=torch.bool)
    expected[1, 3 if at == "x" else slice(None)] = True
    assert torch.equal(wrong, expected)
    assert to_params.isnan().any(-1).tolist() == [False, True, False]


@every_backend
def test_a_relu_cuts_infinities_off(name):
    x = torch.tensor([[[-math.inf], [1.0]]])
    params = torch.tensor([[1.0, 0.0, 2.0, 3.0]])
    with backend(name):
        assert mlp(x, params, ((1, 1, 1),)).flatten().tolist() == [3.0, 5.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@with_and_without
def test_half_precision_takes_the_reference(skip, dtype):
    case = Case(16, ((6, 8, 3),), dtype=dtype, skip=skip)
    got = by_operator(case, "unit")
    assert all(value.dtype == dtype for value in got)
    all_close(got, case, "unit", 0.05)


# ---- What results depend on -------------------------------------------------------------------


@needs_native
@every_head
@pytest.mark.parametrize("rows", [1, 64, 193, 2500])
@pytest.mark.parametrize("clients", [1, 5])
@with_and_without
def test_neither_threads_nor_the_stack_change_a_bit(skip, clients, rows, head):
    case = Case(rows, ((30, 256, 65), (20, 47, 1)), clients, skip=skip)
    whole = run_native(case, head)
    for threads in (2, 3, 4):
        for got, expected in zip(run_native(case, head, threads=threads), whole, strict=True):
            assert torch.equal(got, expected)
    for client in range(clients):
        alone = Case(1, case.towers, 1, skip=skip)
        for part in ("x", "params", "grad"):
            setattr(alone, part, getattr(case, part)[client : client + 1])
        for got, expected in zip(run_native(alone, head, threads=2), whole, strict=True):
            assert torch.equal(got[0], expected[client])


@needs_native
@pytest.mark.parametrize("isa", isas)
@every_head
@with_and_without
def test_a_rows_output_and_gradient_do_not_depend_on_the_other_rows(isa, skip, head):
    case = Case(400, ((30, 64, 37), (20, 47, 1)), 2, skip=skip)
    whole = run_native(case, head, isa)
    for begin, end in [(0, 1), (3, 4), (17, 50), (190, 399)]:
        part = Case(1, case.towers, 2, skip=skip)
        part.params = case.params
        part.x, part.grad = (t[:, begin:end].contiguous() for t in (case.x, case.grad))
        for got, expected in zip(run_native(part, head, isa)[:2], whole[:2], strict=True):
            assert torch.equal(got, expected[:, begin:end])


@needs_native
@with_and_without
def test_the_output_is_the_same_without_gradients(skip):
    case = Case(70, ((30, 64, 37), (20, 47, 1)), skip=skip)
    for head in HEADS:
        out, *_ = by_operator(case, head)
        assert torch.equal(mlp(case.x, case.params, case.towers, case.slope, head, skip), out)


@every_backend
@every_head
@with_and_without
def test_one_model_for_all_clients_by_expand(name, skip, head):
    case = Case(9, ((5, 7, 6), (3, 4)), skip=skip)
    model = case.params[0].clone().requires_grad_()
    rows = model.expand(3, -1)
    assert rows.stride(0) == 0
    case.params = case.params[:1].repeat(3, 1)
    with backend(name):
        expected, _, to_params = by_operator(case, head)
        out = mlp(case.x, rows, case.towers, case.slope, head, skip)
        out.backward(case.grad)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(model.grad, to_params.sum(0))


@every_backend
@every_head
@with_and_without
def test_memory_layout_does_not_matter(name, skip, head):
    def new():
        return Case(9, ((5, 7, 6), (3, 4)), skip=skip)

    case = new()
    with backend(name):
        expected = by_operator(case, head)
        wide = torch.randn(3, case.params.shape[1] + 5)
        wide[:, 2:-3] = case.params
        slices = new()
        slices.params = wide[:, 2:-3]
        columns = new()
        columns.params = case.params.T.contiguous().T
        columns.x = case.x.permute(2, 0, 1).contiguous().permute(1, 2, 0)
        columns.grad = case.grad.mT.contiguous().mT
        apart = new()
        apart.params = case.params.repeat_interleave(2, 0)[::2]
        apart.x = case.x.repeat(1, 1, 2)[..., : case.x.shape[-1]]
        for other in (slices, columns, apart):
            for got, same in zip(by_operator(other, head), expected, strict=True):
                torch.testing.assert_close(got, same)


@every_backend
@pytest.mark.parametrize(("clients", "rows"), [(0, 4), (3, 0), (0, 0)])
@every_head
@with_and_without
def test_nothing_comes_of_no_clients_or_rows(name, skip, clients, rows, head):
    towers = ((5, 7, 6), (3, 4))
    x = torch.ones(clients, rows, 8, requires_grad=True)
    params = torch.ones(clients, 160, requires_grad=True)
    size = 5 * 7 + 7 + 7 * 6 + 6 + 3 * 4 + 4 + (5 * 6 + 3 * 4) * skip
    with backend(name):
        out = mlp(x, params[:, :size], towers, 0.2, head, skip)
        out.sum().backward()
    assert out.shape == (clients, rows, 10)
    assert x.grad.shape == x.shape
    assert torch.equal(params.grad, torch.zeros_like(params))


# ---- The operator as torch sees it --------------------------------------------------------------


@every_head
@with_and_without
def test_gradcheck_once_and_twice(skip, head):
    case = Case(4, ((3, 4, 5), (2, 3)), 2, dtype=torch.float64, skip=skip)
    inputs = (case.x.requires_grad_(), case.params.requires_grad_())

    def run(x, params):
        return mlp(x, params, case.towers, case.slope, head, skip)

    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)


def arguments(case, head, *, grad=False):
    sizes = ([w for tower in case.towers for w in tower], [len(tower) for tower in case.towers])
    tensors = [t.detach().clone().requires_grad_(grad) for t in (case.x, case.params)]
    return *tensors, *sizes, case.slope, head, case.skip


@every_head
@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, torch.float32) for name in cpu_backends] + [("reference", torch.float64)],
)
@with_and_without
def test_opcheck(name, skip, dtype, head):
    case = Case(5, ((3, 4, 2), (2, 2)), dtype=dtype, skip=skip)
    with backend(name):
        for grad in (False, True):
            torch.library.opcheck(operators.mlp.default, arguments(case, head, grad=grad))


@needs_native
@every_head
@with_and_without
def test_opcheck_of_the_compiled_passes(skip, head):
    case = Case(5, ((3, 4, 2), (2, 2)), skip=skip)
    x, params, *network = arguments(case, head)
    torch.library.opcheck(operators.mlp_forward.default, (x, params, *network))
    out, kept = operators.mlp_forward(x, params, *network)
    for wanted in [(True, True), (True, False), (False, True)]:
        saved = (case.grad, x, params, None if head == "linear" else out, kept)
        torch.library.opcheck(operators.mlp_backward.default, (*saved, *network, *wanted))


@every_backend
@with_and_without
def test_compiles_as_one_graph_with_its_backward_pass(name, skip):
    case = Case(6, ((3, 4, 2), (2, 2)), skip=skip)
    x, params = case.x.clone().requires_grad_(), case.params.clone().requires_grad_()

    def loss(x, params):
        out = mlp(2 * x, 3 * params, case.towers, 0.2, "unit", skip)
        return (out * case.grad).square().sum()

    with backend(name):
        expected = torch.autograd.grad(loss(x, params), (x, params))
        compiled = torch.compile(loss, fullgraph=True)
        for got, same in zip(
            torch.autograd.grad(compiled(x, params), (x, params)), expected, strict=True
        ):
            torch.testing.assert_close(got, same)


@needs_native
def test_nothing_is_kept_and_no_product_made_that_is_not_needed():
    case = Case(64, ((30, 40, 20),))
    x, params = case.x, case.params

    def calls(x, params):
        with torch.profiler.profile(record_shapes=True) as profile:
            out = mlp(x, params, case.towers)
            if out.requires_grad:
                out.sum().backward()
        return {event.name for event in profile.events() if event.name.startswith("fedsyn::")}

    assert calls(x, params) == {"fedsyn::mlp"}
    with torch.no_grad():
        assert calls(x, params.clone().requires_grad_()) == {"fedsyn::mlp"}
    assert calls(x, params.clone().requires_grad_()) == {
        *("fedsyn::mlp", "fedsyn::mlp_forward", "fedsyn::mlp_backward")
    }
    _, kept = operators.mlp_forward(x, params, [30, 40, 20], [3], 0.0, "unit", False)
    assert kept.shape == (3, 64 * (40 + 1))  # hidden activations and a norm
    to_x, to_params = operators.mlp_backward(
        case.grad, x, params, None, kept[:, : 64 * 40], [30, 40, 20], [3], 0.0, "linear", False,
        False, True,
    )  # fmt: skip
    assert to_x.numel() == 0 and to_params.shape == params.shape


@needs_native
@pytest.mark.parametrize("of", ["x", "params"])
def test_second_derivatives_are_refused_and_not_wrong(of):
    case = Case(5, ((3, 4, 2),))
    inputs = {"x": case.x.requires_grad_(), "params": case.params.requires_grad_()}
    out = mlp(*inputs.values(), case.towers, 0.2, "unit")
    (first,) = torch.autograd.grad(out.square().sum(), inputs[of], create_graph=True)
    with pytest.raises(NotImplementedError, match="mlp: no second derivatives"):
        first.sum().backward()


# ---- Refusals ---------------------------------------------------------------------------------


def ones(*shape):
    return torch.ones(shape)


FIT = {"x": ones(2, 4, 3), "params": ones(2, 8), "towers": ((3, 2),)}
REFUSED = [
    ({"x": [[1.0]]}, TypeError, "expected x a tensor, got list"),
    ({"params": None}, TypeError, "expected params a tensor, got NoneType"),
    ({"params": ones(2, 8).double()}, TypeError, "x torch.float32 and params torch.float64"),
    (
        {"x": ones(2, 4, 3).long(), "params": ones(2, 8).long()},
        *(TypeError, "one floating dtype, got x torch.int64"),
    ),
    ({"towers": 3}, TypeError, "expected towers to be tuples of widths, got 3"),
    ({"towers": (3, 2)}, TypeError, r"tuples of widths, got \(3, 2\)"),
    ({"towers": ((3, 2.0),)}, TypeError, r"integers as widths, got \(\(3, 2.0\),\)"),
    ({"slope": "0.2"}, TypeError, "expected slope a number, got str"),
    ({"skip": "trained"}, TypeError, "expected skip True or False, got 'trained'"),
    ({"params": ones(2, 8).to("meta")}, ValueError, "x on cpu and params on meta"),
    ({"towers": ()}, ValueError, "expected one tower or more"),
    ({"towers": ((3,),)}, ValueError, r"two or more widths >= 1, got \(3,\)"),
    ({"towers": ((3, 0, 2),)}, ValueError, r"two or more widths >= 1, got \(3, 0, 2\)"),
    ({"x": ones(4, 3)}, ValueError, r"expected x \[C, B, 3\], got \(4, 3\)"),
    ({"x": ones(2, 4, 5)}, ValueError, r"expected x \[C, B, 3\], got \(2, 4, 5\)"),
    ({"params": ones(2, 9)}, ValueError, r"expected params \(2, 8\), got \(2, 9\)"),
    ({"params": ones(1, 8)}, ValueError, r"expected params \(2, 8\), got \(1, 8\)"),
    ({"skip": True}, ValueError, r"expected params \(2, 14\), got \(2, 8\)"),
    ({"params": ones(16)}, ValueError, r"expected params \(2, 8\), got \(16,\)"),
    ({"slope": -0.1}, ValueError, "expected slope >= 0, got -0.1"),
    ({"slope": math.nan}, ValueError, "expected a finite slope, got nan"),
    ({"head": "cosine"}, ValueError, "one of linear, unit, tanh_unit, got 'cosine'"),
]


@every_backend
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize(("change", "error", "message"), REFUSED)
def test_refuses_with_one_sentence_that_names_what_was_passed(name, grad, change, error, message):
    passed = FIT | change
    x = passed["x"]
    if grad and isinstance(x, torch.Tensor) and x.is_floating_point():
        passed["x"] = x.clone().requires_grad_()
    with backend(name), pytest.raises(error, match=message) as raised:
        mlp(**passed)
    assert "\n" not in str(raised.value) and str(raised.value).startswith("mlp: ")


@needs_native
def test_a_forced_kernel_is_refused_where_there_is_none():
    case = Case(5, ((3, 2),), dtype=torch.float64)
    with backend("cpu"), pytest.raises(ValueError, match=r"cpu torch.float64 tensors have only re"):
        mlp(case.x, case.params, case.towers)


@needs_native
def test_the_raw_operators_refuse_what_would_read_beyond_memory():
    x, params, grad = ones(2, 4, 3), ones(2, 8), ones(2, 4, 2)
    network = ([3, 2], [2], 0.0, "unit", False)
    out, kept = operators.mlp_forward(x, params, *network)
    with pytest.raises(ValueError, match="one tower or more"):
        operators.mlp(x, params, [3, 2], [3], 0.0, "unit", False)
    with pytest.raises(ValueError, match=r"expected params \(2, 14\)"):
        operators.mlp_forward(x, params, [3, 2], [2], 0.0, "unit", True)
    with pytest.raises(ValueError, match="expected float32 on a CPU"):
        operators.mlp_forward(x.double(), params.double(), *network)
    for saved in [
        (grad[:1], x, params, out, kept),
        (grad, x, params, None, kept),
        (grad, x, params, out[:, :1], kept),
        (grad, x, params, out, kept[:, :1]),
        (grad.double(), x, params, out, kept),
    ]:
        with pytest.raises(ValueError, match=r"what fedsyn::mlp_forward gave"):
            operators.mlp_backward(*saved, *network, True, True)


@needs_native
def test_the_native_module_refuses_before_it_touches_memory(check_refused):
    changes = [
        ({"x": 0}, "null"),
        ({"params": 0}, "null"),
        ({"out": 0}, "null"),
        ({"widths": [3, 0]}, "width is 0"),
        ({"widths": [3, 2, 1]}, "as many widths"),
        ({"lengths": []}, "towers is 0"),
        ({"lengths": [1, 1]}, "length is 1"),
        ({"clients": -1}, "clients is -1"),
        ({"rows": -1}, "rows is -1"),
        ({"head": "cosine"}, "'cosine' is not"),
        ({"threads": 0}, "threads is 0"),
        ({"isa": "mmx"}, "'mmx' is unknown"),
    ]
    arguments = {
        **{"x": 8, "params": 8, "out": 8, "kept": 8, "widths": [3, 2], "lengths": [2]},
        **{"clients": 1, "rows": 2, "stride": 8, "slope": 0.2, "head": "unit", "skip": False},
    }
    gradients = {"to_out": 8, "to_x": 8, "to_params": 8}
    check_refused(
        [("mlp_cpu_float32", arguments | change, message) for change, message in changes]
        + [
            ("mlp_backward_cpu_float32", gradients | arguments | change, message)
            for change, message in changes
        ]
    )
    incompatible = [("mlp_cpu_float32", arguments | {"skip": 1}, "incompatible")]
    check_refused(incompatible, TypeError)


# ---- On a GPU ---------------------------------------------------------------------------------


@pytest.mark.gpu
@every_head
@sizes
@with_and_without
def test_gpu_agrees_with_float64(skip, head, rows, towers):
    case = Case(rows, towers, skip=skip)
    on_gpu = Case(rows, towers, skip=skip)
    on_gpu.x, on_gpu.params, on_gpu.grad = (t.cuda() for t in (case.x, case.params, case.grad))
    all_close(by_operator(on_gpu, head), case, head)

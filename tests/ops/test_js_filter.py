"""Scores of candidates: assignment, filter over clients, nearest distribution, quotas."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from fedsyn.ops import (
    backend,
    backends,
    js_assign,
    js_divergence,
    js_filter,
    js_nearest,
    select_quota,
)
from fedsyn.ops.backends import native
from fedsyn.ops.js_filter import js_assign_reference, js_filter_reference
from fedsyn.ops.js_nearest import js_nearest_reference

LN2 = math.log(2)
needs_native = pytest.mark.skipif(native() is None, reason="the compiled module is absent")
isas = native().cpu_isas() if native() is not None else ()
cpu_backends = [name for name in ("reference", "cpu") if name in backends()]

draws = settings(deadline=None, max_examples=40)
seeds = st.integers(0, 2**32 - 1)


def pairs(seed, n, clients, k, d, noise=0.3, spread=1.0, dtype=torch.float32):
    """Candidates that scatter about the clients' prototypes, clients about common ones."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    common = draw(k, d)
    px = normalize(common + spread * draw(clients, k, d), dim=-1)
    py = normalize(px + 0.1 * draw(clients, k, d), dim=-1)
    x = normalize(common[torch.randint(k, (n,), generator=generator)] + draw(n, d), dim=-1)
    y = normalize(x + noise * draw(n, d), dim=-1)
    return [t.to(dtype) for t in (x, y, px, py)]


def distributions(seed, n, clients, k, own=30.0, concentration=0.3):
    """Dirichlet clients, and rows that scatter about one client each."""
    state = torch.get_rng_state()  # Dirichlet takes no generator
    torch.manual_seed(seed)
    q = torch.distributions.Dirichlet(torch.full((k,), concentration)).sample((clients,))
    near = (own * q[torch.randint(clients, (n,))]).clamp_min(1e-3)
    p = torch.distributions.Dirichlet(near).sample() if n else q[:0]
    torch.set_rng_state(state)
    return p, q


def oracle(x, y, px, py, scale, valid=None):
    """Divergence and both modalities' similarities in float64, by entropies."""
    a, b = (scale * u.double() @ v.double().mT for u, v in ((x, px), (y, py)))
    if valid is not None:
        a, b = (t.masked_fill(~valid, -torch.inf) for t in (a, b))
    p, q = a.softmax(-1), b.softmax(-1)
    entropy = torch.special.entr
    return (entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2).sum(-1), a + b


def run_assign(x, y, px, py, scale, valid=None, threads=1, isa=""):
    divergence, assignment = x.new_empty(len(x)), torch.full((len(x),), -7)
    addresses = [0 if t is None else t.data_ptr() for t in (x, y, px, py, valid)]
    outputs = divergence.data_ptr(), assignment.data_ptr()
    native().js_assign_cpu_float32(
        *addresses, *outputs, len(x), *px.shape, scale, threads=threads, isa=isa
    )
    return divergence, assignment


def run_filter(x, y, px, py, scale, valid=None, threads=1, isa=""):
    divergence, client, assignment = x.new_empty(len(x)), *torch.full((2, len(x)), -7)
    addresses = [0 if t is None else t.data_ptr() for t in (x, y, px, py, valid)]
    outputs = [t.data_ptr() for t in (divergence, client, assignment)]
    native().js_filter_cpu_float32(
        *addresses, *outputs, len(x), *px.shape, scale, threads=threads, isa=isa
    )
    return divergence, client, assignment


def run_nearest(p, q, threads=1, isa=""):
    divergence, client = p.new_empty(len(p)), torch.full((len(p),), -7)
    addresses = [t.data_ptr() for t in (p, q, divergence, client)]
    native().js_nearest_cpu_float32(*addresses, len(p), *q.shape, threads=threads, isa=isa)
    return divergence, client


def exhaustive(x, y, px, py, scale, valid=None, **how):
    """`js_filter` by `js_assign` for every client: nothing is left out."""
    best, client, assignment = x.new_full((len(x),), torch.inf), *torch.zeros(2, len(x)).long()
    for c in range(len(px)):
        mask = None if valid is None else valid[c].contiguous()
        value, chosen = run_assign(x, y, px[c], py[c], scale, mask, **how)
        better = value < best
        best, assignment = torch.where(better, value, best), torch.where(better, chosen, assignment)
        client = torch.where(better, c, client)
    return best, client, assignment


def least(values):
    """The least of each row and the first column that has it."""
    client = values.argmin(-1)
    return values.gather(-1, client[:, None]).squeeze(-1), client


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


# ---- js_assign --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", cpu_backends)
@draws
@given(seeds, st.integers(0, 70), st.integers(1, 40), st.integers(1, 40), st.floats(-30, 30))
def test_assignment_agrees_with_the_float64_oracle(name, seed, n, k, d, scale):
    x, y, (px,), (py,) = pairs(seed, n, 1, k, d)
    with backend(name):
        divergence, assignment = js_assign(x, y, px, py, scale)
    expected, similarity = oracle(x, y, px, py, scale)
    assert divergence.shape == assignment.shape == (n,) and assignment.dtype == torch.long
    assert torch.all((divergence.double() >= 0) & (divergence.double() <= LN2))
    torch.testing.assert_close(divergence.double(), expected, rtol=0, atol=3e-6)
    reached = similarity.gather(-1, assignment[:, None]).squeeze(-1)
    torch.testing.assert_close(reached, similarity.amax(-1), rtol=0, atol=1e-4)


@needs_native
@pytest.mark.parametrize("isa", isas)
@pytest.mark.parametrize(("k", "d"), [(1, 1), (100, 64), (240, 128), (1000, 300)])
@pytest.mark.parametrize("scale", [1.0, 20.0, 100.0])
def test_every_instruction_set_agrees_with_the_oracle(isa, k, d, scale):
    x, y, (px,), (py,) = pairs(k, 50, 1, k, d)
    expected, _ = oracle(x, y, px, py, scale)
    found, _ = run_assign(x, y, px, py, scale, isa=isa)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6 * (1 + scale / 20))


@needs_native
@pytest.mark.parametrize("isa", isas)
@pytest.mark.parametrize(("noise", "rtol"), [(1e-1, 3e-5), (1e-2, 3e-4), (1e-3, 3e-3)])
def test_small_divergences_keep_their_relative_accuracy(isa, noise, rtol):
    x, y, (px,), _ = pairs(1, 200, 1, 100, 64, noise=noise)
    exact, _ = js_assign_reference(*(t.double() for t in (x, y, px, px)), 20.0)
    found, _ = run_assign(x, y, px, px, 20.0, isa=isa)
    torch.testing.assert_close(found.double(), exact, rtol=rtol, atol=0)


@pytest.mark.parametrize("name", cpu_backends)
def test_alike_modalities_do_not_diverge_and_ties_go_to_the_first(name):
    x, _, (px,), _ = pairs(2, 40, 1, 9, 5)
    twice = torch.cat([px, px])
    with backend(name):
        divergence, assignment = js_assign(x, x, twice, twice, 20.0)
        everything_ties = js_assign(x, -x, px, px, 0.0)[1]
    assert torch.all(divergence == 0) and torch.all(assignment < 9)
    assert torch.all(everything_ties == 0)


@pytest.mark.parametrize("name", cpu_backends)
def test_prototypes_that_do_not_exist_take_no_part(name):
    x, y, (px,), (py,) = pairs(3, 40, 1, 12, 5)
    valid = torch.arange(12) % 3 > 0
    with backend(name):
        found = js_assign(x, y, px.masked_fill(~valid[:, None], math.nan), py, 20.0, valid)
        divergence, assignment = js_assign(x, y, px[valid], py[valid], 20.0)
        nothing = js_assign(x, y, px, py, 20.0, torch.zeros(12, dtype=torch.bool))
    torch.testing.assert_close(found[0], divergence)
    assert torch.equal(found[1], valid.nonzero().flatten()[assignment])
    assert torch.all(nothing[0] == torch.inf) and torch.all(nothing[1] == 0)


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_in_float64(masked):
    operands = pairs(4, 5, 1, 7, 3, dtype=torch.float64)
    leaves = [t.squeeze(0).requires_grad_() for t in operands]
    valid = torch.tensor([True, False] * 3 + [True]) if masked else None
    assert torch.autograd.gradcheck(lambda *t: js_assign(*t, 4.0, valid)[0], leaves)


@pytest.mark.parametrize("name", cpu_backends)
@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_are_those_of_the_formula(name, frozen, monkeypatch):
    monkeypatch.setattr("fedsyn.ops.chunks.CHUNK", {"cpu": 1000})  # several chunks
    x, y, (px,), (py,) = pairs(5, 100, 1, 30, 8)
    leaves = [t.requires_grad_(not frozen or t.shape[0] == 100) for t in (x, y, px, py)]
    leaves = [t for t in leaves if t.requires_grad]
    weight = torch.linspace(-1, 1, 100)
    with backend(name):
        found = torch.autograd.grad((weight * js_assign(x, y, px, py, 10.0)[0]).sum(), leaves)
    p, q = (10.0 * x @ px.T).softmax(-1), (10.0 * y @ py.T).softmax(-1)
    expected = torch.autograd.grad((weight * js_divergence(p, q)).sum(), leaves)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_an_assignment_to_nothing_has_no_gradient():
    x, y, (px,), (py,) = pairs(6, 4, 1, 3, 2)
    x.requires_grad_()
    divergence, assignment = js_assign(x, y, px, py, 5.0, torch.zeros(3, dtype=torch.bool))
    assert not assignment.requires_grad
    divergence.sum().backward()
    assert torch.all(x.grad == 0)


# ---- js_filter --------------------------------------------------------------------------------


@needs_native
@pytest.mark.parametrize("isa", isas)
@draws
@given(
    seed=seeds,
    n=st.integers(1, 150),
    clients=st.integers(1, 30),
    k=st.integers(1, 40),
    noise=st.sampled_from([0.0, 1e-3, 0.1, 1.0]),
    spread=st.sampled_from([0.0, 0.01, 1.0]),
    scale=st.floats(0, 100),
    masked=st.booleans(),
)
def test_leaving_clients_out_changes_no_bit(isa, seed, n, clients, k, noise, spread, scale, masked):
    operands = pairs(seed, n, clients, k, 6, noise, spread)
    generator = torch.Generator().manual_seed(seed)
    valid = torch.rand(clients, k, generator=generator) < 0.6 if masked else None
    found = run_filter(*operands, scale, valid, isa=isa)
    assert_same(found, exhaustive(*operands, scale, valid, isa=isa))


@needs_native
@pytest.mark.parametrize("isa", isas)
@draws
@given(seed=seeds, clients=st.integers(2, 20))
def test_leaving_clients_out_is_right_to_the_bounds_themselves(isa, seed, clients):
    # With x = y = 1 and one dimension, prototypes are logarithms of probabilities. Distributions
    # that share most of their mass and no more have JSD = ln 2 h^2, those close by JSD = h^2.
    generator = torch.Generator().manual_seed(seed)
    draw, kind = torch.rand(2, 10 * clients, generator=generator, dtype=torch.float64)
    apart = kind < 0.5
    h2 = 0.1 * torch.where(apart, 1 + 0.05 * draw, 0.68 + 0.1 * draw)  # about equal divergences
    h2[clients:] = 0.9  # clients to leave out, so that bounds are worth while
    none, half = torch.full_like(h2, 1e-30), (1 - (1 - h2).square()).sqrt() / 2
    p = torch.where(
        apart,
        torch.stack([1 - h2, h2, none, none]),
        torch.stack([0.5 + half, 0.5 - half, none, none]),
    )
    q = torch.where(apart, p[[0, 2, 1, 3]], p[[1, 0, 2, 3]])
    px, py = (t.T.log().float()[..., None].contiguous() for t in (p, q))
    ones = torch.ones(3, 1)
    found = run_filter(ones, ones, px, py, 1.0, isa=isa)
    assert_same(found, exhaustive(ones, ones, px, py, 1.0, isa=isa))


@needs_native
@pytest.mark.parametrize("isa", isas)
@pytest.mark.parametrize("spread", [0.01, 3.0])
def test_neither_blocks_nor_threads_change_a_bit(isa, spread):
    operands = pairs(7, 3001, 20, 50, 40, spread=spread)
    found = run_filter(*operands, 15.0, isa=isa)
    assert_same(found, exhaustive(*operands, 15.0, isa=isa))
    assert_same(found, run_filter(*operands, 15.0, threads=3, isa=isa))
    x, y, px, py = operands
    some = slice(1234, 1300)
    alone = run_filter(x[some].clone(), y[some].clone(), px, py, 15.0, isa=isa)
    assert_same((t[some] for t in found), alone)


@pytest.mark.parametrize("name", cpu_backends)
def test_filter_agrees_with_the_float64_oracle(name):
    x, y, px, py = pairs(8, 300, 12, 30, 16)
    with backend(name):
        divergence, client, assignment = js_filter(x, y, px, py, 20.0)
    values, similarity = zip(
        *(oracle(x, y, *p, 20.0) for p in zip(px, py, strict=True)), strict=True
    )
    values, similarity = torch.stack(values, -1), torch.stack(similarity, 1)
    torch.testing.assert_close(divergence.double(), values.amin(-1), rtol=0, atol=2e-6)
    reached = values.gather(-1, client[:, None]).squeeze(-1)
    torch.testing.assert_close(reached, values.amin(-1), rtol=0, atol=2e-6)
    there = similarity[torch.arange(300), client]
    reached = there.gather(-1, assignment[:, None]).squeeze(-1)
    torch.testing.assert_close(reached, there.amax(-1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", cpu_backends)
def test_equal_clients_tie_to_the_first_and_empty_clients_take_no_part(name):
    x, y, px, py = pairs(9, 50, 4, 6, 5)
    px[1:], py[1:] = px[0], py[0]
    valid = torch.ones(4, 6, dtype=torch.bool)
    valid[0] = False
    with backend(name):
        assert torch.all(js_filter(x, y, px, py, 20.0)[1] == 0)
        assert torch.all(js_filter(x, y, px, py, 20.0, valid)[1] == 1)
        divergence, client, assignment = js_filter(x, y, px, py, 20.0, valid & False)
    assert torch.all(divergence == torch.inf)
    assert torch.all(client == 0) and torch.all(assignment == 0)


# ---- js_nearest -------------------------------------------------------------------------------


@needs_native
@pytest.mark.parametrize("isa", isas)
@draws
@given(
    seed=seeds,
    n=st.integers(1, 60),
    clients=st.integers(1, 40),
    k=st.integers(1, 70),
    own=st.sampled_from([0.1, 30.0, 1e4]),
    concentration=st.sampled_from([0.01, 0.3, 10.0, 1e5]),
)
def test_the_nearest_is_that_of_all_divergences(isa, seed, n, clients, k, own, concentration):
    p, q = distributions(seed, n, clients, k, own, concentration)
    q = torch.cat([q, q[:1], torch.eye(k)[:1]])  # a tie, and zeros
    found = run_nearest(p, q, isa=isa)
    alone = [run_nearest(p, row[None], isa=isa)[0] for row in q]
    assert_same(found, least(torch.stack(alone, -1)))


@needs_native
def test_the_nearest_has_the_divergence_of_js_divergence():
    p, q = distributions(0, 500, 30, 100)
    with backend("cpu"):
        divergence, client = js_nearest(p, q)
        values = js_divergence(p[:, None], q)
    assert_same((divergence, client), least(values))


@needs_native
@pytest.mark.parametrize("isa", isas)
def test_disjoint_distributions_tie_to_the_first(isa):
    p, q = torch.eye(9)[:3], torch.eye(9)[3:]
    divergence, client = run_nearest(p, q, isa=isa)
    torch.testing.assert_close(divergence, torch.full((3,), LN2))
    assert torch.all(client == 0)


@needs_native
@pytest.mark.parametrize("isa", isas)
def test_neither_blocks_nor_threads_change_the_nearest(isa):
    p, q = distributions(1, 5001, 33, 100)
    found = run_nearest(p, q, isa=isa)
    assert_same(found, run_nearest(p, q, threads=3, isa=isa))
    some = slice(4000, 4077)
    assert_same((t[some] for t in found), run_nearest(p[some].clone(), q, isa=isa))


@pytest.mark.parametrize("name", cpu_backends)
def test_nearest_agrees_with_float64(name):
    p, q = distributions(2, 300, 20, 50)
    with backend(name):
        divergence, client = js_nearest(p, q)
    expected, there = js_nearest_reference(p.double(), q.double())
    torch.testing.assert_close(divergence.double(), expected, rtol=0, atol=1e-6)
    assert torch.equal(client, there)


# ---- What all of them share -------------------------------------------------------------------


def calls(x, y, px, py, p, q):
    """Every operator once."""
    return {
        "js_assign": lambda: js_assign(x, y, px[0], py[0], 20.0),
        "js_filter": lambda: js_filter(x, y, px, py, 20.0),
        "js_nearest": lambda: js_nearest(p, q),
    }


operators = ["js_assign", "js_filter", "js_nearest"]


@pytest.mark.parametrize("name", cpu_backends)
@pytest.mark.parametrize("operator", operators)
def test_rows_with_nan_are_nan_and_leave_the_others_alone(name, operator):
    operands = [*pairs(10, 70, 5, 11, 6), *distributions(10, 70, 5, 11)]
    with backend(name):
        clean = calls(*operands)[operator]()
        operands[0][[3, 60], 2] = operands[4][[3, 60], 2] = math.nan
        found = calls(*operands)[operator]()
    assert found[0].isnan().nonzero().flatten().tolist() == [3, 60]
    others = ~found[0].isnan()
    assert_same((t[others] for t in found), (t[others] for t in clean))
    assert all(index.min() >= 0 and index.max() < 11 for index in found[1:])


@pytest.mark.parametrize("name", cpu_backends)
@pytest.mark.parametrize("operator", operators[1:])
def test_a_client_with_nan_is_not_passed_over(name, operator):
    operands = [*pairs(11, 70, 5, 11, 6), *distributions(11, 70, 5, 11)]
    operands[2][3, 7, 1] = operands[5][3, 7] = math.nan
    with backend(name):
        divergence, client, *_ = calls(*operands)[operator]()
    assert divergence.isnan().all() and torch.all(client == 3)


@pytest.mark.parametrize("name", cpu_backends)
@pytest.mark.parametrize("operator", operators)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_empty_and_strided_operands(name, operator, dtype):
    operands = [*pairs(12, 20, 5, 11, 6), *distributions(12, 20, 5, 11)]
    operands = [t.to(dtype) for t in operands]
    strided = [t.mT.contiguous().mT for t in operands]
    none = [t[:0] if len(t) == 20 else t for t in operands]
    if dtype == torch.float64 and name == "cpu":
        with backend(name), pytest.raises(ValueError, match="tensors have only reference"):
            calls(*operands)[operator]()
        return
    with backend(name):
        found, expected = calls(*strided)[operator](), calls(*operands)[operator]()
        torch.testing.assert_close(found, expected)
        assert all(t.shape == (0,) for t in calls(*none)[operator]())


def test_references_work_in_chunks(monkeypatch):
    x, y, px, py = pairs(13, 101, 3, 7, 4)
    p, q = distributions(13, 101, 3, 7)
    whole = js_filter_reference(x, y, px, py, 9.0), js_nearest_reference(p, q)
    monkeypatch.setattr("fedsyn.ops.chunks.CHUNK", {"cpu": 50})
    for found, expected in zip(
        (js_filter_reference(x, y, px, py, 9.0), js_nearest_reference(p, q)), whole, strict=True
    ):
        torch.testing.assert_close(found, expected)


@needs_native
@pytest.mark.parametrize("isa", isas)
def test_nothing_outside_the_rows_is_written(isa):
    for n in (1, 31, 33):
        x, y, px, py = pairs(n, n, 3, 5, 4)
        p, q = distributions(n, n, 3, 5)
        value = torch.full((16 + n + 16,), math.pi)
        index = torch.full((2, 16 + n + 16), -7)
        at, first, second = (
            value[16:].data_ptr(),
            index[0, 16:].data_ptr(),
            index[1, 16:].data_ptr(),
        )
        where = [t.data_ptr() for t in (x, y, px, py)]
        native().js_filter_cpu_float32(*where, 0, at, first, second, n, 3, 5, 4, 20.0, 1, isa)
        native().js_nearest_cpu_float32(p.data_ptr(), q.data_ptr(), at, first, n, 3, 5, 1, isa)
        for row in (value, *index):
            assert torch.all(row[:16] == row[0]) and torch.all(row[16 + n :] == row[0])
            assert torch.all(row[16 : 16 + n] != row[0])


def samples(name, requires_grad):
    x, y, px, py = pairs(14, 6, 3, 5, 4)
    p, q = distributions(14, 6, 3, 5)
    valid = torch.ones(3, 5, dtype=torch.bool)
    operands = {
        "js_assign": (x.requires_grad_(requires_grad), y, px[0], py[0], 20.0, valid[0]),
        "js_filter": (x, y, px, py, 20.0, None),
        "js_nearest": (p, q),
        "js_assign_backward": (x[:, 0].clone(), x, y, px[0], py[0], 20.0, None, True),
        "select_quota": (
            p[:, 0].clone(),
            torch.tensor([0, 1, 0, 1, 2, 0]),
            torch.tensor([1, 2, 9]),
        ),
    }
    return operands[name]


@pytest.mark.parametrize("name", cpu_backends)
@pytest.mark.parametrize("operator", [*operators, "js_assign_backward", "select_quota"])
def test_operator_checks(name, operator):
    with backend(name):
        torch.library.opcheck(
            getattr(torch.ops.fedsyn, operator).default, samples(operator, operator == "js_assign")
        )


@pytest.mark.parametrize("operator", operators)
def test_compiles_as_one_graph(operator):
    public = {"js_assign": js_assign, "js_filter": js_filter, "js_nearest": js_nearest}
    operands = samples(operator, False)
    compiled = torch.compile(public[operator], fullgraph=True)
    assert_same(compiled(*operands), public[operator](*operands))
    if operator != "js_nearest":  # another scale
        *tensors, _, valid = operands
        assert_same(compiled(*tensors, 3.5, valid), public[operator](*tensors, 3.5, valid))


def test_the_loss_compiles_as_one_graph():
    x, y, px, py, scale, _ = samples("js_assign", True)

    def loss(u):
        return js_assign(u, y, px, py, scale)[0].mean()

    (expected,) = torch.autograd.grad(loss(x), x)
    (found,) = torch.autograd.grad(torch.compile(loss, fullgraph=True)(x), x)
    torch.testing.assert_close(found, expected)


X, P = torch.zeros(4, 3), torch.zeros(5, 3)


@pytest.mark.parametrize(
    ("operands", "error", "message"),
    [
        ((X, X[:3], P, P, 1.0), ValueError, r"x \(4, 3\), y \(3, 3\)"),
        ((X, X, P[:, :2], P[:, :2], 1.0), ValueError, r"prototypes_x \(5, 2\)"),
        ((X, X, P[:0], P[:0], 1.0), ValueError, "nothing but N zero"),
        ((X, X, P[None], P[None], 1.0), ValueError, r"prototypes \[K, D\]"),
        ((X, X, P, P.double(), 1.0), TypeError, "prototypes_y torch.float64"),
        ((X.half(), X.half(), P.half(), P.half(), 1.0), TypeError, "got torch.float16"),
        ((X, X, P, P.to("meta"), 1.0), ValueError, "prototypes_y meta"),
        ((X, [1.0], P, P, 1.0), TypeError, "y to be a tensor, got list"),
        ((X, X, P, P, math.nan), ValueError, "finite scale, got nan"),
        ((X, X, P, P, math.inf), ValueError, "finite scale, got inf"),
        ((X, X, P, P, 1.0, torch.ones(5)), TypeError, "bool, got torch.float32"),
        ((X, X, P, P, 1.0, torch.ones(4) > 0), ValueError, r"valid \(5,\) on cpu, got \(4,\)"),
    ],
)
def test_assign_refuses_with_one_sentence(operands, error, message):
    with pytest.raises(error, match=message) as raised:
        js_assign(*operands)
    assert str(raised.value).startswith("js_assign: ") and "\n" not in str(raised.value)


@pytest.mark.parametrize("prototypes", [P, P[None, :0], P.expand(0, 5, 3)])
def test_filter_refuses_missing_clients(prototypes):
    with pytest.raises(ValueError, match=r"js_filter: expected .* prototypes \[C, K, D\]"):
        js_filter(X, X, prototypes, prototypes, 1.0)
    with pytest.raises(ValueError, match="js_filter: expected"):
        torch.ops.fedsyn.js_filter(X, X, prototypes, prototypes, 1.0, None)


@pytest.mark.parametrize(
    ("p", "q", "error", "message"),
    [
        (X, P[:0], ValueError, r"nothing but N zero, got \(4, 3\) and \(0, 3\)"),
        (X, P[:, :2], ValueError, r"got \(4, 3\) and \(5, 2\)"),
        (X, P[0], ValueError, r"q \[C, K\]"),
        (X, P.double(), TypeError, "torch.float32 and torch.float64"),
        (X, P.to("meta"), ValueError, "got cpu and meta"),
        (X, None, TypeError, "Tensor and NoneType"),
    ],
)
def test_nearest_refuses_with_one_sentence(p, q, error, message):
    with pytest.raises(error, match=message) as raised:
        js_nearest(p, q)
    assert str(raised.value).startswith("js_nearest: ") and "\n" not in str(raised.value)


@needs_native
def test_the_native_module_refuses_before_it_touches_memory(check_refused):
    calls = [
        ((-1, 1, 1, 1, 1.0), "rows is -1"),
        ((1, 0, 1, 1, 1.0), "clients is 0"),
        ((1, 1, 0, 1, 1.0), "prototypes is 0"),
        ((1, 1, 1, 0, 1.0), "width is 0"),
        ((1, 1, 1, 1, math.nan), "scale is not finite"),
        ((1, 1, 1, 1, 1.0, 0), "threads is 0"),
        ((1, 1, 1, 1, 1.0, 1, "mmx"), "'mmx' is unknown"),
    ]
    addresses = (8, 8, 8, 8, 0, 8, 8, 8)
    check_refused(
        [("js_filter_cpu_float32", addresses + sizes, message) for sizes, message in calls]
        + [("js_filter_cpu_float32", (8, 0, 8, 8, 0, 8, 8, 8, 1, 1, 1, 1, 1.0), "null")]
    )


# ---- select_quota -----------------------------------------------------------------------------


@draws
@given(seeds, st.integers(0, 100), st.integers(1, 6))
def test_quota_keeps_the_lowest_of_every_group(seed, n, groups):
    generator = torch.Generator().manual_seed(seed)
    score = torch.randint(10, (n,), generator=generator).float()  # with ties
    group = torch.randint(groups, (n,), generator=generator)
    quota = torch.randint(-1, 30, (groups,), generator=generator)
    expected = []
    for g, most in enumerate(quota.tolist()):
        rows = (group == g).nonzero().flatten().tolist()
        expected += sorted(rows, key=lambda row: (score[row].item(), row))[: max(most, 0)]
    assert select_quota(score, group, quota).tolist() == sorted(expected)


def test_quota_takes_nan_last():
    score = torch.tensor([math.nan, 2.0, math.nan, 1.0])
    group = torch.zeros(4, dtype=torch.long)
    assert select_quota(score, group, torch.tensor([3])).tolist() == [0, 1, 3]


def test_quota_compiles_as_one_graph():
    operands = samples("select_quota", False)
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(select_quota, fullgraph=True)
        assert torch.equal(compiled(*operands), select_quota(*operands))


@pytest.mark.parametrize(
    ("score", "group", "quota", "error", "message"),
    [
        (torch.zeros(2), torch.tensor([0, 2]), torch.ones(2).long(), ValueError, "got 2"),
        (torch.zeros(2), torch.tensor([-1, 0]), torch.ones(2).long(), ValueError, "got -1"),
        (
            torch.zeros(2),
            torch.zeros(3).long(),
            torch.ones(2).long(),
            ValueError,
            r"\(2,\), \(3,\)",
        ),
        (torch.zeros(2), torch.zeros(2), torch.ones(2).long(), TypeError, "torch.float32"),
        (torch.ones(2) > 0, torch.zeros(2).long(), torch.ones(2).long(), TypeError, "torch.bool"),
        (
            torch.zeros(2),
            torch.zeros(2).long(),
            torch.ones(2, device="meta").long(),
            ValueError,
            "cpu, cpu and meta",
        ),
    ],
)
def test_quota_refuses_with_one_sentence(score, group, quota, error, message):
    with pytest.raises(error, match=message) as raised:
        select_quota(score, group, quota)
    assert str(raised.value).startswith("select_quota: ")


# ---- On a GPU ---------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["reference", "cuda"])
@pytest.mark.parametrize(("k", "d"), [(1, 1), (24, 64), (100, 64), (240, 128)])
def test_gpu_agrees_with_the_oracle(name, k, d):
    x, y, px, py = pairs(15, 333, 7, k, d)
    p, q = distributions(15, 333, 7, k)
    operands = [t.cuda() for t in (x, y, px, py, p, q)]
    with backend(name):
        divergence, assignment = js_assign(*operands[:2], operands[2][0], operands[3][0], 20.0)
        least_divergence, _, _ = js_filter(*operands[:4], 20.0)
        nearest, _ = js_nearest(*operands[4:])
    values, similarity = zip(*map(oracle, [x] * 7, [y] * 7, px, py, [20.0] * 7), strict=True)
    torch.testing.assert_close(divergence.cpu().double(), values[0], rtol=0, atol=3e-6)
    reached = similarity[0].gather(-1, assignment.cpu()[:, None]).squeeze(-1)
    torch.testing.assert_close(reached, similarity[0].amax(-1), rtol=0, atol=1e-4)
    expected = torch.stack(values, -1).amin(-1)
    torch.testing.assert_close(least_divergence.cpu().double(), expected, rtol=0, atol=3e-6)
    expected, _ = js_nearest_reference(p.double(), q.double())
    torch.testing.assert_close(nearest.cpu().double(), expected, rtol=0, atol=1e-6)

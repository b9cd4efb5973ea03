"""The CUDA kernels against their formulas in float64, on a GPU."""

import pytest
import torch
from torch.nn.functional import normalize

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
MASKED = -1e30


def rows(*shape, seed=0, dtype=torch.float32):
    """Unit rows."""
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return normalize(values, dim=-1).to(DEVICE, dtype)


def integers(high, *shape, seed=0):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def flags(share, *shape, seed=0):
    draws = torch.rand(*shape, generator=torch.Generator().manual_seed(seed))
    return (draws < share).to(DEVICE)


def unwritten(*shape, dtype=torch.float32):
    """Memory whose every element a kernel has to write."""
    return torch.full(shape, torch.nan if dtype.is_floating_point else -7, device=DEVICE).to(dtype)


def suffix(dtype):
    return {torch.float32: "f32", torch.bfloat16: "bf16"}[dtype]


def error(value, expected):
    """Greatest error, relative to the greatest value."""
    if value.numel() == 0:
        return 0.0
    difference = (value.double() - expected).abs().max()
    return float(difference / expected.abs().max().clamp(min=1e-30))


def js_divergence(p, q):
    """Over the last axis, for float64."""
    m = p + q
    return 0.5 * (torch.xlogy(p, 2 * p / m) + torch.xlogy(q, 2 * q / m)).nan_to_num(0).sum(-1)


# ---- prototype_nce ----------------------------------------------------------------------------


def prototype_nce(library, x, prototypes, target, scales, valid=None, scale=0.0):
    clients, count = x.shape[:2]
    sizes = (clients, count, prototypes.shape[1], x.shape[2])
    loss, to_scale = unwritten(clients), unwritten(clients)
    to_x = unwritten(*x.shape, dtype=x.dtype)
    to_prototypes = unwritten(*prototypes.shape, dtype=x.dtype)
    workspace = unwritten(library.prototype_nce_workspace(*sizes) // 4 + 4)
    library.launch(
        *(f"prototype_nce_{suffix(x.dtype)}", x, prototypes, target, scales, scale, valid),
        *(loss, to_x, to_prototypes, to_scale, workspace, *sizes),
    )
    assert workspace[-4:].isnan().all()  # nothing is written behind the workspace
    return loss, to_x, to_prototypes, to_scale


def prototype_nce_in_float64(x, prototypes, target, scales, valid=None):
    x, prototypes, scales = (t.double().requires_grad_() for t in (x, prototypes, scales))
    logits = scales[:, None, None] * (x @ prototypes.mT)
    taking_part = target >= 0
    if valid is not None:
        logits = logits.masked_fill(~valid[:, None], MASKED)
        taking_part = taking_part & valid.gather(1, target.clamp(min=0))
    positive = logits.gather(-1, target.clamp(min=0)[..., None]).squeeze(-1)
    losses = (logits.logsumexp(-1) - positive) * taking_part
    loss = losses.sum(-1) / taking_part.sum(-1).clamp(min=1)
    return loss.detach(), *torch.autograd.grad(loss.sum(), (x, prototypes, scales))


SHAPES = [  # clients, rows, prototypes, width
    (1, 1, 1, 1),
    (2, 65, 3, 129),
    (3, 70, 67, 64),
    (1, 130, 1, 36),
    (2, 64, 130, 40),
    (1, 1300, 3, 8),
    (2, 33, 1000, 72),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 1e-2)], ids=str
)
def test_prototype_nce_is_its_formula(library, shape, masked, dtype, tolerance):
    clients, count, k, width = shape
    x = rows(clients, count, width, dtype=dtype)
    prototypes = rows(clients, k, width, seed=1, dtype=dtype)
    target, valid = integers(k, clients, count, seed=2), None
    if masked:
        target = torch.where(flags(0.3, clients, count, seed=3), -1, target)
        valid = flags(0.6, clients, k, seed=4)
    scales = torch.linspace(1, 20, clients, device=DEVICE)
    got = prototype_nce(library, x, prototypes, target, scales, valid)
    expected = prototype_nce_in_float64(x, prototypes, target, scales, valid)
    assert error(got[0], expected[0]) < 2e-6
    assert error(got[1], expected[1]) < tolerance
    assert error(got[2], expected[2]) < tolerance
    assert (got[3] - expected[3]).abs().max() < 2e-6
    again = prototype_nce(library, x, prototypes, target, scales, valid)
    assert all(torch.equal(a, b) for a, b in zip(got, again, strict=True))


def test_prototype_nce_of_no_rows_is_zero(library):
    results = prototype_nce(
        library, rows(2, 0, 8), rows(2, 5, 8), integers(5, 2, 0), torch.ones(2, device=DEVICE)
    )
    assert all(not result.any() for result in results)


def test_what_takes_no_part_in_prototype_nce_may_hold_anything(library):
    x, prototypes = rows(2, 70, 24), rows(2, 67, 24, seed=1)
    target, valid = integers(67, 2, 70, seed=2), flags(0.7, 2, 67, seed=3)
    out = flags(0.4, 2, 70, seed=4)
    target = torch.where(out, 67 * integers(2, 2, 70, seed=5) - 1, target)  # -1, or beyond the last
    scales = torch.tensor([3.0, 9.0], device=DEVICE)
    expected = prototype_nce(library, x, prototypes, target, scales, valid)
    taking_part = (target >= 0) & (target < 67) & valid.gather(1, target.clamp(0, 66))
    x = torch.where(taking_part[..., None], x, torch.nan)
    prototypes = torch.where(valid[..., None], prototypes, torch.nan)
    got = prototype_nce(library, x, prototypes, target, scales, valid)
    assert all(torch.equal(a, b) and a.isfinite().all() for a, b in zip(got, expected, strict=True))


def test_prototype_nce_leaves_out_what_is_not_wanted(library):
    x, prototypes, target = rows(1, 70, 24), rows(1, 9, 24, seed=1), integers(9, 1, 70)
    expected = prototype_nce(library, x, prototypes, target, None, scale=5.0)
    loss = unwritten(1)
    workspace = unwritten(library.prototype_nce_workspace(1, 70, 9, 24) // 4)
    library.launch(
        *("prototype_nce_f32", x, prototypes, target, None, 5.0, None, loss),
        *(None, None, None, workspace, 1, 70, 9, 24),
    )
    assert torch.equal(loss, expected[0])


# ---- js_assign and js_filter --------------------------------------------------------------------


def js_filter(library, x, y, px, py, scale, valid=None):
    clients, k, width = px.shape
    count = len(x)
    divergence = unwritten(count)
    client, assignment = (unwritten(count, dtype=torch.int64) for _ in range(2))
    library.launch(
        *("js_filter_f32", x, y, px, py, scale, valid),
        *(divergence, client, assignment, count, clients, k, width),
    )
    return divergence, client, assignment


def js_filter_in_float64(x, y, px, py, scale, valid=None):
    """Divergences and scores of all clients: [N, C] and [N, C, K]."""
    u, v = (scale * (a.double() @ p.double().mT) for a, p in ((x, px), (y, py)))  # [C, N, K]
    if valid is not None:
        u, v = (t.masked_fill(~valid[:, None], -torch.inf) for t in (u, v))
    divergence = js_divergence(u.softmax(-1), v.softmax(-1))
    return divergence.mT, (u + v).transpose(0, 1)


@pytest.mark.parametrize(
    ("count", "clients", "k", "width"),
    [(1, 1, 1, 1), (65, 1, 10, 129), (70, 3, 64, 32), (33, 2, 65, 36), (20, 2, 1000, 17)],
)
@pytest.mark.parametrize("masked", [False, True])
def test_js_filter_is_its_formula(library, count, clients, k, width, masked):
    x, y = rows(count, width), rows(count, width, seed=1)
    px, py = rows(clients, k, width, seed=2), rows(clients, k, width, seed=3)
    valid = flags(0.6, clients, k, seed=4) if masked and k > 1 else None
    divergence, client, assignment = js_filter(library, x, y, px, py, 12.0, valid)
    expected, score = js_filter_in_float64(x, y, px, py, 12.0, valid)
    own = expected.gather(1, client[:, None]).squeeze(1)
    assert (divergence - expected.amin(1)).abs().max() < 3e-6
    assert (own - expected.amin(1)).abs().max() < 3e-6
    best = score[torch.arange(count, device=DEVICE), client]
    assert (best.gather(1, assignment[:, None]).squeeze(1) - best.amax(1)).abs().max() < 1e-4
    again = js_filter(library, x, y, px, py, 12.0, valid)
    assert all(
        torch.equal(*pair) for pair in zip((divergence, client, assignment), again, strict=True)
    )


def test_js_assign_is_js_filter_with_one_client(library):
    x, y, px, py = (rows(n, 48, seed=n) for n in (70, 71, 90, 91))
    y, py = y[:70].contiguous(), py[:90].contiguous()
    valid = flags(0.5, 90)
    divergence, assignment = unwritten(70), unwritten(70, dtype=torch.int64)
    library.launch(
        *("js_assign_f32", x, y, px, py, 7.0, valid, divergence, assignment),
        *(70, 90, 48),
    )
    expected, client, chosen = js_filter(library, x, y, px[None], py[None], 7.0, valid[None])
    assert torch.equal(divergence, expected) and torch.equal(assignment, chosen)
    assert not client.any()


def test_js_filter_gives_ties_to_the_first(library):
    x, px = rows(70, 20), rows(1, 40, 20, seed=1)
    twice = torch.cat([px, px], 1)  # every prototype again, 40 later and in another tile
    divergence, client, assignment = js_filter(
        library, x, x, twice.repeat(3, 1, 1), twice.repeat(3, 1, 1), 5.0
    )
    assert not divergence.any() and not client.any()
    assert torch.equal(assignment, (x @ px[0].T).argmax(1))


def test_js_filter_passes_over_clients_without_prototypes(library):
    x, y, px, py = rows(5, 8), rows(5, 8, seed=1), rows(3, 6, 8, seed=2), rows(3, 6, 8, seed=3)
    valid = torch.zeros(3, 6, dtype=torch.bool, device=DEVICE)
    valid[1, 2:] = True
    divergence, client, _ = js_filter(library, x, y, px, py, 5.0, valid)
    assert (client == 1).all() and divergence.isfinite().all()
    assert js_filter(library, x, y, px, py, 5.0, valid & False)[0].isposinf().all()


# ---- js_nearest ---------------------------------------------------------------------------------


def distributions(*shape, sharpness, seed=0):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return (sharpness * values).softmax(-1).to(DEVICE)


def js_nearest(library, p, q):
    divergence, client = unwritten(len(p)), unwritten(len(p), dtype=torch.int64)
    library.launch("js_nearest_f32", p, q, divergence, client, len(p), len(q), p.shape[1])
    return divergence, client


@pytest.mark.parametrize(
    ("count", "clients", "k"),
    [(1, 1, 1), (70, 3, 10), (65, 64, 33), (130, 65, 100), (9, 200, 1000), (64, 130, 129)],
)
@pytest.mark.parametrize("sharpness", [0.01, 1.0, 6.0])  # nearly alike, to nearly disjoint
def test_js_nearest_is_the_exact_minimum(library, count, clients, k, sharpness):
    p = distributions(count, k, sharpness=sharpness)
    q = distributions(clients, k, sharpness=sharpness, seed=1)
    divergence, client = js_nearest(library, p, q)
    exact = js_divergence(p.double()[:, None], q.double()[None])
    least = exact.amin(1)
    assert ((divergence - least).abs() <= 2e-5 * least + 1e-9).all()
    own = exact.gather(1, client[:, None]).squeeze(1)
    assert (own <= least * (1 + 4e-5) + 1e-9).all()
    again = js_nearest(library, p, q)
    assert torch.equal(divergence, again[0]) and torch.equal(client, again[1])


@pytest.mark.parametrize("sharpness", [0.01, 2.0])
def test_js_nearest_skips_no_client_that_computes_less(library, sharpness):
    """Against the same kernel asked about one client at a time: the same bits."""
    p = distributions(70, 50, sharpness=sharpness)
    q = distributions(140, 50, sharpness=sharpness, seed=1)
    alone = torch.stack([js_nearest(library, p, one[None].contiguous())[0] for one in q], 1)
    divergence, client = js_nearest(library, p, q)
    assert torch.equal(divergence, alone.amin(1))
    ties = alone == divergence[:, None]
    assert torch.equal(client, ties.int().argmax(1))


def test_js_nearest_gives_ties_to_the_first(library):
    q = distributions(80, 30, sharpness=1.0)
    divergence, client = js_nearest(library, q, torch.cat([q, q]))
    assert not divergence.any()
    assert torch.equal(client, torch.arange(80, device=DEVICE))


def test_js_nearest_lets_nan_through(library):
    p, q = distributions(3, 10, sharpness=1.0), distributions(70, 10, sharpness=1.0, seed=1)
    p[1, 4] = torch.nan
    divergence, client = js_nearest(library, p, q)
    assert divergence.isnan().tolist() == [False, True, False] and client[1] == 0
    q[66, 2] = torch.nan
    divergence, client = js_nearest(library, p, q)
    assert divergence.isnan().all() and client.tolist() == [66, 0, 66]


# ---- gradient_penalty ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clients", "count", "width"), [(1, 1, 1), (3, 65, 129), (2, 300, 512), (4, 7, 40)]
)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 1e-2)], ids=str
)
def test_gradient_penalty_rows_are_their_formula(library, clients, count, width, dtype, tolerance):
    gradient = 1.7 * rows(clients, count, width)
    gradient[0, 0] = 0  # its norm is clamped
    gradient = gradient.to(dtype)
    sizes = (clients, count, width)

    def launch():
        norm, penalty = unwritten(clients, count), unwritten(clients)
        adjoint = unwritten(*sizes, dtype=dtype)
        library.launch(
            f"gradient_penalty_rows_{suffix(dtype)}", gradient, norm, penalty, adjoint, *sizes
        )
        return norm, penalty, adjoint

    norm, penalty, adjoint = launch()
    length = gradient.double().norm(dim=-1).clamp(min=1e-12)
    expected = 2 / count * (1 - 1 / length[..., None]) * gradient.double()
    assert error(norm, length) < 2e-6
    assert error(penalty, (length - 1).square().mean(-1)) < 2e-6
    assert error(adjoint, expected) < tolerance
    assert all(torch.equal(*pair) for pair in zip((norm, penalty, adjoint), launch(), strict=True))
    alone = unwritten(clients)
    library.launch(f"gradient_penalty_rows_{suffix(dtype)}", gradient, norm, alone, None, *sizes)
    assert torch.equal(alone, penalty)


@pytest.mark.parametrize("width", [1, 31, 32, 33, 40, 64, 129, 264, 512])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_mask_remembers_the_sign(library, width, dtype):
    clients, count, slope = 2, 9, 0.25
    z, bias = rows(clients, count, width, dtype=dtype), rows(clients, width, seed=1, dtype=dtype)
    z[0, 0] = -bias[0]  # a sum of zero is not positive
    words = (width + 31) // 32
    mask = unwritten(clients, count, words, dtype=torch.int32)
    a = unwritten(*z.shape, dtype=dtype)
    sizes = (clients, count, width)
    library.launch(f"leaky_relu_mask_{suffix(dtype)}", z, bias, slope, a, mask, *sizes)
    total = z.float() + bias[:, None].float()
    positive = total > 0
    assert torch.equal(a, torch.where(positive, total, slope * total).to(dtype))
    bits = (mask[..., None] >> torch.arange(32, device=DEVICE)) & 1
    bits = bits.flatten(-2)
    assert torch.equal(bits[..., :width].bool(), positive) and not bits[..., width:].any()

    x = rows(clients, count, width, seed=2, dtype=dtype)
    expected = torch.where(positive, x.float(), slope * x.float()).to(dtype)
    library.launch(
        f"mask_multiply_{suffix(dtype)}", x, mask, slope, x, clients * count, width
    )  # in place
    assert torch.equal(x, expected)


# ---- kmeans -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clients", "count", "k", "width"),
    [(1, 1, 1, 1), (3, 70, 10, 129), (2, 130, 65, 32), (2, 40, 1000, 20)],
)
@pytest.mark.parametrize("ragged", [False, True])
def test_kmeans_assigns_the_nearest_centroid(library, clients, count, k, width, ragged):
    x, centroids = rows(clients, count, width), rows(clients, k, width, seed=1)
    centroids[:, k // 2 + 1 :: 3] = torch.inf  # clusters that do not exist
    counts = torch.linspace(0, count, clients, device=DEVICE).long() if ragged else None
    sizes = (clients, count, k, width)

    def launch():
        assignment, distance = (
            unwritten(clients, count, dtype=torch.int64),
            unwritten(clients, count),
        )
        library.launch("kmeans_assign_f32", x, centroids, counts, assignment, distance, *sizes)
        return assignment, distance

    assignment, distance = launch()
    exact = (x.double()[:, :, None] - centroids.double()[:, None]).square().sum(-1)
    exists = torch.ones_like(assignment, dtype=torch.bool)
    if counts is not None:
        exists = torch.arange(count, device=DEVICE) < counts[:, None]
    own = exact.gather(-1, assignment.clamp(min=0)[..., None]).squeeze(-1)
    assert (((own - exact.amin(-1)) < 1e-6) | ~exists).all()
    assert ((distance - torch.where(exists, exact.amin(-1), 0)).abs() < 2e-6).all()
    assert ((assignment == -1) == ~exists).all()
    assert all(torch.equal(*pair) for pair in zip((assignment, distance), launch(), strict=True))


def test_kmeans_gives_ties_to_the_first(library):
    x = rows(1, 70, 20)
    centroids = torch.cat([x, x], 1)
    assignment, distance = unwritten(1, 70, dtype=torch.int64), unwritten(1, 70)
    library.launch("kmeans_assign_f32", x, centroids, None, assignment, distance, 1, 70, 140, 20)
    assert torch.equal(assignment[0], torch.arange(70, device=DEVICE))
    assert not distance.any()


@pytest.mark.parametrize(
    ("clients", "count", "k", "width"), [(1, 1, 1, 1), (3, 200, 7, 129), (2, 1000, 3, 64)]
)
@pytest.mark.parametrize("weighted", [False, True])
def test_kmeans_sums_rows_by_cluster(library, clients, count, k, width, weighted):
    x, assignment = rows(clients, count, width), integers(k + 1, clients, count, seed=1) - 1
    weight = rows(clients, count, seed=2).abs() if weighted else None
    cluster, order = assignment.sort(stable=True)
    clusters = torch.arange(k + 1, device=DEVICE).expand(clients, -1).contiguous()
    start = torch.searchsorted(cluster, clusters)

    def launch():
        sums, mass = unwritten(clients, k, width), unwritten(clients, k)
        library.launch(
            *("kmeans_update_f32", x, weight, order, start, sums, mass, clients, count, k, width)
        )
        return sums, mass

    sums, mass = launch()
    member = torch.nn.functional.one_hot(assignment + 1, k + 1)[..., 1:].double()
    if weight is not None:
        member = member * weight.double()[..., None]
    assert error(sums, member.mT @ x.double()) < 2e-6
    assert error(mass, member.sum(1)) < 2e-6
    assert all(torch.equal(*pair) for pair in zip((sums, mass), launch(), strict=True))


# ---- All of them --------------------------------------------------------------------------------


@pytest.mark.skipif(DEVICE != "cuda", reason="graphs are of a GPU")
def test_the_kernels_can_be_captured_in_a_graph(library):
    """Nothing allocates or waits."""
    x, prototypes, target = rows(2, 70, 24), rows(2, 9, 24, seed=1), integers(9, 2, 70)
    scales = torch.tensor([2.0, 5.0], device=DEVICE)
    expected = prototype_nce(library, x, prototypes, target, scales)
    sizes = (2, 70, 9, 24)
    results = unwritten(2), unwritten(2, 70, 24), unwritten(2, 9, 24), unwritten(2)
    workspace = unwritten(library.prototype_nce_workspace(*sizes) // 4)
    norm, penalty, adjoint = unwritten(2, 70), unwritten(2), unwritten(2, 70, 24)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        library.launch(
            *("prototype_nce_f32", x, prototypes, target, scales, 0.0, None, *results),
            *(workspace, *sizes),
        )
        library.launch("gradient_penalty_rows_f32", x, norm, penalty, adjoint, 2, 70, 24)
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(*pair) for pair in zip(results, expected, strict=True))
    assert error(norm, x.double().norm(dim=-1)) < 2e-6

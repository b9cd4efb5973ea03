"""The Triton kernels against their formulas in float64.

On a GPU with the tiles that the kernels choose; in Triton's interpreter (see
test_triton_interpreter.py) on the CPU with small tiles, so that every size has edges. The
interpreter has no bfloat16 products.
"""

import importlib
import os

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = [] if INTERPRETED else [pytest.mark.gpu]

DEVICE = "cpu" if INTERPRETED else "cuda"
PRECISION = "ieee" if INTERPRETED else "tf32x3"
DTYPES = [torch.float32, torch.float16] + ([] if INTERPRETED else [torch.bfloat16])
# Of an inner product of unit rows; tensor cores cut off what they add.
PRODUCT = 5e-7 if INTERPRETED else 1e-5
# Of gradients, whose factors G are held in that dtype.
ROUNDING = {torch.float32: 0.0, torch.float16: 6e-4, torch.bfloat16: 5e-3}


@pytest.fixture(scope="module")
def kernels():
    pytest.importorskip("triton")
    return {
        name: importlib.import_module(f"fedsyn.kernels.{name}.triton")
        for name in ("common", "info_nce", "prototype_nce", "js_divergence", "kmeans")
    }


@pytest.fixture
def tile(kernels):
    """Small tiles in the interpreter; None, which lets the kernel choose, on a GPU."""

    def make(m=16, n=16, d=16):
        return kernels["common"].Tile(m, n, d, warps=4, stages=1) if INTERPRETED else None

    return make


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def unit(g, *shape, dtype=torch.float32):
    rows = torch.nn.functional.normalize(torch.randn(*shape, generator=g), dim=-1)
    return rows.to(dtype).to(DEVICE)


def error(actual, expected, natural):
    """Frobenius distance relative to the gradient, or to one of its terms where those cancel."""
    assert actual.isfinite().all()
    return float((actual.double() - expected).norm() / (expected.norm() + natural.norm()))


def same_bits(first, second):
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True) if a is not None)


# ---- info_nce ---------------------------------------------------------------------------------


def info_nce_by_formula(x, y, scale, valid_x, valid_y, offset):
    """Rows, columns and the loss whose gradients the operator gives, in float64 with autograd."""
    s = scale[:, None, None] * (x @ y.mT)
    s = s.masked_fill(~(valid_x[:, :, None] & valid_y[:, None, :]), -torch.inf)
    rows, columns = s.logsumexp(-1), s.logsumexp(-2)
    pairs = s.diagonal(offset, -2, -1)
    pairs = torch.where(pairs.isfinite(), pairs, 0).sum(-1)
    total = torch.where(valid_x, rows, 0).sum(-1) + torch.where(valid_y, columns, 0).sum(-1)
    return rows, columns, (total / 2 - pairs) / valid_x.sum(-1).clamp(min=1)


def check_info_nce(kernels, x, y, scale, valid_x, valid_y, offset, tile, **chunks):
    grad = torch.linspace(1, 2, x.shape[0], device=DEVICE)
    exact = [t.double().requires_grad_() for t in (x, y, scale)]
    all_x = torch.ones(x.shape[:2], dtype=torch.bool, device=DEVICE)
    all_y = torch.ones(y.shape[:2], dtype=torch.bool, device=DEVICE)
    expected_rows, expected_columns, loss = info_nce_by_formula(
        *exact,
        all_x if valid_x is None else valid_x,
        all_y if valid_y is None else valid_y,
        offset,
    )
    expected = torch.autograd.grad((loss * grad).sum(), exact)

    module = kernels["info_nce"]
    options = {"tile": tile, "precision": PRECISION}
    rows, columns = module.lse(x, y, scale, valid_x, valid_y, **options)
    tolerance = PRODUCT * float(scale.max()) + 2e-6
    assert torch.allclose(rows.double(), expected_rows, rtol=0, atol=tolerance)
    assert torch.allclose(columns.double(), expected_columns, rtol=0, atol=tolerance)

    arguments = (grad, x, y, scale, valid_x, valid_y, rows, columns, offset)
    actual = module.gradients(*arguments, **options, **chunks)
    assert [a.dtype for a in actual] == [x.dtype, y.dtype, torch.float32]
    pair = (grad * scale / x.shape[1])[:, None, None]
    for a, e, natural in zip(actual, expected, (pair * y, pair * x, grad), strict=True):
        assert error(a, e, natural) < tolerance + ROUNDING[x.dtype]
    same_bits((rows, columns), module.lse(x, y, scale, valid_x, valid_y, **options))
    same_bits(actual, module.gradients(*arguments, **options, **chunks))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", [14.0, 100.0])
@pytest.mark.parametrize(
    ("clients", "size", "depth"),
    [(2, 37, 24), (1, 1, 8), (3, 33, 13)]
    if INTERPRETED
    else [(100, 64, 128), (1, 1, 8), (3, 1000, 77), (1, 4000, 256), (1, 3000, 512)],
)
def test_info_nce(kernels, tile, dtype, scale, clients, size, depth):
    g = generator()
    x = unit(g, clients, size, depth, dtype=dtype)
    y = torch.nn.functional.normalize(x.float() + 0.7 * unit(g, clients, size, depth), dim=-1)
    scales = torch.linspace(scale, 0.9 * scale, clients, device=DEVICE)
    check_info_nce(kernels, x, y.to(dtype), scales, None, None, 0, tile(16, 32))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_info_nce_of_ragged_clients(kernels, tile, dtype):
    g = generator(1)
    clients, size, depth = (3, 21, 16) if INTERPRETED else (20, 333, 64)
    x, y = (unit(g, clients, size, depth, dtype=dtype) for _ in range(2))
    valid = (torch.rand(clients, size, generator=g) < 0.7).to(DEVICE)
    valid[1] = False
    check_info_nce(
        kernels, x, y, torch.full((clients,), 14.0, device=DEVICE), valid, valid, 0, tile()
    )


def test_info_nce_of_a_shard_of_rows(kernels, tile):
    """Row i's partner is column i + offset, and there are more columns than rows."""
    g = generator(2)
    m, n, depth, offset = (19, 50, 16, 20) if INTERPRETED else (1000, 4000, 64, 2000)
    x, y = unit(g, 1, m, depth), unit(g, 1, n, depth)
    valid_x = (torch.rand(1, m, generator=g) < 0.8).to(DEVICE)
    valid_y = (torch.rand(1, n, generator=g) < 0.8).to(DEVICE)
    valid_y[:, offset : offset + m] = valid_x
    check_info_nce(
        kernels, x, y, torch.tensor([14.0], device=DEVICE), valid_x, valid_y, offset, tile()
    )


@pytest.mark.parametrize("clients", [1, 3])
def test_info_nce_in_chunks(kernels, tile, clients):
    """A workspace smaller than G: of few rows, or of two clients of three."""
    g = generator(3)
    size, depth = (37, 12) if INTERPRETED else (700, 100)
    x, y = unit(g, clients, size, depth), unit(g, clients, size, depth)
    scale = torch.full((clients,), 20.0, device=DEVICE)
    valid = (torch.rand(clients, size, generator=g) < 0.8).to(DEVICE)
    chunks = {"workspace": size * (16 if clients == 1 else 2 * size), "least_rows": 16}
    check_info_nce(kernels, x, y, scale, valid, valid, 0, tile(), **chunks)


@pytest.mark.parametrize("side", ["row", "column"])
def test_info_nce_where_one_exponential_does_not_serve_both(kernels, tile, side):
    """A row or a column all of whose terms underflow beside the tile's maximum."""
    g = generator(4)
    common = unit(g, 1, 1, 16)
    x, y = (
        torch.nn.functional.normalize(common + 0.1 * unit(g, 1, 20, 16), dim=-1) for _ in range(2)
    )
    opposite = x if side == "row" else y
    opposite[:, 3] *= -1
    scale = torch.tensor([100.0], device=DEVICE)
    check_info_nce(kernels, x, y, scale, None, None, 0, tile(32, 32))


def test_info_nce_of_nothing(kernels):
    module = kernels["info_nce"]
    x, y = torch.zeros(2, 3, 8, device=DEVICE), torch.zeros(2, 0, 8, device=DEVICE)
    scale = torch.ones(2, device=DEVICE)
    rows, columns = module.lse(x, y, scale, None, None)
    assert rows.shape == (2, 3) and columns.shape == (2, 0)
    assert (rows == -torch.inf).all()
    to_x, to_y, to_scale = module.gradients(scale, x, y, scale, None, None, rows, columns, 0)
    assert not to_x.any() and to_y.shape == y.shape and not to_scale.any()


# ---- prototype_nce ----------------------------------------------------------------------------


def check_prototype_nce(kernels, x, prototypes, target, scale, valid, **options):
    exact = [t.double().requires_grad_() for t in (x, prototypes, scale)]
    s = exact[2][:, None, None] * (exact[0] @ exact[1].mT)
    s = s if valid is None else s.masked_fill(~valid[:, None], -torch.inf)
    losses = s.logsumexp(-1) - s.gather(-1, target.clamp(min=0)[..., None])[..., 0]
    counted = target >= 0
    loss = torch.where(counted, losses, 0).sum(-1) / counted.sum(-1).clamp(min=1)
    expected = torch.autograd.grad(loss.sum(), exact)

    run = kernels["prototype_nce"].loss_and_gradients
    options["precision"] = PRECISION
    actual, *gradients = run(x, prototypes, target, scale, valid, True, True, **options)
    tolerance = PRODUCT * float(scale.max()) + 2e-6
    assert torch.allclose(actual.double(), loss, rtol=0, atol=tolerance)
    assert [a.dtype for a in gradients] == [x.dtype, x.dtype, torch.float32]
    one = torch.ones_like(scale)
    pair = (scale / x.shape[1])[:, None, None]
    naturals = pair * x, pair * x, one
    for a, e, natural in zip(gradients, expected, naturals, strict=True):
        assert error(a, e, natural) < tolerance + ROUNDING[x.dtype]
    again = run(x, prototypes, target, scale, valid, True, True, **options)
    same_bits((actual, *gradients), again)
    alone = run(x, prototypes, target, scale, valid, False, False, **options)
    assert alone[1] is None and alone[2] is None
    same_bits((actual, gradients[2]), (alone[0], alone[3]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("clients", "size", "k", "depth", "scale", "n"),
    [
        (2, 37, 10, 24, 14.0, 16),
        (1, 1, 1, 8, 100.0, 16),
        (1, 17, 2, 13, 14.0, 16),
        (2, 20, 300, 20, 100.0, 128),
        (1, 20, 1000, 16, 14.0, 256),
        (1, 150, 30, 20, 14.0, 32),
    ]
    if INTERPRETED
    else [
        (100, 64, 10, 128, 14.0, 0),
        (1, 1, 1, 8, 100.0, 0),
        (1, 170, 2, 13, 14.0, 0),
        (3, 2000, 300, 77, 100.0, 0),
        (2, 3000, 1000, 128, 14.0, 0),
        (50, 2000, 100, 256, 14.0, 0),
        (2, 500, 200, 64, 14.0, 0),
        (20, 2000, 200, 64, 14.0, 0),
    ],
)
def test_prototype_nce(kernels, tile, dtype, clients, size, k, depth, scale, n):
    g = generator()
    x, prototypes = unit(g, clients, size, depth, dtype=dtype), unit(g, clients, k, depth)
    valid = torch.rand(clients, k, generator=g) < 0.8
    valid[:, 0] = True
    target = torch.multinomial(valid.float(), size, replacement=True, generator=g)
    target[torch.rand(clients, size, generator=g) < 0.2] = -1
    scales = torch.linspace(scale, 0.9 * scale, clients, device=DEVICE)
    arguments = x, prototypes.to(dtype), target.to(DEVICE), scales, valid.to(DEVICE)
    check_prototype_nce(kernels, *arguments, tile=tile(16, n))


@pytest.mark.parametrize("k", [20, 200])
def test_prototype_nce_in_chunks_and_of_an_ignored_client(kernels, tile, k):
    """More rows than the workspace holds of G, both with one tile and with several a row."""
    g = generator(1)
    clients, size, depth = (2, 140, 16) if INTERPRETED else (2, 9000, 64)
    x, prototypes = unit(g, clients, size, depth), unit(g, clients, k, depth)
    target = torch.randint(k, (clients, size), generator=g).to(DEVICE)
    target[1] = -1
    scale = torch.full((clients,), 14.0, device=DEVICE)
    options = {"tile": tile(16, 128 if k > 128 else 32), "workspace": 1}
    check_prototype_nce(kernels, x, prototypes, target, scale, None, **options)


# ---- js_divergence ----------------------------------------------------------------------------


def divergence_by_formula(p, q):
    p, q = p.double(), q.double()
    m = (p + q).clamp(min=1e-300)
    return 0.5 * (torch.xlogy(p, 2 * p / m) + torch.xlogy(q, 2 * q / m)).sum(-1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("n", "clients", "k", "depth", "scale", "tile_k"),
    [
        (37, 5, 10, 24, 14.0, 16),
        (21, 3, 40, 13, 14.0, 16),
        (1, 1, 1, 8, 100.0, 16),
        (18, 2, 2, 16, 14.0, 16),
        (20, 4, 300, 20, 100.0, 128),
        (16, 1, 1000, 16, 14.0, 256),
    ]
    if INTERPRETED
    else [
        (3700, 5, 10, 24, 14.0, 0),
        (2000, 30, 40, 77, 14.0, 0),
        (1, 1, 1, 8, 100.0, 0),
        (40000, 3, 2, 16, 14.0, 0),
        (2000, 4, 300, 128, 100.0, 0),
        (500, 5, 1000, 64, 14.0, 0),
    ],
)
def test_js_assign_and_filter(kernels, tile, dtype, n, clients, k, depth, scale, tile_k):
    g = generator()
    x = unit(g, n, depth, dtype=dtype)
    y = (0.8 * x.float() + 0.6 * unit(g, n, depth)).to(dtype)
    px, py = unit(g, clients, k, depth, dtype=dtype), unit(g, clients, k, depth, dtype=dtype)
    valid = (torch.rand(clients, k, generator=g) < 0.8).to(DEVICE)
    valid[:, 0] = True
    if clients > 2:  # a client that is another's twin
        px[2], py[2], valid[2] = px[1], py[1], valid[1]
    scales = torch.tensor([scale], device=DEVICE)
    a, b = (
        (scale * torch.einsum("nd,ckd->nck", t.double(), p.double())).masked_fill(
            ~valid, -torch.inf
        )
        for t, p in ((x, px), (y, py))
    )
    expected = divergence_by_formula(a.softmax(-1), b.softmax(-1))  # [n, clients]
    row = torch.arange(n, device=DEVICE)
    tolerance = 1e-6 + PRODUCT * scale

    options = {"tile": tile(16, tile_k), "precision": PRECISION}
    module = kernels["js_divergence"]
    found = module.filter(x, y, px, py, scales, valid, **options)
    divergence, client, assignment = found
    assert torch.allclose(divergence.double(), expected.amin(-1), rtol=0, atol=tolerance)
    assert (expected[row, client] <= expected.amin(-1) + 2 * tolerance).all()
    assert (client != 2).all()  # equal to client 1, or absent
    likely = (a + b)[row, client]
    assert (likely[row, assignment] >= likely.amax(-1) - 2 * tolerance).all()
    assert ((divergence >= 0) & (divergence.double() <= 0.6931471805599453)).all()
    same_bits(found, module.filter(x, y, px, py, scales, valid, **options))

    arguments = x, y, px[0], py[0], scales, valid[0]
    divergence, assignment = module.assign(*arguments, **options)
    assert torch.allclose(divergence.double(), expected[:, 0], rtol=0, atol=tolerance)
    likely = (a + b)[row, 0]
    assert (likely[row, assignment] >= likely.amax(-1) - 2 * tolerance).all()


def test_js_assign_takes_the_first_of_equal_prototypes(kernels, tile):
    g = generator(1)
    x, prototypes = (torch.randint(-2, 3, (n, 16), generator=g).float().to(DEVICE) for n in (20, 7))
    doubled = torch.cat([prototypes, prototypes, prototypes])
    scale = torch.tensor(1.0, device=DEVICE)
    for columns in (16, 32):
        _, assignment = kernels["js_divergence"].assign(
            *(x, x, doubled, doubled, scale, None), tile=tile(16, columns), precision=PRECISION
        )
        assert (assignment < 7).all()


def test_no_rows_have_no_divergences(kernels):
    module = kernels["js_divergence"]
    x, p = torch.zeros(0, 8, device=DEVICE), torch.zeros(3, 5, 8, device=DEVICE)
    scale = torch.ones(1, device=DEVICE)
    assert [len(t) for t in module.filter(x, x, p, p, scale, None)] == [0, 0, 0]
    assert [len(t) for t in module.assign(x, x, p[0], p[0], scale, None)] == [0, 0]
    assert [len(t) for t in module.nearest(x, p[0])] == [0, 0]


@pytest.mark.parametrize("concentration", [0.3, 1.0, 50.0], ids="concentration {}".format)
@pytest.mark.parametrize(
    ("n", "clients", "k"),
    [(12, 11, 10), (8, 7, 100), (3, 1, 1), (8, 17, 33)]
    if INTERPRETED
    else [(5000, 100, 10), (3000, 77, 100), (10, 1, 1), (1000, 1500, 33), (500, 20, 1000)],
)
def test_js_nearest_is_what_all_divergences_give(kernels, tile, n, clients, k, concentration):
    """Few to nearly all divergences lie within the bounds of each other."""
    g = generator()
    p, q = (
        torch.softmax(torch.randn(rows, k, generator=g) / concentration, -1).to(DEVICE)
        for rows in (n, clients)
    )
    q[0] = p[0]
    if clients > 2:
        q[-1] = q[1] = p[1]  # the lower of equals
        p[2], p[2, 0] = 0, 1
    module = kernels["js_divergence"]
    options = {"tile": tile(), "precision": PRECISION, "workspace": 64 * clients}
    divergence, client = module.nearest(p, q, **options)
    expected = divergence_by_formula(p[:, None], q[None])
    assert torch.allclose(divergence.double(), expected.amin(-1), rtol=1e-5, atol=5e-7)
    assert (expected.gather(1, client[:, None])[:, 0] <= expected.amin(-1) + 1e-6).all()
    if k > 1:
        assert client[0] == 0 and (clients <= 2 or client[1] == 1)

    # The same kernel with bounds that exclude nothing.
    all_divergence, all_client = torch.empty_like(divergence), torch.empty_like(client)
    nothing = torch.zeros(n, clients, device=DEVICE)
    module._nearest_row[(n,)](
        *(p, q, nothing, all_divergence, all_client, 0, clients, k),
        BLOCK_C=16,
        BLOCK_K=max(32, min(1 << (k - 1).bit_length(), 512)),
        num_warps=1,
        enable_fp_fusion=True,
    )
    same_bits((divergence, client), (all_divergence, all_client))


def test_tiny_divergences_keep_their_relative_accuracy(kernels, tile):
    g = generator(2)
    p = torch.softmax(torch.randn(10, 50, generator=g), -1)
    q = torch.nn.functional.normalize(p * (1 + 1e-3 * torch.randn(10, 50, generator=g)), 1, -1)
    for row in range(10):
        one = p[row : row + 1].to(DEVICE), q[row : row + 1].to(DEVICE)
        divergence, _ = kernels["js_divergence"].nearest(*one, tile=tile(), precision=PRECISION)
        expected = divergence_by_formula(*one)
        assert expected < 1e-6
        assert torch.allclose(divergence.double(), expected, rtol=1e-4, atol=0)


# ---- kmeans -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("clients", "n", "k", "depth"),
    [(2, 37, 5, 24), (1, 700, 2, 13), (1, 1, 1, 8), (1, 20, 20, 20), (1, 40, 2, 150)]
    if INTERPRETED
    else [(50, 1000, 10, 24), (2, 60000, 3, 130), (1, 1, 1, 8), (3, 2000, 1000, 77)],
)
def test_kmeans(kernels, tile, dtype, clients, n, k, depth):
    g = generator()
    x = torch.randn(clients, n, depth, generator=g).to(dtype).to(DEVICE)
    centroids = torch.randn(clients, k, depth, generator=g).to(dtype).to(DEVICE)
    rows = torch.linspace(n, n // 2, clients).long().to(DEVICE)
    exists = torch.arange(n, device=DEVICE) < rows[:, None]
    squares = torch.cdist(x.double(), centroids.double()).square()

    module = kernels["kmeans"]
    options = {"tile": tile(64, 16), "precision": PRECISION}
    found = module.assign(x, centroids, rows, **options)
    assignment, distances = found
    own = squares.gather(-1, assignment.clamp(min=0)[..., None])[..., 0]
    assert (assignment[~exists] == -1).all() and not distances[~exists].any()
    assert (assignment[exists] >= 0).all()
    assert (own <= squares.amin(-1) + PRODUCT * 2 * 10 * depth)[exists].all()
    assert torch.allclose(distances[exists].double(), own[exists], rtol=1e-5, atol=1e-5)
    same_bits(found, module.assign(x, centroids, rows, **options))
    everyone, _ = module.assign(x, centroids, None, **options)
    assert torch.equal(everyone[exists], assignment[exists]) and (everyone >= 0).all()

    weight = torch.rand(clients, n, generator=g).to(DEVICE)
    member = torch.nn.functional.one_hot(assignment.clamp(min=0), k).double() * exists[..., None]
    for w in (None, weight):
        weighted = member if w is None else member * w.double()[..., None]
        updated = module.update(x, everyone, k, w, rows)
        assert torch.allclose(updated[0].double(), weighted.mT @ x.double(), rtol=1e-5, atol=1e-3)
        assert torch.allclose(updated[1].double(), weighted.sum(1), rtol=1e-6, atol=0)
        same_bits(updated, module.update(x, assignment, k, w, None))


def test_kmeans_takes_the_first_of_equal_centroids(kernels, tile):
    g = generator(1)
    x, centroids = (
        torch.randint(-2, 3, (1, n, 16), generator=g).float().to(DEVICE) for n in (20, 9)
    )
    doubled = torch.cat([centroids, centroids, centroids], 1)
    assignment, _ = kernels["kmeans"].assign(x, doubled, None, tile=tile(), precision=PRECISION)
    assert (assignment < 9).all()


def test_kmeans_sums_do_not_depend_on_padding_or_company(kernels):
    g = generator(1)
    n = 13000  # more pieces of a cluster than are added at a time
    x = torch.randn(2, n, 8, generator=g).to(DEVICE)
    assignment = torch.randint(-1, 2, (2, n), generator=g).to(DEVICE)
    update = kernels["kmeans"].update
    alone = update(x[1:].contiguous(), assignment[1:].contiguous(), 2, None, None)
    for cluster in range(2):
        members = x[1, assignment[1] == cluster].double()
        assert torch.allclose(alone[0][0, cluster].double(), members.sum(0), rtol=0, atol=1e-3)
        assert alone[1][0, cluster] == len(members)
    same_bits(alone, [t[1:] for t in update(x, assignment, 2, None, None)])
    padded = torch.cat([x, x], 1), torch.cat([assignment, torch.full_like(assignment, -1)], 1)
    same_bits(alone, [t[1:] for t in update(*padded, 2, None, None)])


def test_no_rows_have_no_clusters(kernels):
    module = kernels["kmeans"]
    x, centroids = torch.zeros(2, 0, 8, device=DEVICE), torch.zeros(2, 3, 8, device=DEVICE)
    assignment, distances = module.assign(x, centroids, None)
    assert assignment.shape == distances.shape == (2, 0)
    sums, mass = module.update(x, assignment, 3, None, None)
    assert not sums.any() and not mass.any()


# ---- what only a GPU can show ------------------------------------------------------------------


@pytest.mark.skipif(INTERPRETED, reason="graphs need a GPU")
def test_launches_can_be_captured_in_a_cuda_graph(kernels):
    g = generator()
    x, y, p = unit(g, 4, 200, 64), unit(g, 4, 200, 64), unit(g, 4, 30, 64)
    scale = torch.full((4,), 14.0, device=DEVICE)
    valid = (torch.rand(4, 200, generator=g) < 0.8).to(DEVICE)
    target = torch.randint(30, (4, 200), generator=g).to(DEVICE)
    rows = torch.tensor([200, 100, 50, 1], device=DEVICE)
    q = torch.softmax(unit(g, 100, 30), -1)

    def everything():
        sums = kernels["info_nce"].lse(x, y, scale, valid, valid)
        gradients = kernels["info_nce"].gradients(scale, x, y, scale, valid, valid, *sums, 0)
        contrast = kernels["prototype_nce"].loss_and_gradients(
            *(x, p, target, scale, None, True, True)
        )
        filtered = kernels["js_divergence"].filter(x[0], y[0], p, p, scale[:1], None)
        nearest = kernels["js_divergence"].nearest(q, q[:10].contiguous())
        assignment, distances = kernels["kmeans"].assign(x, p, rows)
        sums_of_rows = kernels["kmeans"].update(x, assignment, 30, None, rows)
        return (*sums, *gradients, *contrast, *filtered, *nearest, distances, *sums_of_rows)

    expected = everything()  # compiles
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = everything()
    graph.replay()
    torch.cuda.synchronize()
    same_bits(expected, captured)

"""Batched k-means: what it finds, and that a client's clusters are its own affair."""

import math
import sys

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from fedsyn import ops, streams
from fedsyn.ops import backend, backends
from fedsyn.ops.backends import native

operator = torch.ops.fedsyn.kmeans.default

needs_native = pytest.mark.skipif(native() is None, reason="the compiled module is absent")
isas = native().cpu_isas() if native() is not None else ()
cpu_backends = [name for name in ("reference", "cpu") if name in backends()]
on_each_backend = pytest.mark.parametrize("name", cpu_backends)


def generators(count, seed=0):
    return [streams.generator(seed, "test", 0, client) for client in range(count)]


def blobs(seed=0, per=20):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    return (centres[:, None] + torch.randn(3, per, 2, generator=generator)).flatten(0, 1)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inertia(x, centroids, owner):
    nearest = centroids.double().gather(1, owner[..., None].expand(-1, -1, x.shape[2]))
    return (x.double() - nearest).square().sum((1, 2))


def run_native(
    x, draws, valid=None, weight=None, spherical=False, iterations=25, isa="", threads=1
):
    clients, rows, width = x.shape
    k, trials = draws.shape[1:]
    found = (
        torch.empty(clients, k, width),
        torch.empty(clients, rows, dtype=torch.int64),
        torch.empty(clients, k, dtype=torch.int64),
    )
    native().kmeans_cpu_float32(
        *(t.data_ptr() for t in (x, draws)),
        *(0 if t is None else t.data_ptr() for t in (valid, weight)),
        *(t.data_ptr() for t in found),
        *(clients, rows, width, k, trials, iterations, spherical, threads, isa),
    )
    return found


# ---- What it finds ------------------------------------------------------------------------------


@on_each_backend
def test_finds_separated_blobs(name):
    x = blobs()
    with backend(name):
        _, owner, counts = ops.kmeans(x[None], 3, generators(1))
    assert sorted(counts[0].tolist()) == [20, 20, 20]
    assert all(owner[0, 20 * b : 20 * b + 20].unique().numel() == 1 for b in range(3))


@on_each_backend
def test_is_no_worse_than_scikit_learn(name):
    x = noise(200, 6, seed=1)
    with backend(name):
        found = []
        for seed in range(8):
            centroids, owner, _ = ops.kmeans(x[None], 7, generators(1, seed), iterations=100)
            found.append(inertia(x[None], centroids, owner).item())
    peer = [KMeans(7, n_init=1, random_state=s).fit(x.numpy()).inertia_ for s in range(8)]
    assert min(found) <= 1.02 * min(peer)


@on_each_backend
def test_rows_are_at_their_nearest_centroid_and_centroids_are_means(name):
    x = noise(2, 150, 5)
    with backend(name):
        centroids, owner, counts = ops.kmeans(x, 6, generators(2), iterations=1000)
    assert torch.equal(owner, torch.cdist(x.double(), centroids.double()).argmin(-1))
    for client in range(2):
        assert torch.equal(owner[client].bincount(minlength=6), counts[client])
        for cluster in range(6):
            mean = x[client, owner[client] == cluster].double().mean(0).float()
            torch.testing.assert_close(centroids[client, cluster], mean, rtol=1e-6, atol=1e-6)


@needs_native
@pytest.mark.parametrize("isa", isas)
@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_separated_data_gives_the_clusters_of_the_reference(isa, spherical, offset):
    centres = 4 * noise(5, 12, 19, seed=3)
    index = torch.randint(0, 12, (5, 130), generator=torch.Generator().manual_seed(4))
    x = centres.take_along_dim(index[..., None], 1) + 0.1 * noise(5, 130, 19, seed=5)
    x[..., :1] += offset
    weight = noise(5, 130, seed=6).exp().double()
    draws = streams.uniform(generators(5), 12, 4)
    got = run_native(x, draws, None, weight, spherical, isa=isa)
    with backend("reference"):
        expected = operator(x, draws, None, weight, spherical, 25)
    if offset and spherical:  # all rows point the same way, to what rounding leaves
        expected = expected[:1]
        assert (got[0] - expected[0]).abs().max() < 1e-2
        return
    for value, wanted in zip(got, expected, strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-6, atol=1e-6)


@needs_native
def test_random_data_gives_the_inertia_of_the_reference():
    x = noise(40, 200, 16)
    draws = streams.uniform(generators(40), 10, 4)
    found = {}
    for name in cpu_backends:
        with backend(name):
            centroids, owner, _ = operator(x, draws, None, None, False, 25)
        found[name] = inertia(x, centroids, owner)
    ratio = found["cpu"] / found["reference"]
    assert ratio.mean().item() == pytest.approx(1, abs=1e-4)


@needs_native
@pytest.mark.parametrize("isa", isas)
@pytest.mark.parametrize("width", [1, 3, 16, 33, 300])
def test_any_width_and_more_rows_than_a_task(isa, width):
    x = noise(1, 1500, width)
    draws = streams.uniform(generators(1), 9, 4)
    got = run_native(x, draws, isa=isa, iterations=3)
    with backend("reference"):
        expected = operator(x, draws, None, None, False, 3)
    torch.testing.assert_close(
        inertia(x, *got[:2]), inertia(x, *expected[:2]), rtol=1e-3, atol=1e-6
    )


# ---- Clients keep to themselves -----------------------------------------------------------------


@on_each_backend
@settings(deadline=None, max_examples=30)
@given(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=4), k=st.integers(1, 6))
@example([0, 0, 24, 14], 4)  # a tie between two seeds that rounding used to break
def test_ragged_clients_cluster_as_if_alone(name, sizes, k):
    width = max(1, *sizes) if len(sizes) > 1 else max(1, sizes[0])
    x = noise(len(sizes), width, 3, seed=2)
    valid = torch.arange(width) < torch.tensor(sizes)[:, None]
    with backend(name):
        centroids, owner, counts = ops.kmeans(x, k, generators(len(sizes)), valid=valid)
        for client, size in enumerate(sizes):
            assert counts[client].sum() == size
            assert (owner[client, size:] == -1).all()
            if size:
                alone = ops.kmeans(x[client : client + 1, :size], k, [generators(4)[client]])
                torch.testing.assert_close(alone[0][0], centroids[client])
                assert torch.equal(alone[1][0], owner[client, :size])


@needs_native
@pytest.mark.parametrize("spherical", [False, True])
def test_neither_threads_nor_stack_nor_padding_change_a_bit(spherical):
    x = noise(3, 6000, 35)
    weight = noise(3, 6000, seed=1).exp().double()
    valid = noise(3, 6000, seed=2) > -1
    draws = streams.uniform(generators(3), 50, 5)
    one = run_native(x, draws, valid, weight, spherical, 4)
    for threads in (1, 2, 3, 7):  # clients to threads, and rows to threads
        again = run_native(x, draws, valid, weight, spherical, 4, threads=threads)
        assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    x[~valid] = math.nan
    for client in range(3):
        kept = valid[client]
        alone = run_native(
            *(x[client, kept][None], draws[client][None], None, weight[client, kept][None]),
            *(spherical, 4),
        )
        assert torch.equal(alone[0][0], one[0][client])
        assert torch.equal(alone[1][0], one[1][client, kept])
        assert torch.equal(alone[2][0], one[2][client])


@on_each_backend
def test_strides_change_nothing(name):
    x = noise(2, 40, 6)
    strided = x.transpose(1, 2).contiguous().transpose(1, 2)
    with backend(name):
        a, b = (ops.kmeans(t, 4, generators(2)) for t in (x, strided))
    assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


# ---- Few rows, weights, empty clusters ----------------------------------------------------------


@on_each_backend
@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("factor", [1.0, 1e-6, 1e6])
def test_fewer_distinct_rows_than_clusters_gives_fewer_clusters(name, spherical, factor):
    x = factor * torch.tensor([[1.0, 0.3, 0.1]] * 4 + [[0.2, 1.0, 0.7]] * 2)
    with backend(name):
        centroids, owner, counts = ops.kmeans(x[None], 5, generators(1), spherical=spherical)
    assert sorted(counts[0].tolist()) == [0, 0, 0, 2, 4]
    assert (centroids[0][counts[0] == 0] == 0).all()
    expected = torch.nn.functional.normalize(x, dim=-1) if spherical else x
    torch.testing.assert_close(centroids[0, owner[0]], expected)


@on_each_backend
def test_a_centroid_is_the_weighted_mean_of_its_rows(name):
    x = torch.tensor([[[0.0], [1.0]]])
    with backend(name):
        centroids, _, _ = ops.kmeans(x, 1, generators(1), weight=torch.tensor([[1.0, 3.0]]))
    assert centroids.item() == pytest.approx(0.75)


@on_each_backend
def test_spherical_centroids_are_unit_rows(name):
    with backend(name):
        centroids, _, _ = ops.kmeans(blobs()[None] + 1, 3, generators(1), spherical=True)
    torch.testing.assert_close(centroids.norm(dim=-1), torch.ones(1, 3))


@on_each_backend
def test_rows_without_mass_draw_no_seed_and_move_no_centroid(name):
    x = torch.tensor([[[0.0], [1.0], [10.0], [11.0]]])
    weight = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    with backend(name):
        centroids, owner, counts = ops.kmeans(x, 2, generators(1), weight=weight)
    assert sorted(centroids.flatten().tolist()) == [0.0, 1.0]
    assert owner[0, 2] == owner[0, 3] == owner[0, 1] and sorted(counts[0].tolist()) == [1, 3]


@needs_native
@pytest.mark.parametrize("seed", [3039, 8937, 9147, 18798])  # the rare ones in which one empties
def test_an_empty_cluster_is_seeded_again_as_in_the_reference(monkeypatch, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = int(torch.randint(12, 40, (1,), generator=generator))
    k = int(torch.randint(5, 12, (1,), generator=generator))
    x = torch.randint(0, 30, (1, rows, 1), generator=generator).float()
    weight = (3 * torch.rand(1, rows, generator=generator).double()).floor()
    draws = torch.rand(1, k, 1, generator=generator)
    emptied = []
    module = sys.modules["fedsyn.ops.kmeans"]
    reseed = module._reseed

    def spy(centroids, empty, points, own):
        emptied.append(bool(empty.any()))
        reseed(centroids, empty, points, own)

    monkeypatch.setattr(module, "_reseed", spy)
    with backend("reference"):
        expected = operator(x, draws, None, weight, False, 25)
    assert any(emptied)
    for value, wanted in zip(run_native(x, draws, None, weight), expected, strict=True):
        assert torch.equal(value, wanted)


@on_each_backend
def test_rows_without_mass_have_a_cluster_of_zero(name):
    with backend(name):
        centroids, owner, counts = ops.kmeans(
            noise(1, 4, 3), 2, generators(1), weight=torch.zeros(1, 4)
        )
    assert (centroids == 0).all() and (owner == 0).all() and counts.tolist() == [[4, 0]]


@on_each_backend
@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3)])
def test_no_clients_and_no_rows(name, shape):
    with backend(name):
        centroids, owner, counts = ops.kmeans(torch.zeros(shape), 4, generators(shape[0]))
    assert centroids.shape == (shape[0], 4, 3) and (centroids == 0).all()
    assert owner.shape == shape[:2]
    assert counts.shape == (shape[0], 4) and (counts == 0).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_are_computed_in_float64(dtype):
    x = blobs()[None].to(dtype)
    centroids, owner, _ = ops.kmeans(x, 3, generators(1))
    expected = ops.kmeans(x.double(), 3, generators(1))
    assert centroids.dtype == dtype
    assert torch.equal(owner, expected[1]) and torch.equal(centroids, expected[0].to(dtype))


# ---- The operator as torch sees it --------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck(dtype):
    x, draws = noise(2, 20, 3).to(dtype), streams.uniform(generators(2), 4, 3)
    valid, weight = torch.arange(20).expand(2, 20) < 15, torch.ones(2, 20, dtype=torch.float64)
    torch.library.opcheck(operator, (x, draws, None, None, False, 5))
    torch.library.opcheck(operator, (x, draws, valid, weight, True, 5))


def test_compiles_as_one_graph():
    x, draws = noise(2, 20, 3), streams.uniform(generators(2), 4, 3)

    def cluster(rows):
        return operator(2 * rows, draws, None, None, False, 5)[0] + 1

    got = torch.compile(cluster, fullgraph=True)(x)
    torch.testing.assert_close(got, cluster(x))


# ---- Refusals -----------------------------------------------------------------------------------


@on_each_backend
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(4, 2)}, ValueError, r"x \[C, N, D\] with D > 0, got \(4, 2\)"),
        ({"x": torch.zeros(1, 4, 0)}, ValueError, r"D > 0, got \(1, 4, 0\)"),
        ({"k": 0}, ValueError, "k >= 1 and 2 generators, got 0 and 2"),
        ({"generators": generators(1)}, ValueError, "2 generators, got 3 and 1"),
        ({"iterations": 0}, ValueError, "iterations >= 1, got 0"),
        ({"valid": torch.ones(2, 5).bool()}, ValueError, r"valid \(2, 4\), got \(2, 5\)"),
        ({"valid": torch.ones(2, 4)}, TypeError, "boolean valid, got torch.float32"),
        ({"weight": torch.ones(2, 5)}, ValueError, r"weight \(2, 4\), got \(2, 5\)"),
        ({"weight": torch.full((2, 4), -1.0)}, ValueError, "weights that are not negative"),
        ({"weight": torch.full((2, 4), math.nan)}, ValueError, "finite weights"),
        ({"x": torch.zeros(2, 4, 2).long()}, TypeError, "floating tensor x, got torch.int64"),
        ({"x": [[0.0]]}, TypeError, "floating tensor x, got list"),
    ],
)
def test_refuses_what_does_not_fit(name, change, error, message):
    arguments = {"x": torch.zeros(2, 4, 2), "k": 3, "generators": generators(2)} | change
    with backend(name), pytest.raises(error, match=message) as raised:
        ops.kmeans(**arguments)
    assert "\n" not in str(raised.value) and str(raised.value).startswith("kmeans: ")


@on_each_backend
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_refuses_rows_that_are_not_finite_but_for_padding(name, value):
    x = noise(3, 40, 5)
    x[1, 7, 2] = value
    with backend(name):
        with pytest.raises(ValueError, match="finite squares, not so for client 1"):
            ops.kmeans(x, 3, generators(3))
        valid = torch.ones(3, 40, dtype=torch.bool)
        valid[1, 7] = False
        assert ops.kmeans(x, 3, generators(3), valid=valid)[0].isfinite().all()


def test_the_raw_operator_refuses_what_would_read_beyond_memory():
    x, draws = torch.zeros(2, 4, 3), torch.zeros(2, 3, 3)
    for arguments in [
        (x, draws[:1], None, None, False, 5),
        (x, draws.double(), None, None, False, 5),
        (x, draws, torch.ones(2, 3).bool(), None, False, 5),
        (x, draws, None, torch.ones(2, 4), False, 5),
        (x, draws, None, None, False, 0),
    ]:
        with pytest.raises(ValueError, match="fedsyn::kmeans: expected"):
            operator(*arguments)


@needs_native
def test_the_native_module_refuses_before_it_touches_memory(check_refused):
    changes = [
        ({"clients": -1}, "clients is -1"),
        ({"rows": -1}, "rows is -1"),
        ({"rows": 2**31 - 1}, "rows and count are 2147483647 and 2"),
        ({"width": 0}, "width is 0"),
        ({"count": 0}, "count is 0"),
        ({"trials": 0}, "trials is 0"),
        ({"iterations": 0}, "iterations is 0"),
        ({"x": 0}, "null"),
        ({"draws": 0}, "null"),
        ({"threads": 0}, "threads is 0"),
        ({"isa": "mmx"}, "'mmx' is unknown"),
    ]
    arguments = {
        **{"x": 8, "draws": 8, "valid": 0, "weight": 0, "centroids": 8, "assignment": 8},
        **{"counts": 8, "clients": 1, "rows": 3, "width": 2, "count": 2, "trials": 1},
        **{"iterations": 1, "spherical": False},
    }
    check_refused(
        [("kmeans_cpu_float32", arguments | change, message) for change, message in changes]
    )


# ---- On a GPU -----------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["reference", "triton", "cuda"])
def test_gpu_gives_the_clusters_of_the_reference(name):
    centres = 4 * noise(5, 12, 32, seed=3)
    index = torch.randint(0, 12, (5, 130), generator=torch.Generator().manual_seed(4))
    x = centres.take_along_dim(index[..., None], 1) + 0.1 * noise(5, 130, 32, seed=5)
    valid = torch.arange(130).expand(5, 130) < torch.tensor([[130], [5], [100], [0], [77]])
    with backend("reference"):
        expected = ops.kmeans(x, 12, generators(5), valid=valid)
    with backend(name):
        got = ops.kmeans(x.cuda(), 12, generators(5), valid=valid.cuda())
        again = ops.kmeans(x.cuda(), 12, generators(5), valid=valid.cuda())
    for value, wanted, once_more in zip(got, expected, again, strict=True):
        torch.testing.assert_close(value.cpu(), wanted, rtol=1e-5, atol=1e-5)
        assert name == "reference" or torch.equal(value, once_more)

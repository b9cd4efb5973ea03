"""Rankings of a gallery: the best items, the rank of one, average precision; floats and codes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsyn.ops import average_precision, backend, backends, pack_bits, partner_rank, top_k
from fedsyn.ops.backends import native
from fedsyn.ops.ranking import average_precision_reference, top_k_reference

needs_native = pytest.mark.skipif(native() is None, reason="the compiled module is absent")
isas = native().cpu_isas() if native() is not None else ()
cpu_backends = [name for name in ("reference", "cpu") if name in backends()]
on_each_backend = pytest.mark.parametrize("name", cpu_backends)

draws = settings(deadline=None, max_examples=40)
seeds = st.integers(0, 2**32 - 1)
kinds = st.sampled_from(["ties", "normal", "broken", "equal", "outlier", "codes"])


def rows(kind, seed, queries, items, width):
    """Operands, and their similarities in float64 as the rankings see them."""
    draw = np.random.default_rng(seed)
    if kind == "codes":
        q, g = draw.random((queries, width)) < 0.5, draw.random((items, width)) < 0.5
        distance = (q[:, None] != g).sum(-1)
        return *(pack_bits(torch.from_numpy(bits)) for bits in (q, g)), -distance.astype(float)
    # Products of small integers are exact in any precision, and in any order.
    q, g = draw.integers(-3, 4, (queries, width)), draw.integers(-3, 4, (items, width))
    q, g = q.astype(np.float32), g.astype(np.float32)
    if kind == "normal":  # so are those of few digits
        q, g = (np.round(draw.normal(0, 40, x.shape)).astype(np.float32) for x in (q, g))
    if kind == "equal":
        g[:] = g[:1]
    if kind == "outlier":
        g[draw.integers(items)] = 3e4
    if kind == "broken":
        g[draw.random(items) < 0.2] = math.nan
        g[draw.random(items) < 0.1, 0] = math.inf
        q[draw.random(queries) < 0.2, -1] = -math.inf
    with np.errstate(invalid="ignore"):
        score = q.astype(float) @ g.astype(float).T
    return torch.from_numpy(q), torch.from_numpy(g), np.where(np.isfinite(score), score, -np.inf)


def classes(seed, queries, items, count):
    draw = np.random.default_rng(seed)
    return (torch.from_numpy(draw.integers(-1, count, size)) for size in (queries, items))


def sets(seed, queries, items, count):
    draw = np.random.default_rng(seed)
    return (torch.from_numpy(draw.random((size, count)) < 0.2) for size in (queries, items))


def relevance(query_label, gallery_label):
    if query_label.ndim == 2:
        return (query_label[:, None] & gallery_label).any(-1).numpy()
    return ((query_label[:, None] == gallery_label) & (query_label[:, None] >= 0)).numpy()


def order_of(score):
    return np.argsort(-score, axis=1, kind="stable")


def precisions(score, relevant, top):
    """Average precisions [Q, 3], rank by rank."""
    found = []
    for hits in np.take_along_axis(relevant, order_of(score), 1):
        ranks = np.flatnonzero(hits) + 1
        gains = [(i + 1) / rank for i, rank in enumerate(ranks)]
        at_top = sum(g for g, rank in zip(gains, ranks, strict=True) if rank <= top)
        counts = len(ranks), hits[:top].sum(), min(len(ranks), top)
        sums = sum(gains), at_top, at_top
        found.append([a / max(b, 1) for a, b in zip(sums, counts, strict=True)])
    return torch.tensor(found, dtype=torch.float64).reshape(len(score), 3)


def suffix(x):
    return "int64" if x.dtype == torch.int64 else "float32"


def run_top_k(q, g, k, threads=1, isa=""):
    score, index = torch.full((len(q), k), math.pi), torch.full((len(q), k), -7)
    where = [t.data_ptr() for t in (q, g, score, index)]
    call = getattr(native(), f"top_k_cpu_{suffix(q)}")
    call(*where, len(q), *g.shape, k, threads=threads, isa=isa)
    return score, index


def run_partner_rank(q, g, partner, tied_behind, threads=1, isa=""):
    rank = torch.full((len(q),), -7)
    where = [t.data_ptr() for t in (q, g, partner, rank)]
    call = getattr(native(), f"partner_rank_cpu_{suffix(q)}")
    call(*where, len(q), *g.shape, tied_behind, threads=threads, isa=isa)
    return rank


def run_average_precision(q, g, query_label, gallery_label, top, threads=1, isa=""):
    """With labels that are all there: what -1 means is the operator's affair."""
    precision = torch.full((len(q), 3), math.pi, dtype=torch.float64)
    many = query_label.ndim == 2
    ours, theirs = (
        (pack_bits(t) if many else t[:, None]).view(torch.int32)
        for t in (query_label, gallery_label)
    )
    theirs = theirs.T.contiguous()
    where = [t.data_ptr() for t in (q, g, ours, theirs, precision)]
    call = getattr(native(), f"average_precision_cpu_{suffix(q)}")
    call(*where, len(q), *g.shape, len(theirs), many, top, threads=threads, isa=isa)
    return precision


sizes = {
    "seed": seeds,
    "kind": kinds,
    "queries": st.integers(1, 30),
    "items": st.integers(1, 1200),
    "width": st.integers(1, 70),
}


# ---- Against brute force ------------------------------------------------------------------------


@on_each_backend
@draws
@given(**sizes, share=st.floats(0, 1))
def test_the_best_are_those_of_a_stable_sort(name, seed, kind, queries, items, width, share):
    q, g, expected = rows(kind, seed, queries, items, width)
    k = max(1, round(share * items))
    with backend(name):
        score, index = top_k(q, g, k)
    order = order_of(expected)[:, :k]
    assert np.array_equal(index.numpy(), order)
    assert np.array_equal(score.numpy(), np.take_along_axis(expected, order, 1))
    assert score.dtype == torch.float32 and index.dtype == torch.long


@on_each_backend
@draws
@given(**sizes, tied_behind=st.booleans())
def test_a_partner_ranks_where_a_stable_sort_puts_it(
    name, seed, kind, queries, items, width, tied_behind
):
    q, g, score = rows(kind, seed, queries, items, width)
    partner = np.random.default_rng(seed + 1).integers(0, items, queries)
    with backend(name):
        rank = partner_rank(q, g, torch.from_numpy(partner), tied_behind)
    own = score[np.arange(queries), partner][:, None]
    by_index = 1 + (order_of(score) == partner[:, None]).argmax(1)
    assert rank.tolist() == ((score >= own).sum(1) if tied_behind else by_index).tolist()


@on_each_backend
@draws
@given(**sizes, top=st.integers(1, 80), many=st.booleans(), count=st.integers(1, 70))
def test_average_precision_is_that_of_the_sorted_relevance(
    name, seed, kind, queries, items, width, top, many, count
):
    q, g, score = rows(kind, seed, queries, items, width)
    labels = tuple((sets if many else classes)(seed, queries, items, count))
    with backend(name):
        found = average_precision(q, g, *labels, top)
    torch.testing.assert_close(
        found, precisions(score, relevance(*labels), top), rtol=1e-12, atol=0
    )


@needs_native
@pytest.mark.parametrize("isa", isas)
@pytest.mark.parametrize("kind", ["ties", "normal", "broken", "equal", "outlier", "codes"])
@pytest.mark.parametrize(
    ("queries", "items", "width"), [(1, 1, 1), (13, 513, 300), (97, 3001, 33), (5, 40_001, 2)]
)
def test_every_instruction_set_agrees_with_brute_force(isa, kind, queries, items, width):
    q, g, score = rows(kind, items, queries, items, width)
    order = order_of(score)
    k = min(50, items)
    assert np.array_equal(run_top_k(q, g, k, isa=isa)[1].numpy(), order[:, :k])
    partner = torch.arange(queries) * 7 % items
    by_index = 1 + (order == partner.numpy()[:, None]).argmax(1)
    assert np.array_equal(run_partner_rank(q, g, partner, False, isa=isa).numpy(), by_index)
    for make, count in ((classes, 5), (sets, 40)):
        labels = [t.clamp(min=0) for t in make(1, queries, items, count)]
        labels = [t.bool() if make is sets else t for t in labels]
        found = run_average_precision(q, g, *labels, 50, isa=isa)
        expected = precisions(score, relevance(*labels), 50)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@on_each_backend
def test_scores_are_those_of_float64_within_rounding(name):
    q, g = torch.randn(2, 300, 100, generator=torch.Generator().manual_seed(0)).unbind()
    exact = (q.double() @ g.double().T).sort(1, descending=True).values[:, :20]
    with backend(name):
        torch.testing.assert_close(top_k(q, g, 20)[0].double(), exact, rtol=0, atol=2e-5)


@on_each_backend
def test_a_partner_ties_with_itself_whatever_the_rounding(name):
    q, g = torch.randn(2, 700, 301, generator=torch.Generator().manual_seed(1)).unbind()
    partner = torch.arange(700)
    with backend(name):
        rank = partner_rank(q, g.repeat(2, 1), partner + 700, tied_behind=True)
        first = partner_rank(q, g, partner, tied_behind=True)
        _, index = top_k(q, g, 700)
    assert torch.equal(rank, 2 * first)
    if name == "cpu":  # the library's products depend on how they are cut
        assert torch.equal(first, 1 + (index == partner[:, None]).int().argmax(1))


@on_each_backend
@pytest.mark.parametrize("bits", [1, 63, 64, 65, 200])
def test_codes_rank_as_their_signs_do_by_inner_products(name, bits):
    draw = torch.Generator().manual_seed(bits)
    q, g = (torch.rand(n, bits, generator=draw) < 0.5 for n in (40, 900))
    partner = torch.randint(900, (40,), generator=draw)
    labels = torch.arange(40) % 6, torch.arange(900) % 6
    codes = pack_bits(q), pack_bits(g)
    signs = [2 * x.float() - 1 for x in (q, g)]
    with backend(name):
        distance, index = top_k(*codes, 60)
        product, expected = top_k(*signs, 60)
        assert torch.equal(index, expected) and torch.equal(bits + 2 * distance, product)
        assert torch.equal(partner_rank(*codes, partner), partner_rank(*signs, partner))
        found, expected = (average_precision(*x, *labels) for x in (codes, signs))
    assert torch.equal(found, expected)


@on_each_backend
def test_crowded_and_overflowing_scores_keep_their_order(name):
    # Most of 20,000 scores lie in a sliver of their range, with ties; some overflow when summed.
    draw = np.random.default_rng(5)
    score = draw.integers(0, 3000, (2, 20_000)).astype(np.float32)
    score[0, :3], score[1, :2] = (1e30, 3e38, -3e38), (-3e38, 1e-45)
    labels = tuple(classes(5, 2, 20_000, 4))
    labels = labels[0].clamp(min=0), labels[1]
    with backend(name):
        found = torch.cat(
            [
                average_precision(torch.ones(1, 1), torch.from_numpy(row)[:, None], one, labels[1])
                for row, one in zip(score, labels[0][:, None], strict=True)
            ]
        )
    expected = precisions(score.astype(float), relevance(*labels), 50)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


# ---- What must not matter -----------------------------------------------------------------------


@needs_native
@pytest.mark.parametrize("isa", isas)
@pytest.mark.parametrize("kind", ["float", "codes"])
def test_neither_tiles_nor_threads_change_a_bit(isa, kind):
    draw = torch.Generator().manual_seed(3)
    q, g = (torch.randn(n, 80, generator=draw) for n in (211, 20_001))
    if kind == "codes":
        q, g = pack_bits(q > 0), pack_bits(g > 0)
    partner = torch.randint(len(g), (len(q),), generator=draw)
    labels = torch.arange(len(q)) % 9, torch.arange(len(g)) % 9
    some = slice(100, 113)
    label_of_some = labels[0][some].clone(), labels[1]

    def all_of(q, partner, labels, **how):
        score, index = run_top_k(q, g, 70, **how)
        rank = run_partner_rank(q, g, partner, True, **how)
        return score, index, rank, run_average_precision(q, g, *labels, 50, **how)

    found = all_of(q, partner, labels, isa=isa)
    for a, b in zip(found, all_of(q, partner, labels, threads=3, isa=isa), strict=True):
        assert torch.equal(a, b)
    alone = all_of(q[some].clone(), partner[some].clone(), label_of_some, isa=isa)
    for a, b in zip(found, alone, strict=True):
        assert torch.equal(a[some], b)


def test_references_work_in_chunks(monkeypatch):
    q, g, _ = rows("ties", 4, 23, 50, 3)
    labels = tuple(classes(4, 23, 50, 3))
    whole = *top_k_reference(q, g, 7), average_precision_reference(q, g, *labels, 5)
    monkeypatch.setattr("fedsyn.ops.chunks.CHUNK", {"cpu": 150})
    parts = *top_k_reference(q, g, 7), average_precision_reference(q, g, *labels, 5)
    for a, b in zip(whole, parts, strict=True):
        assert torch.equal(a, b)


@on_each_backend
def test_strided_operands_empty_queries_and_gradients(name):
    q, g, _ = rows("ties", 6, 20, 30, 8)
    labels = tuple(classes(6, 20, 30, 3))
    partner = torch.arange(20)
    with backend(name):
        expected = top_k(q, g, 5)[1], partner_rank(q, g, partner), average_precision(q, g, *labels)
        a, b = (t.mT.contiguous().mT.requires_grad_() for t in (q, g))
        found = top_k(a, b, 5)[1], partner_rank(a, b, partner), average_precision(a, b, *labels)
        none = top_k(q[:0], g, 5), partner_rank(q[:0], g, partner[:0])
        no_precision = average_precision(q[:0], g, labels[0][:0], labels[1])
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert not any(t.requires_grad for t in found)
    assert none[0][0].shape == none[0][1].shape == (0, 5) and none[1].shape == (0,)
    assert no_precision.shape == (0, 3)


def test_float64_takes_the_reference():
    q, g, score = rows("normal", 7, 9, 40, 5)
    found, _ = top_k(q.double(), g.double(), 4)
    assert found.dtype == torch.float64
    assert np.array_equal(found.numpy(), np.take_along_axis(score, order_of(score)[:, :4], 1))


@pytest.mark.parametrize("length", [1, 8, 63, 64, 65, 130])
def test_packed_bits_are_the_bits(length):
    bits = torch.rand(7, length, generator=torch.Generator().manual_seed(length)) < 0.5
    words = pack_bits(bits)
    assert words.shape == (7, -(-length // 64)) and words.dtype == torch.int64
    for row, packed in zip(bits.tolist(), words.tolist(), strict=True):
        number = sum((word % 2**64) << (64 * i) for i, word in enumerate(packed))
        assert number == sum(bit << i for i, bit in enumerate(row))
    assert pack_bits(bits[:0]).shape == (0, words.shape[1])


# ---- As operators -------------------------------------------------------------------------------


def samples(operator, codes=False):
    q, g, _ = rows("codes" if codes else "ties", 8, 6, 9, 5)
    arguments = {
        "top_k": (3,),
        "partner_rank": (torch.arange(6), True),
        "average_precision": (torch.arange(6) % 3, torch.arange(9) % 3, 4),
    }
    return q, g, *arguments[operator]


operators = {"top_k": top_k, "partner_rank": partner_rank, "average_precision": average_precision}


@on_each_backend
@pytest.mark.parametrize("codes", [False, True])
@pytest.mark.parametrize("operator", operators)
def test_operator_checks(name, codes, operator):
    with backend(name):
        torch.library.opcheck(getattr(torch.ops.fedsyn, operator).default, samples(operator, codes))


@pytest.mark.parametrize("operator", operators)
def test_compiles_as_one_graph(operator):
    operands = samples(operator)
    found = torch.compile(operators[operator], fullgraph=True)(*operands)
    torch.testing.assert_close(found, operators[operator](*operands), rtol=0, atol=0)


Q, G, NO = torch.zeros(4, 3), torch.zeros(5, 3), torch.zeros(4).long()


@pytest.mark.parametrize(
    ("operator", "operands", "error", "message"),
    [
        ("top_k", (Q, G[:, :2], 1), ValueError, r"\[G, D\].* got \(4, 3\) and \(5, 2\)"),
        ("top_k", (Q, G[:0], 1), ValueError, "nothing but Q zero"),
        ("top_k", (Q[:, :0], G[:, :0], 1), ValueError, "nothing but Q zero"),
        ("top_k", (Q[0], G, 1), ValueError, r"query \[Q, D\]"),
        ("top_k", (Q, G.double(), 1), TypeError, "got torch.float32 and torch.float64"),
        ("top_k", (Q.half(), G.half(), 1), TypeError, "float32, float64 or int64"),
        ("top_k", (Q, G.to("meta"), 1), ValueError, "got cpu and meta"),
        ("top_k", (Q, [1.0], 1), TypeError, "torch.float32 and list"),
        ("top_k", (Q, G, 0), ValueError, "k from 1 to the 5 items, got 0"),
        ("top_k", (Q, G, 6), ValueError, "k from 1 to the 5 items, got 6"),
        ("partner_rank", (Q, G, NO[:3]), ValueError, r"partner \(4,\) on cpu, got \(3,\)"),
        ("partner_rank", (Q, G, NO.int()), TypeError, "tensor of long, got torch.int32"),
        ("partner_rank", (Q, G, NO + 5), ValueError, "from 0 to 4, got 5 to 5"),
        ("partner_rank", (Q, G, NO - 1), ValueError, "from 0 to 4, got -1 to -1"),
        ("average_precision", (Q, G, NO, NO), ValueError, r"classes \(4,\) and \(5,\)"),
        ("average_precision", (Q, G, NO, G.bool()), TypeError, "torch.int64 and torch.bool"),
        ("average_precision", (Q, G, Q, G), TypeError, "long or of bool, got torch.float32"),
        ("average_precision", (Q, G, Q.bool(), G.bool()[:, :2]), ValueError, r"\(5, L\) of bool"),
        ("average_precision", (Q, G, Q.bool()[:, :0], G.bool()[:, :0]), ValueError, r"\(5, L\)"),
        ("average_precision", (Q, G, NO, G[:, 0].long(), 0), ValueError, "top >= 1, got 0"),
    ],
)
def test_wrong_arguments_are_refused_with_one_sentence(operator, operands, error, message):
    with pytest.raises(error, match=message) as raised:
        operators[operator](*operands)
    assert str(raised.value).startswith(f"{operator}: ") and "\n" not in str(raised.value)


def test_only_bits_are_packed():
    with pytest.raises(TypeError, match=r"pack_bits: expected a tensor of bool, got torch.float32"):
        pack_bits(Q)
    with pytest.raises(ValueError, match=r"pack_bits: expected bits \[N, L\].* got \(4, 0\)"):
        pack_bits(Q.bool()[:, :0])


@needs_native
def test_the_native_module_refuses_before_it_touches_memory(check_refused):
    calls = [
        ((-1, 1, 1, 1), "queries is -1"),
        ((1, 0, 1, 1), "items is 0"),
        ((1, 2**31, 1, 1), "items is 2147483648"),
        ((1, 1, 0, 1), "width is 0"),
        ((1, 1, 1, 0), "k is 0"),
        ((1, 1, 1, 2), "items is 1, expected >= 2"),
        ((1, 1, 1, 1, 0), "threads is 0"),
        ((1, 1, 1, 1, 1, "mmx"), "'mmx' is unknown"),
    ]
    check_refused(
        [("top_k_cpu_float32", (8, 8, 8, 8, *sizes), message) for sizes, message in calls]
        + [("top_k_cpu_int64", (8, 0, 8, 8, 1, 1, 1, 1), "null")]
    )

"""Retrieval metrics: hand-computed rankings, a slow float64 oracle, and what must not matter."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from fedsyn.metrics.retrieval import (
    PairSet,
    evaluate,
    evaluate_between,
    evaluate_clients,
    mean_over_clients,
)
from fedsyn.ops import backend, backends

Array = NDArray[np.float64]
cpu_backends = [name for name in ("reference", "cpu") if name in backends()]
NAMES = ("map", "map50", "map50_min", "recall@1", "recall@5", "recall@10", "rsum", "median_rank")


def from_scores(*rows: list[float]) -> tuple[Tensor, Tensor]:
    """Embeddings whose image-to-text similarities are exactly the rows given."""
    scores = torch.tensor(rows)
    return scores, torch.eye(scores.shape[1])


def separate(query: Tensor, gallery: Tensor, query_label: Tensor, gallery_label: Tensor) -> dict:
    """Metrics of image and text queries alike against an image and text gallery alike."""
    return evaluate_between(
        PairSet(query, query, query_label), PairSet(gallery, gallery, gallery_label)
    )


# --- by hand ---------------------------------------------------------------------------------


def test_average_precision_of_a_known_ranking() -> None:
    # Relevant at ranks 1, 3 and 4 of 5: (1/1 + 2/3 + 3/4) / 3.
    query, gallery = from_scores([5.0, 4.0, 3.0, 2.0, 1.0])
    label = torch.tensor([0, 1, 0, 0, 2])
    metrics = separate(query, gallery, torch.tensor([0]), label)
    assert metrics["map_i2t"] == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert metrics["map"] == metrics["map50"] == metrics["map50_min"] == metrics["map_i2t"]


def test_a_query_without_relevant_items_contributes_zero_but_counts() -> None:
    query, gallery = from_scores([2.0, 1.0], [2.0, 1.0])
    metrics = separate(query, gallery, torch.tensor([0, 7]), torch.tensor([0, 1]))
    for name in ("map", "map50", "map50_min"):
        assert metrics[name] == pytest.approx(0.5)


def test_the_two_definitions_of_map50_differ_where_relevant_items_rank_below_50() -> None:
    # 60 items, 4 of them relevant: at ranks 1 and 50, and at 51 and 60 beyond the cut-off.
    query, gallery = from_scores([float(-rank) for rank in range(1, 61)])
    label = torch.ones(60, dtype=torch.long)
    label[[0, 49, 50, 59]] = 0
    metrics = separate(query, gallery, torch.tensor([0]), label)
    found = 1 / 1 + 2 / 50
    assert metrics["map50"] == pytest.approx(found / 2)
    assert metrics["map50_min"] == pytest.approx(found / 4)
    assert metrics["map"] == pytest.approx((found + 3 / 51 + 4 / 60) / 4)


def test_map50_min_is_normalised_by_50_where_more_are_relevant() -> None:
    # 100 relevant items, of which only the first 25 ranks and the last 75 of 150.
    query, gallery = from_scores([float(-rank) for rank in range(1, 151)])
    label = torch.ones(150, dtype=torch.long)
    label[:25] = 0
    label[75:] = 0
    metrics = separate(query, gallery, torch.tensor([0]), label)
    assert metrics["map50"] == pytest.approx(1.0)
    assert metrics["map50_min"] == pytest.approx(0.5)


def test_recall_and_median_rank_of_known_ranks() -> None:
    # Partners at ranks 1, 2 and 3 from images; from texts (columns) at 1, 2 and 1.
    image, text = from_scores([9.0, 1.0, 2.0], [8.0, 4.0, 3.0], [7.0, 6.0, 5.0])
    metrics = evaluate(image, text, None)
    assert metrics["recall@1_i2t"] == pytest.approx(1 / 3)
    assert metrics["recall@5_i2t"] == 1.0
    assert metrics["median_rank_i2t"] == 2.0
    assert metrics["recall@1_t2i"] == pytest.approx(2 / 3)
    assert metrics["median_rank_t2i"] == 1.0
    assert metrics["recall@1"] == pytest.approx(0.5)
    assert metrics["median_rank"] == 1.5
    assert metrics["rsum_i2t"] == pytest.approx(1 / 3 + 1 + 1)
    assert metrics["rsum"] == pytest.approx(metrics["rsum_i2t"] + 2 / 3 + 1 + 1)


def test_without_labels_the_partner_is_the_only_relevant_item() -> None:
    image, text = from_scores([9.0, 1.0, 2.0], [8.0, 4.0, 3.0], [7.0, 6.0, 5.0])
    metrics = evaluate(image, text, None)
    assert metrics["map_i2t"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert metrics == pytest.approx(evaluate(image, text, torch.arange(3)))


def test_partner_beyond_rank_50_scores_zero_in_map50() -> None:
    scores = torch.zeros(60, 60)
    scores[0] = torch.arange(60.0)  # partner of image 0 comes last
    scores[1:] = torch.eye(60)[1:]
    metrics = evaluate(scores, torch.eye(60), None)
    assert metrics["map_i2t"] == pytest.approx((59 + 1 / 60) / 60)
    assert metrics["map50_i2t"] == metrics["map50_min_i2t"] == pytest.approx(59 / 60)


# --- ties, unlabelled pairs, non-finite embeddings -----------------------------------------


def test_class_ties_rank_by_gallery_index() -> None:
    query, gallery = from_scores([1.0, 1.0, 1.0])
    for position, expected in ((0, 1.0), (1, 1 / 2), (2, 1 / 3)):
        label = torch.ones(3, dtype=torch.long)
        label[position] = 0
        metrics = separate(query, gallery, torch.tensor([0]), label)
        assert metrics["map"] == pytest.approx(expected)


def test_negative_zero_ties_with_zero() -> None:
    query = torch.tensor([[0.0, -1.0]])
    gallery = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    for labels in ([0, 1], [1, 0]):
        metrics = separate(query, gallery, torch.tensor([0]), torch.tensor(labels))
        assert metrics["map"] == pytest.approx(1.0 if labels[0] == 0 else 0.5)


def test_a_collapsed_model_has_the_worst_ranks_not_the_best() -> None:
    metrics = evaluate(torch.ones(20, 4), torch.ones(20, 4), None)
    assert metrics["recall@10"] == 0.0
    assert metrics["median_rank"] == 20.0


def test_among_equal_codes_the_partner_ranks_by_gallery_index() -> None:
    codes = torch.ones(20, 4)
    metrics = evaluate(codes, codes, None, bits=4)
    assert metrics["median_rank"] == 10.5
    assert metrics["recall@5"] == 5 / 20


@pytest.mark.parametrize("bits", [0, 3])
def test_not_a_number_is_never_a_success(bits: int) -> None:
    broken = torch.full((30, 3), float("nan"))
    metrics = evaluate(broken, broken, torch.arange(30), bits=bits)
    assert metrics["recall@1"] <= 1 / 30
    assert metrics["map"] < 0.2


def test_one_broken_item_leaves_the_others_in_order() -> None:
    image = torch.eye(4) - 2  # every similarity but the broken item's is negative
    text = torch.eye(4)
    text[2] = float("nan")
    metrics = evaluate(image, text, None)
    assert metrics["recall@1_i2t"] == 3 / 4
    assert metrics["map_i2t"] == pytest.approx((3 + 1 / 4) / 4)


@pytest.mark.parametrize("multi", [False, True])
def test_unlabelled_pairs_are_neither_queries_nor_gallery_of_map(multi: bool) -> None:
    image, text = _random_pairs(24, 8, seed=0)
    label = torch.arange(24) % 3
    label[5:12] = -1
    known = label >= 0
    table = torch.nn.functional.one_hot(label.clamp(min=0), 3).bool() & known[:, None]
    metrics = evaluate(image, text, table if multi else label)
    only = evaluate(image[known], text[known], label[known])
    unlabelled = evaluate(image, text, None)
    for name in ("map_i2t", "map50_t2i", "map50_min"):
        assert metrics[name] == pytest.approx(only[name])
    for name in ("recall@1", "recall@10_i2t", "median_rank_t2i"):
        assert metrics[name] == pytest.approx(unlabelled[name])


def test_map_is_not_a_number_where_no_pair_has_a_label() -> None:
    image, text = _random_pairs(6, 4, seed=0)
    metrics = evaluate(image, text, torch.full((6,), -1))
    assert math.isnan(metrics["map"]) and math.isnan(metrics["map50_min_t2i"])
    assert metrics["recall@10"] == 1.0


# --- against the oracle ------------------------------------------------------------------------


def oracle(scores: Array, relevant: NDArray[np.bool_]) -> dict[str, float]:
    """One direction, one query at a time, in float64; queries and gallery are the same pairs."""
    total = dict.fromkeys(NAMES, 0.0)
    ranks = []
    for index, (row, truth) in enumerate(zip(scores, relevant, strict=True)):
        hits = truth[np.argsort(-row, kind="stable")]
        precision = [hits[:r].sum() / r for r in range(1, len(hits) + 1)]
        gains = [p if hit else 0.0 for p, hit in zip(precision, hits, strict=True)]
        total["map"] += sum(gains) / max(hits.sum(), 1)
        total["map50"] += sum(gains[:50]) / max(hits[:50].sum(), 1)
        total["map50_min"] += sum(gains[:50]) / max(min(50, hits.sum()), 1)
        ranks.append(int((row >= row[index]).sum()))
    means = {name: value / len(scores) for name, value in total.items()}
    means |= {f"recall@{k}": float(np.mean(np.array(ranks) <= k)) for k in (1, 5, 10)}
    means["rsum"] = sum(means[f"recall@{k}"] for k in (1, 5, 10))
    return means | {"median_rank": float(np.median(ranks))}


def both_directions(scores: Array, relevant: NDArray[np.bool_]) -> dict[str, float]:
    i2t, t2i = oracle(scores, relevant), oracle(scores.T, relevant.T)
    means = {name: (i2t[name] + t2i[name]) / 2 for name in NAMES}
    means["rsum"] *= 2
    means |= {f"{name}_i2t": value for name, value in i2t.items()}
    return means | {f"{name}_t2i": value for name, value in t2i.items()}


def _random_pairs(count: int, dim: int, seed: int) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(seed)
    return torch.randn(2, count, dim, generator=stream).unbind()


@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(1, 80),
    dim=st.integers(1, 6),
    levels=st.integers(1, 4),
    classes=st.integers(1, 6),
    seed=st.integers(0, 2**16),
)
def test_agrees_with_the_oracle_ties_included(
    count: int, dim: int, levels: int, classes: int, seed: int
) -> None:
    # Small integers: similarities are exact in any precision, and many of them tie.
    draw = np.random.default_rng(seed)
    image = draw.integers(-levels, levels + 1, (count, dim))
    text = draw.integers(-levels, levels + 1, (count, dim))
    label = draw.integers(0, classes, count)
    expected = both_directions((image @ text.T).astype(float), label[:, None] == label)
    actual = evaluate(torch.tensor(image).float(), torch.tensor(text).float(), torch.tensor(label))
    assert actual == pytest.approx(expected, abs=1e-6)
    assert actual.keys() == expected.keys()


@settings(deadline=None, max_examples=30)
@given(count=st.integers(1, 70), classes=st.integers(1, 5), seed=st.integers(0, 2**16))
def test_agrees_with_the_oracle_on_multi_label_data(count: int, classes: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    image = draw.integers(-9, 10, (count, 5))
    text = draw.integers(-9, 10, (count, 5))
    label = draw.random((count, classes)) < 0.4
    label[:, 0] |= ~label.any(axis=1)
    relevant = (label[:, None] & label).any(axis=2)
    expected = both_directions((image @ text.T).astype(float), relevant)
    actual = evaluate(torch.tensor(image).float(), torch.tensor(text).float(), torch.tensor(label))
    assert actual == pytest.approx(expected, abs=1e-6)


@settings(deadline=None, max_examples=30)
@given(count=st.integers(1, 70), bits=st.integers(1, 16), seed=st.integers(0, 2**16))
def test_codes_rank_by_the_hamming_distance_of_their_signs(
    count: int, bits: int, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    image, text = draw.uniform(-1, 1, (2, count, bits))
    label = draw.integers(0, 3, count)
    distance = ((image[:, None] >= 0) != (text >= 0)).sum(axis=2)
    expected = both_directions(-distance.astype(float), label[:, None] == label)
    actual = evaluate(torch.tensor(image), torch.tensor(text), torch.tensor(label), bits=bits)
    for name in ("map", "map_i2t", "map50_t2i", "map50_min"):
        assert actual[name] == pytest.approx(expected[name], abs=1e-6)


def test_a_zero_counts_as_a_positive_sign() -> None:
    query, gallery = torch.tensor([[0.0, 0.5]]), torch.tensor([[-1.0, 1.0], [1.0, 1.0]])
    pairs = PairSet(query, query, torch.tensor([1]))
    metrics = evaluate_between(pairs, PairSet(gallery, gallery, torch.arange(2)), bits=2)
    assert metrics["map"] == 1.0


def test_partner_ranks_of_codes_are_those_of_a_stable_search() -> None:
    draw = np.random.default_rng(3)
    image, text = np.sign(draw.uniform(-1, 1, (2, 40, 5)))
    order = np.argsort(-(image @ text.T), axis=1, kind="stable")
    rank = 1 + np.argmax(order == np.arange(40)[:, None], axis=1)
    metrics = evaluate(torch.tensor(image), torch.tensor(text), None, bits=5)
    assert metrics["median_rank_i2t"] == np.median(rank)
    assert metrics["recall@5_i2t"] == pytest.approx(np.mean(rank <= 5))
    assert metrics["map_i2t"] == pytest.approx(np.mean(1 / rank))


# --- what must not matter, and what must come out -------------------------------------------------


@pytest.mark.parametrize("bits", [0, 6])
@pytest.mark.parametrize("labelled", [False, True])
def test_the_size_of_tiles_does_not_matter(
    monkeypatch: pytest.MonkeyPatch, bits: int, labelled: bool
) -> None:
    image, text = _random_pairs(61, 6, seed=5)
    image, text = image.round(), text.round()
    label = torch.arange(61) % 4 if labelled else None
    whole = evaluate(image, text, label, bits=bits)
    for elements in (1, 61 * 7, 61 * 60):
        monkeypatch.setattr("fedsyn.ops.chunks.CHUNK", {"cpu": elements})
        with backend("reference"):
            assert evaluate(image, text, label, bits=bits) == pytest.approx(whole, abs=1e-12)


def test_the_order_of_pairs_does_not_matter_without_ties() -> None:
    image, text = _random_pairs(90, 16, seed=1)
    label = torch.arange(90) % 7
    order = torch.randperm(90, generator=torch.Generator().manual_seed(0))
    shuffled = evaluate(image[order], text[order], label[order])
    assert shuffled == pytest.approx(evaluate(image, text, label), abs=1e-6)


def test_a_perfect_ranking_scores_one() -> None:
    label = torch.arange(40) // 4
    embedding = torch.nn.functional.one_hot(label).float()
    metrics = evaluate(embedding, embedding, label)
    assert metrics["map"] == metrics["map50"] == metrics["map50_min"] == pytest.approx(1.0)
    partners = evaluate(torch.eye(40), torch.eye(40), None)
    assert partners["map"] == partners["recall@1"] == partners["median_rank"] == 1.0


def test_the_worst_ranking_puts_every_partner_last() -> None:
    partners = evaluate(torch.eye(40), -torch.eye(40), None)
    assert partners["median_rank"] == 40.0
    assert partners["recall@10"] == 0.0
    assert partners["map"] == pytest.approx(1 / 40)


def test_random_labels_give_the_class_prior() -> None:
    image, text = _random_pairs(1500, 8, seed=2)
    label = torch.randint(0, 5, (1500,), generator=torch.Generator().manual_seed(0))
    assert evaluate(image, text, label)["map"] == pytest.approx(0.2, abs=0.01)


def test_inputs_are_left_as_they_are() -> None:
    image, text = _random_pairs(10, 4, seed=0)
    before = image.clone(), text.clone()
    evaluate(image, text, torch.arange(10) % 2)
    assert torch.equal(image, before[0]) and torch.equal(text, before[1])


# --- the first ranks only -------------------------------------------------------------------------


@pytest.mark.parametrize("name", cpu_backends)
@settings(deadline=None, max_examples=25)
@given(
    count=st.integers(1, 150),
    classes=st.integers(1, 60),
    kind=st.sampled_from(["classes", "sets", "none"]),
    bits=st.sampled_from([0, 5]),
    seed=st.integers(0, 2**16),
)
def test_a_depth_of_50_leaves_out_map_and_changes_no_other_key(
    name: str, count: int, classes: int, kind: str, bits: int, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    image, text = torch.from_numpy(draw.integers(-3, 4, (2, count, 5))).float()
    label = None
    if kind == "classes":
        label = torch.from_numpy(draw.integers(-1, classes, count))
    if kind == "sets":
        label = torch.from_numpy(draw.random((count, classes)) < draw.random(classes) ** 4)
    with backend(name):
        whole = evaluate(image, text, label, bits=bits)
        first = evaluate(image, text, label, bits=bits, depth=50)
    expected = {key: value for key, value in whole.items() if key.split("_")[0] != "map"}
    assert first == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert first.keys() == expected.keys()


def test_clients_and_separate_galleries_have_a_depth_too() -> None:
    image, text = _random_pairs(40, 8, seed=6)
    label = torch.arange(40) % 3
    whole = evaluate(image, text, label, depth=50)
    (client,) = evaluate_clients(image, text, label, [range(40)], depth=50)
    pairs = PairSet(image, text, label)
    assert client == evaluate_between(pairs, pairs, partner=torch.arange(40), depth=50) == whole
    assert "map" not in whole and whole["map50"] == evaluate(image, text, label)["map50"]


# --- separate galleries and clients ------------------------------------------------------------


def test_without_partners_there_are_no_identity_metrics() -> None:
    query, gallery = from_scores([2.0, 1.0])
    metrics = separate(query, gallery, torch.tensor([0]), torch.tensor([0, 1]))
    assert metrics.keys() == {
        f"{name}{suffix}"
        for name in ("map", "map50", "map50_min")
        for suffix in ("", "_i2t", "_t2i")
    }


def test_partners_name_the_gallery_row_of_each_query() -> None:
    gallery = torch.eye(5)
    partner = torch.tensor([3, 1])
    metrics = evaluate_between(
        PairSet(gallery[partner], gallery[partner]), PairSet(gallery, gallery), partner=partner
    )
    assert metrics["recall@1"] == 1.0


def test_each_client_ranks_only_its_own_pairs() -> None:
    image, text = _random_pairs(30, 8, seed=4)
    label = torch.arange(30) % 3
    rows = [np.arange(10), np.array([3]), np.array([], dtype=np.int64), list(range(12, 30))]
    first, single, empty, last = evaluate_clients(image, text, label, rows)
    assert single == empty == {}
    assert first == evaluate(image[:10], text[:10], label[:10])
    assert last == evaluate(image[12:], text[12:], label[12:])


def test_the_mean_over_clients_is_unweighted_and_skips_the_unknown() -> None:
    clients = [{"map": 0.2, "recall@1": 1.0}, {}, {"map": math.nan, "recall@1": 0.0}, {"map": 0.6}]
    assert mean_over_clients(clients) == {"map": pytest.approx(0.4), "recall@1": 0.5}
    assert mean_over_clients([{}, {}]) == {}
    assert math.isnan(mean_over_clients([{"map": math.nan}])["map"])


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "text", "label", "bits", "message"),
    [
        (torch.ones(0, 4), torch.ones(0, 4), None, 0, r"\(0, 4\); expected \[N, D\]"),
        (torch.ones(3, 4), torch.ones(2, 4), None, 0, r"\(3, 4\) and texts \(2, 4\)"),
        (torch.ones(3, 4), torch.ones(3, 4), torch.ones(2), 0, r"labels are \(2,\)"),
        (torch.ones(3, 4), torch.ones(3, 4), None, 8, "4 wide but bits = 8"),
    ],
)
def test_wrong_shapes_are_refused(
    image: Tensor, text: Tensor, label: Tensor | None, bits: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(image, text, label, bits=bits)


def test_something_must_say_what_is_relevant() -> None:
    pairs = PairSet(torch.eye(3), torch.eye(3))
    with pytest.raises(ValueError, match="partners are needed"):
        evaluate_between(pairs, pairs)
    with pytest.raises(ValueError, match="both have labels, or neither"):
        evaluate_between(pairs, pairs._replace(label=torch.arange(3)))
    with pytest.raises(ValueError, match="2 partners for 3 queries"):
        evaluate_between(pairs, pairs, partner=torch.arange(2))


def test_a_partner_outside_the_gallery_and_another_depth_are_refused() -> None:
    pairs = PairSet(torch.eye(3), torch.eye(3))
    with pytest.raises(ValueError, match="partners from 0 to 2, got 1 to 3"):
        evaluate_between(pairs, pairs, partner=torch.arange(1, 4))
    with pytest.raises(ValueError, match="depth is 10; expected None or 50"):
        evaluate(torch.eye(3), torch.eye(3), None, depth=10)

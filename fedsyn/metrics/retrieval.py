"""Exact cross-modal retrieval metrics: mean average precision, Recall@K and median rank.

Two notions of a right answer. *Class relevance*: the retrieved item shares a label with the query;
it defines the mAP keys. *Pair identity*: the retrieved item is the query's own partner; it defines
``recall@K``, ``rsum`` and ``median_rank``, and the mAP keys too where there are no labels at all.

Rankings are deterministic. Items of equal score are ranked by gallery index. The one exception is
the rank of a query's partner among continuous scores, which is counted behind every item that
ties with it: there, ties mean duplicates or a collapsed model, and neither may look like success.
Among hash codes ties are the rule, and the partner's rank is the one a search in gallery order
would give. Similarities that are not finite rank last.

The rankings are those of `fedsyn.ops.ranking`: exact, and never of the size of queries times items.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from fedsyn.ops.chunks import chunks
from fedsyn.ops.ranking import (
    average_precision,
    pack_bits,
    partner_rank,
    precision_of_hits,
    shares_label,
    top_k,
)

TOP = 50  # of map50: the cut-off of the federated hashing papers
RECALLS = (1, 5, 10)


class PairSet(NamedTuple):
    """Embedded pairs: row ``n`` of both modalities and of the label is one pair."""

    image: Tensor  # [N, D]
    text: Tensor  # [N, D]
    label: Tensor | None = None  # [N] long with -1 unlabelled, or [N, L] bool multi-label


def evaluate(
    image: Tensor,  # [N, D]
    text: Tensor,  # [N, D]
    label: Tensor | None,  # [N] or [N, L]
    *,
    bits: int = 0,
    depth: int | None = None,
) -> dict[str, float]:
    """Retrieval metrics of ``N`` test pairs that are queries and gallery at once.

    Parameters
    ----------
    image, text : Tensor of shape [N, D]
        Embeddings, compared by inner product (unit rows make it the cosine), or codes.
    label : Tensor of shape [N] or [N, L], or None
        Classes as integers with -1 for unlabelled, or a boolean multi-label matrix whose all-False
        rows are unlabelled. Unlabelled pairs cannot be judged by class: they are neither queries
        nor gallery of the mAP keys, but take part in the pair-identity keys.
    bits : int
        If positive, the embeddings are codes of so many bits, ranked by the Hamming distance of
        their signs (zero counts as positive).
    depth : int, optional
        50: look at the first 50 ranks only and leave ``map`` out, which takes most of the time
        where the gallery is large.

    Returns
    -------
    dict of str to float
        ``map``: mean average precision over the whole ranking; ``map50``: of the first 50 ranks,
        normalised by the number of relevant items *among them* (a query with none contributes 0);
        ``map50_min``: the same normalised by ``min(50, relevant items in the gallery)``;
        ``recall@1``, ``recall@5``, ``recall@10`` and ``median_rank`` (from 1) by pair identity;
        ``rsum``: the three recalls together.
        Each with suffix ``_i2t`` (image queries), ``_t2i`` (text queries) and, without suffix, the
        mean of both directions; of ``rsum`` their sum, as the field has it: from 0 to 6. The mAP
        keys are NaN where labels are given but no pair has one.

    Raises
    ------
    ValueError
        If there are no pairs, the shapes disagree, ``bits`` is not the embeddings' width, or
        ``depth`` is neither None nor 50.
    """
    pairs = PairSet(image, text, label)
    own = torch.arange(len(image), device=image.device)
    return evaluate_between(pairs, pairs, partner=own, bits=bits, depth=depth)


def evaluate_between(
    query: PairSet,
    gallery: PairSet,
    *,
    partner: Tensor | None = None,  # [Q] long
    bits: int = 0,
    depth: int | None = None,
) -> dict[str, float]:
    """Retrieval metrics of queries against a separate gallery; see `evaluate` for the keys.

    Parameters
    ----------
    query, gallery : PairSet
        ``Q`` and ``G`` embedded pairs; both or neither with labels.
    partner : Tensor of shape [Q], optional
        Gallery index of each query's own pair. Without it the pair-identity keys are left out, as
        in the protocol of the hashing papers, whose queries are not in the database.
    bits, depth
        As in `evaluate`.

    Raises
    ------
    ValueError
        As `evaluate`; also if neither labels nor partners say what is relevant, or a partner is not
        in the gallery.
    """
    _check(query, gallery, partner, bits, depth)
    directions = {
        "i2t": _direction(query.image, gallery.text, query, gallery, partner, bits, depth),
        "t2i": _direction(query.text, gallery.image, query, gallery, partner, bits, depth),
    }
    metrics = {
        f"{name}_{direction}": value
        for direction, values in directions.items()
        for name, value in values.items()
    }
    for name in directions["i2t"]:
        metrics[name] = (metrics[f"{name}_i2t"] + metrics[f"{name}_t2i"]) / 2
    if "rsum" in metrics:
        metrics["rsum"] *= 2
    return metrics


def evaluate_clients(
    image: Tensor,  # [N, D]
    text: Tensor,  # [N, D]
    label: Tensor | None,  # [N] or [N, L]
    rows: Sequence[ArrayLike | Tensor],
    *,
    bits: int = 0,
    depth: int | None = None,
) -> list[dict[str, float]]:
    """`evaluate` on each client's own test pairs, which rank only against each other.

    Parameters
    ----------
    rows : sequence of integer arrays
        Row numbers of each client's test pairs. A client with fewer than two has no ranking to
        judge and gets an empty dict.
    bits, depth
        As in `evaluate`.
    """
    results: list[dict[str, float]] = []
    for indices in rows:
        row = torch.as_tensor(indices, dtype=torch.long, device=image.device)
        if len(row) < 2:
            results.append({})
            continue
        part = label[row] if label is not None else None
        results.append(evaluate(image[row], text[row], part, bits=bits, depth=depth))
    return results


def mean_over_clients(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The unweighted mean of every key over the clients that have it as a number."""
    names = dict.fromkeys(name for client in metrics for name in client)
    means = {}
    for name in names:
        values = np.array([client[name] for client in metrics if name in client])
        known = values[~np.isnan(values)]
        means[name] = float(known.mean()) if len(known) else float("nan")
    return means


def _check(
    query: PairSet, gallery: PairSet, partner: Tensor | None, bits: int, depth: int | None
) -> None:
    shape = query.image.shape
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"image embeddings are {tuple(shape)}; expected [N, D], neither zero")
    for role, pairs in (("query", query), ("gallery", gallery)):
        if pairs.image.shape != pairs.text.shape or pairs.image.shape[1:] != shape[1:]:
            raise ValueError(
                f"{role} images are {tuple(pairs.image.shape)} and texts "
                f"{tuple(pairs.text.shape)}; expected two [N, {shape[1]}]"
            )
        if pairs.label is not None and (
            len(pairs.label) != len(pairs.image) or pairs.label.ndim not in (1, 2)
        ):
            raise ValueError(
                f"{role} labels are {tuple(pairs.label.shape)}; expected "
                f"[{len(pairs.image)}] or [{len(pairs.image)}, L]"
            )
    if not len(gallery.image):
        raise ValueError("the gallery is empty; expected at least one pair")
    if (query.label is None) != (gallery.label is None):
        raise ValueError("queries and gallery must both have labels, or neither")
    if partner is not None and len(partner) != len(query.image):
        raise ValueError(
            f"{len(partner)} partners for {len(query.image)} queries; expected one each"
        )
    if bits and bits != shape[1]:
        raise ValueError(f"codes are {shape[1]} wide but bits = {bits}; expected the same number")
    if depth not in (None, TOP):
        raise ValueError(f"depth is {depth}; expected None or {TOP}")


def _direction(
    query: Tensor,  # [Q, D] of one modality
    gallery: Tensor,  # [G, D] of the other
    queries: PairSet,
    items: PairSet,
    partner: Tensor | None,
    bits: int,
    depth: int | None,
) -> dict[str, float]:
    """All metrics of one direction, without suffix."""
    query, gallery = _comparable(query, bits), _comparable(gallery, bits)
    identity: dict[str, float] = {}
    if partner is not None:
        rank = partner_rank(query, gallery, partner.long().to(query.device), tied_behind=not bits)
        identity = {f"recall@{k}": (rank <= k).double().mean().item() for k in RECALLS}
        identity["rsum"] = sum(identity.values())
        identity["median_rank"] = rank.double().quantile(0.5).item()
        if queries.label is None or items.label is None:
            return _single_answer_map(rank, depth) | identity
    if queries.label is None or items.label is None:
        raise ValueError("without labels, partners are needed to know what is relevant")
    return _class_map(query, gallery, queries.label, items.label, depth) | identity


def _comparable(x: Tensor, bits: int) -> Tensor:
    """Rows that `fedsyn.ops.ranking` compares: floats, or packed signs."""
    return pack_bits(x >= 0) if bits else x.detach().float()


def _single_answer_map(rank: Tensor, depth: int | None) -> dict[str, float]:
    """The mAP keys where the partner is the only relevant item: precision at its rank."""
    precision = rank.double().reciprocal()
    at_top = torch.where(rank <= TOP, precision, 0.0).mean().item()
    whole = {} if depth else {"map": precision.mean().item()}
    return whole | {"map50": at_top, "map50_min": at_top}


def _class_map(
    query: Tensor,  # [Q, D]
    gallery: Tensor,  # [G, D]
    query_label: Tensor,
    gallery_label: Tensor,
    depth: int | None,
) -> dict[str, float]:
    """The mAP keys by shared label, over the labelled queries and items only."""
    names = ("map50", "map50_min") if depth else ("map", "map50", "map50_min")
    query, query_label = _labelled(query, query_label)
    gallery, gallery_label = _labelled(gallery, gallery_label)
    if not len(query) or not len(gallery):
        return dict.fromkeys(names, float("nan"))
    if depth:
        index = top_k(query, gallery, min(depth, len(gallery)))[1]
        precision = _precision_at_top(index, query_label, gallery_label)
    else:
        precision = average_precision(query, gallery, query_label, gallery_label, TOP)
    return dict(zip(names, precision.mean(0).tolist(), strict=True))


def _labelled(embedding: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """What can be judged by class: rows with a label, and their labels as long or bool."""
    known = label.any(dim=1) if label.ndim == 2 else label >= 0
    label = label.bool() if label.ndim == 2 else label.long()
    return (embedding, label) if bool(known.all()) else (embedding[known], label[known])


def _precision_at_top(
    index: Tensor,  # [Q, k] items of the first ranks
    query_label: Tensor,
    gallery_label: Tensor,
) -> Tensor:
    """Average precision of the first ranks, by relevant items found and attainable -> [Q, 2]."""
    queries, depth = index.shape
    hit = torch.empty(queries, depth, dtype=torch.float64, device=index.device)
    for rows in chunks(queries, depth * query_label[0].numel(), index.device.type):
        hit[rows] = shares_label(query_label[rows, None], gallery_label[index[rows]])
    gain, found = (total[:, -1] for total in precision_of_hits(hit))
    attainable = _relevant_items(query_label, gallery_label, TOP)
    return gain[:, None] / torch.stack([found, attainable], dim=1).clamp(min=1)


def _relevant_items(query_label: Tensor, gallery_label: Tensor, most: int) -> Tensor:
    """How many items are relevant to each query -> [Q] long, but no more than ``most``."""
    if query_label.ndim == 1:
        classes, counts = gallery_label.unique(return_counts=True)
        place = torch.searchsorted(classes, query_label).clamp(max=len(classes) - 1)
        return torch.where(classes[place] == query_label, counts[place], 0).clamp(max=most)
    rare = gallery_label.sum(0) < most
    # One frequent label is enough; only the few items of rare ones remain to be counted.
    few = (~(query_label & ~rare).any(1)).nonzero().flatten()
    items = gallery_label[gallery_label[:, rare].any(1)]
    count = torch.full((len(query_label),), most, device=query_label.device)
    for part in chunks(len(few), items.numel(), items.device.type):
        rows = few[part]
        count[rows] = shares_label(query_label[rows, None], items).sum(1).clamp(max=most)
    return count

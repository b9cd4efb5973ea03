"""Exact cross-modal retrieval metrics: mean average precision, Recall@K and median rank.

Two notions of a right answer. *Class relevance*: the retrieved item shares a label with the query;
it defines the mAP keys. *Pair identity*: the retrieved item is the query's own partner; it defines
``recall@K`` and ``median_rank``, and the mAP keys too where there are no labels at all.

Rankings are deterministic. Items of equal score are ranked by gallery index. The one exception is
the rank of a query's partner among continuous scores, which is counted behind every item that
ties with it: there, ties mean duplicates or a collapsed model, and neither may look like success.
Among hash codes ties are the rule, and the partner's rank is the one a search in gallery order
would give. Similarities that are not finite rank last.

Queries are scored a tile at a time, so memory does not grow with the number of queries.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

TOP = 50  # of map50: the cut-off of the federated hashing papers
RECALLS = (1, 5, 10)
TILE_BYTES = 1 << 24  # the largest temporaries of one tile
_BYTES_PER_SCORE = 40  # score, sort key, relevance and precision of one query and item, copies


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

    Returns
    -------
    dict of str to float
        ``map``: mean average precision over the whole ranking; ``map50``: of the first 50 ranks,
        normalised by the number of relevant items *among them* (a query with none contributes 0);
        ``map50_min``: the same normalised by ``min(50, relevant items in the gallery)``;
        ``recall@1``, ``recall@5``, ``recall@10`` and ``median_rank`` (from 1) by pair identity.
        Each with suffix ``_i2t`` (image queries), ``_t2i`` (text queries) and, without suffix, the
        mean of both directions. The mAP keys are NaN where labels are given but no pair has one.

    Raises
    ------
    ValueError
        If there are no pairs, the shapes disagree, or ``bits`` is not the embeddings' width.
    """
    pairs = PairSet(image, text, label)
    own = torch.arange(len(image), device=image.device)
    return evaluate_between(pairs, pairs, partner=own, bits=bits)


def evaluate_between(
    query: PairSet,
    gallery: PairSet,
    *,
    partner: Tensor | None = None,  # [Q] long
    bits: int = 0,
) -> dict[str, float]:
    """Retrieval metrics of queries against a separate gallery; see `evaluate` for the keys.

    Parameters
    ----------
    query, gallery : PairSet
        ``Q`` and ``G`` embedded pairs; both or neither with labels.
    partner : Tensor of shape [Q], optional
        Gallery index of each query's own pair. Without it the pair-identity keys are left out, as
        in the protocol of the hashing papers, whose queries are not in the database.
    bits : int
        As in `evaluate`.

    Raises
    ------
    ValueError
        As `evaluate`; also if neither labels nor partners say what is relevant.
    """
    _check(query, gallery, partner, bits)
    directions = {
        "i2t": _direction(query.image, gallery.text, query, gallery, partner, bits),
        "t2i": _direction(query.text, gallery.image, query, gallery, partner, bits),
    }
    metrics = {
        f"{name}_{direction}": value
        for direction, values in directions.items()
        for name, value in values.items()
    }
    for name in directions["i2t"]:
        metrics[name] = (metrics[f"{name}_i2t"] + metrics[f"{name}_t2i"]) / 2
    return metrics


def evaluate_clients(
    image: Tensor,  # [N, D]
    text: Tensor,  # [N, D]
    label: Tensor | None,  # [N] or [N, L]
    rows: Sequence[ArrayLike | Tensor],
    *,
    bits: int = 0,
) -> list[dict[str, float]]:
    """`evaluate` on each client's own test pairs, which rank only against each other.

    Parameters
    ----------
    rows : sequence of integer arrays
        Row numbers of each client's test pairs. A client with fewer than two has no ranking to
        judge and gets an empty dict.
    """
    results: list[dict[str, float]] = []
    for indices in rows:
        row = torch.as_tensor(indices, dtype=torch.long, device=image.device)
        if len(row) < 2:
            results.append({})
            continue
        part = label[row] if label is not None else None
        results.append(evaluate(image[row], text[row], part, bits=bits))
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


def _check(query: PairSet, gallery: PairSet, partner: Tensor | None, bits: int) -> None:
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
    if query.label is None and partner is None:
        raise ValueError("without labels, partners are needed to know what is relevant")
    if partner is not None and len(partner) != len(query.image):
        raise ValueError(
            f"{len(partner)} partners for {len(query.image)} queries; expected one each"
        )
    if bits and bits != shape[1]:
        raise ValueError(f"codes are {shape[1]} wide but bits = {bits}; expected the same number")


def _direction(
    query: Tensor,  # [Q, D] of one modality
    gallery: Tensor,  # [G, D] of the other
    queries: PairSet,
    items: PairSet,
    partner: Tensor | None,
    bits: int,
) -> dict[str, float]:
    """All metrics of one direction, without suffix."""
    query, gallery = _comparable(query, bits), _comparable(gallery, bits)
    identity: dict[str, float] = {}
    if partner is not None:
        rank = _partner_ranks(query, gallery, partner.to(query.device), tied_behind=not bits)
        identity = {f"recall@{k}": (rank <= k).double().mean().item() for k in RECALLS}
        identity["median_rank"] = rank.double().quantile(0.5).item()
        if queries.label is None:
            return _single_answer_map(rank) | identity
    assert queries.label is not None and items.label is not None  # _check has seen to it
    return _class_map(query, gallery, queries.label, items.label) | identity


def _comparable(x: Tensor, bits: int) -> Tensor:
    """Rows whose inner products order as the similarity does; for codes ``bits - 2 * distance``."""
    if bits:
        return (x >= 0).float() * 2 - 1
    return x.detach().float()


def _tiles(queries: int, items: int) -> Iterator[slice]:
    """Slices over the queries whose temporaries stay within `TILE_BYTES`."""
    step = max(1, TILE_BYTES // (_BYTES_PER_SCORE * items))
    for start in range(0, queries, step):
        yield slice(start, start + step)


def _scores(query: Tensor, gallery: Tensor) -> Tensor:
    """Similarities [T, G]; what is not finite is lowest, and adding zero unites -0.0 with 0.0."""
    lowest = -torch.inf
    score = query @ gallery.T
    return score.nan_to_num_(nan=lowest, posinf=lowest, neginf=lowest).add_(0.0)


def _partner_ranks(
    query: Tensor,  # [Q, D]
    gallery: Tensor,  # [G, D]
    partner: Tensor,  # [Q]
    tied_behind: bool,
) -> Tensor:
    """Rank, from 1, of each query's partner -> [Q] long; ties count against it or go by index."""
    index = torch.arange(len(gallery), device=query.device)
    ranks = []
    for tile in _tiles(len(query), len(gallery)):
        score = _scores(query[tile], gallery)  # [T, G]
        mine = partner[tile, None]  # [T, 1]
        own = score.gather(1, mine)
        tied = score == own
        if not tied_behind:
            tied &= index <= mine
        # The partner ties with itself, which starts the count at 1.
        ranks.append((score > own).sum(1) + tied.sum(1))
    return torch.cat(ranks)


def _single_answer_map(rank: Tensor) -> dict[str, float]:
    """The mAP keys where the partner is the only relevant item: precision at its rank."""
    precision = rank.double().reciprocal()
    at_top = torch.where(rank <= TOP, precision, 0.0).mean().item()
    return {"map": precision.mean().item(), "map50": at_top, "map50_min": at_top}


def _class_map(
    query: Tensor,  # [Q, D]
    gallery: Tensor,  # [G, D]
    query_label: Tensor,
    gallery_label: Tensor,
) -> dict[str, float]:
    """The mAP keys by shared label, over the labelled queries and items only."""
    judged, candidates = _labelled(query_label), _labelled(gallery_label)
    query, query_label = query[judged], query_label[judged]
    gallery, gallery_label = gallery[candidates], gallery_label[candidates]
    if not len(query) or not len(gallery):
        return dict.fromkeys(("map", "map50", "map50_min"), float("nan"))
    share = _sharing(query_label, gallery_label)
    total = torch.zeros(3, dtype=torch.float64, device=query.device)
    for tile in _tiles(len(query), len(gallery)):
        ranked = _by_rank(share(tile), _scores(query[tile], gallery))
        total += _average_precisions(ranked).sum(0)
    mean, top, top_min = (total / len(query)).tolist()
    return {"map": mean, "map50": top, "map50_min": top_min}


def _labelled(label: Tensor) -> Tensor:
    return label.any(dim=1) if label.ndim == 2 else label >= 0


def _sharing(query_label: Tensor, gallery_label: Tensor) -> Callable[[slice], Tensor]:
    """A function from a tile of queries to whether they share a label with each item [T, G]."""
    if query_label.ndim == 1:
        return lambda tile: query_label[tile, None] == gallery_label
    left, right = query_label.float(), gallery_label.float().T
    return lambda tile: left[tile] @ right > 0


def _by_rank(
    relevant: Tensor,  # [T, G] bool
    score: Tensor,  # [T, G] float32
) -> Tensor:
    """Relevance in ranked order -> [T, G] float: falling score, ties by gallery index.

    Sorting one integer that holds score, index and relevance is stable by construction and spares
    the permutation and its gather; NumPy's vectorised sort makes it several times faster on a CPU.
    """
    word = score.view(torch.int32)
    ascending = word ^ ((word >> 31) & 0x7FFFFFFF)  # integers in the order of the floats
    index = torch.arange(score.shape[1], device=score.device)
    key = ((~ascending).long() << 32).add_(index << 1).add_(relevant)
    if key.device.type == "cpu":
        key.numpy().sort(axis=1)
    else:
        key = key.sort(dim=1).values
    return (key & 1).float()


def _average_precisions(
    hit: Tensor,  # [T, G] float, 1 where the item at that rank is relevant
) -> Tensor:
    """AP over all ranks, AP@50 per relevant in the top 50, and per relevant attainable -> [T, 3].

    ``AP = sum over relevant ranks r of (relevant items up to r) / r``, divided by their number; 0
    for a query without relevant items.
    """
    found = hit.cumsum(1)
    rank = torch.arange(1, hit.shape[1] + 1, device=hit.device, dtype=hit.dtype)
    gain = (found / rank).mul_(hit)
    at_top = gain[:, :TOP].sum(1, dtype=torch.float64)
    everywhere = gain.sum(1, dtype=torch.float64)
    count, count_top = found[:, -1].double(), found[:, :TOP][:, -1].double()
    normaliser = torch.stack([count, count_top, count.clamp(max=TOP)], dim=1)
    return torch.stack([everywhere, at_top, at_top], dim=1) / normaliser.clamp(min=1)

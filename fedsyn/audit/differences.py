"""Attacks by the difference of two sums.

Two sums of the same statistic can say more than either: over the same clients they may differ by
few rows, which lie in the span of the difference; over clients of which one set has one client
more, the difference is that client's. Sums of clusters that are found anew in every round differ by
the pairs that have changed places: if one has, the difference is that pair.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise

import torch
from torch import Tensor

from fedsyn.audit.attack import BOTH, Attack, View
from fedsyn.audit.priors import Source
from fedsyn.audit.statistics import Statistic, score
from fedsyn.audit.subjects import Subject
from fedsyn.audit.totals import Arrived, Total, together
from fedsyn.privacy import attacks
from fedsyn.synthesis.clusters import MEMBERS, NUMBERS

FEW = 4  # a difference is of few rows if it spans at most a fourth of all directions
MOVED = 3  # most pairs by which a cluster may have grown or shrunk


def of_statistic(statistic: Statistic, subjects: Sequence[Subject]) -> Iterator[Attack]:
    """Pairs by what is left of a sum when another is taken away."""
    for view in BOTH:
        rows, alone = _left(statistic, view)
        few: dict[int, Tensor] = {}
        mine: dict[int, Tensor] = {}
        for subject in subjects:
            client, pairs = subject.client, subject.pairs[:, statistic.columns]
            if client in rows:
                few[client] = attacks.explained(pairs, rows[client])
            if client in alone:
                mine[client] = score(alone[client], pairs)
        for name, scores in (("few rows", few), ("one client", mine)):
            label = f"difference of {name}, {statistic.label}"
            yield Attack(label, "sum", (view,), scores, statistic.keys)


def _left(statistic: Statistic, view: View) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Differences of few rows, as matrices, and of one client, by the clients that they are of."""
    rows: dict[int, Tensor] = {}
    alone: dict[int, Tensor] = {}
    for one, other in combinations(statistic.known(view), 2):
        more, less = (one, other) if one.ids >= other.ids else (other, one)
        extra = more.ids - less.ids
        if not more.ids >= less.ids or len(extra) > 1:
            continue
        left = more.value - less.value
        if left.abs().max() <= attacks.BLANK * more.value.abs().max():
            continue
        if extra:
            alone |= dict.fromkeys(extra, left)
            continue
        spanned = torch.outer(left, left) if left.dim() == 1 else left
        if attacks.span(spanned).shape[1] <= len(left) // FEW:
            rows |= dict.fromkeys(more.ids, spanned)
    return rows, alone


def of_clusters(source: Source, subjects: Sequence[Subject]) -> Iterator[Attack]:
    """Pairs by the nearest mean of pairs that a cluster has won or lost from a round to the next.

    Of clusters of all clients' pairs, whose sums are sent in several rounds: of a client's own
    pairs where its sums are seen as they arrive, of all clients' where they are added up.
    """
    on = frozenset([(source.part, MEMBERS), (source.part, NUMBERS)])
    members = list(source.recorded.totals(source.part, MEMBERS))
    numbers = list(source.recorded.totals(source.part, NUMBERS))
    raw: dict[int, list[Tensor]] = {}
    for client in {subject.client for subject in subjects}:
        raw[client] = _moved(*([_of(client, each) for each in one] for one in (members, numbers)))
    pooled = _moved(*([together(each) for each in one] for one in (members, numbers)))
    views: tuple[tuple[View, dict[int, list[Tensor]]], ...] = (
        ("raw", raw),
        ("sums", dict.fromkeys(raw, pooled)),
    )
    for view, moved in views:
        scores = {
            subject.client: attacks.nearest(subject.pairs, torch.stack(moved[subject.client]))
            for subject in subjects
            if moved[subject.client]
        }
        name = "difference of rounds' clusters"
        yield Attack(name, "sum", (view,), scores, on, distance=True)


def _of(client: int, arrived: Arrived) -> Total | None:
    return next((one for one in arrived if client in one.ids), None)


def _moved(members: Sequence[Total | None], numbers: Sequence[Total | None]) -> list[Tensor]:
    """Means of the few pairs by which a cluster has grown or shrunk between two rounds."""
    found: list[Tensor] = []
    every = [
        (total, number)
        for total, number in zip(members, numbers, strict=True)
        if total is not None and number is not None
    ]
    for (total, count), (later, number) in pairwise(every):
        if total.ids != later.ids:
            continue
        change, grown = later.value - total.value, number.value - count.value
        few = (grown != 0) & (grown.abs() <= MOVED)
        found += (change[few] / grown[few, None]).unbind()
    return found

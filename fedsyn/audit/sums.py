"""Attacks on statistics: is a pair in a sum?

A sum is of one client where it is seen as it arrived and its sender was alone, or where a client
alone was new in a round.
"""

from collections.abc import Iterator, Sequence

from fedsyn.audit.attack import BOTH, Attack
from fedsyn.audit.statistics import Statistic, least, score
from fedsyn.audit.subjects import Subject


def moments(statistic: Statistic, subjects: Sequence[Subject]) -> Iterator[Attack]:
    """Pairs by the sum that their client is in with the fewest others."""
    for view in BOTH:
        known = statistic.known(view)
        scores = {
            subject.client: score(one.value, subject.pairs[:, statistic.columns])
            for subject in subjects
            if (one := least(known, subject.client)) is not None
        }
        name = "alignment" if statistic.first else "leverage"
        yield Attack(f"{name}, {statistic.label}", "sum", (view,), scores, statistic.keys)


def components(statistic: Statistic, subjects: Sequence[Subject]) -> Iterator[Attack]:
    """Pairs by the statistics that features are made of.

    As they arrived, by how pairs lie in the client's own. Of all clients by how long pairs are
    along the components that these give: fitted to members, they fit strangers less.
    """
    raw, _ = moments(statistic, subjects)
    yield raw
    lengths = {one.client: one.pairs[:, statistic.columns].norm(dim=-1) for one in subjects}
    yield Attack(f"length, {statistic.label}", "sum", BOTH, lengths, statistic.keys)

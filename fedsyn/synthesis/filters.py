"""Which synthetic pairs are kept: rules over their scores (`fedsyn.synthesis.scores`).

``quota`` keeps the plausible pairs: those that are not among the worst by divergence or by realism;
of them, for every global prototype, a number proportional to mass^(1 − balance) (at most what there
is), drawn at random: the plausible pairs are not ranked by a model that may already be wrong about
them. ``hard`` fills the same quotas with the most divergent of the plausible pairs first.
``quantile`` keeps all plausible pairs, ``agreement`` the share on which all clients' prototypes
agree most, and ``none`` everything.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fedsyn import ops
from fedsyn.settings.plugins import FLAT, Plugin, Table
from fedsyn.settings.sections import Field, Fraction, Section
from fedsyn.synthesis.scores import CandidateScores, GlobalPrototypes, quotas
from fedsyn.synthesis.settings import SynthesisConfig


class FilterOptions(Section):
    """Options that the filters have in common."""

    quantile: Fraction = Field(
        0.01, description="share of the worst candidates dropped by each score"
    )
    keep: Fraction = Field(
        0.75, description="share of the candidates kept (quota, hard, agreement)"
    )
    balance: Fraction = Field(
        0.75, description="quotas: 0 follows the pooled clients, 1 is uniform over prototypes"
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Filter(Plugin):
    """Chooses among candidates by their scores; options stand in the section ``[synthesis]``.

    Attributes
    ----------
    select : ``(scores, world, config, generator) -> positions [n] long, ascending``
        Of at least one candidate.
    agreement : bool
        Whether it needs their agreement, which takes a comparison with every client.
    """

    select: Callable[[CandidateScores, GlobalPrototypes, SynthesisConfig, torch.Generator], Tensor]
    agreement: bool = False


def _everyone(scores: CandidateScores) -> Tensor:
    return torch.arange(len(scores.prototype), device=scores.prototype.device)


def _all(
    scores: CandidateScores,
    world: GlobalPrototypes,
    config: SynthesisConfig,
    generator: torch.Generator,
) -> Tensor:
    return _everyone(scores)


def _agreed(
    scores: CandidateScores,
    world: GlobalPrototypes,
    config: SynthesisConfig,
    generator: torch.Generator,
) -> Tensor:
    best = scores.agreement.argsort(descending=True, stable=True)
    return best[: round(config.of(FilterOptions).keep * len(best))].sort().values


def _plausible(
    scores: CandidateScores,
    world: GlobalPrototypes,
    config: SynthesisConfig,
    generator: torch.Generator,
) -> Tensor:
    share = config.of(FilterOptions).quantile
    plausible = (scores.divergence <= scores.divergence.quantile(1 - share)) & (
        scores.realism >= scores.realism.quantile(share)
    )
    return _everyone(scores)[plausible]


def _by_quota(
    scores: CandidateScores,
    world: GlobalPrototypes,
    config: SynthesisConfig,
    generator: torch.Generator,
) -> Tensor:
    kept = _plausible(scores, world, config, generator)
    order = torch.randperm(len(kept), generator=generator).to(kept.device)
    return _filled(kept, order, scores, world, config)


def _hardest(
    scores: CandidateScores,
    world: GlobalPrototypes,
    config: SynthesisConfig,
    generator: torch.Generator,
) -> Tensor:
    kept = _plausible(scores, world, config, generator)
    order = scores.divergence[kept].argsort(descending=True, stable=True)
    return _filled(kept, order, scores, world, config)


def _filled(
    kept: Tensor,
    order: Tensor,
    scores: CandidateScores,
    world: GlobalPrototypes,
    config: SynthesisConfig,
) -> Tensor:
    """Of the candidates ``kept`` the first in an order, as many of each global prototype."""
    own = config.of(FilterOptions)
    budget = round(own.keep * len(scores.prototype))
    allowed = quotas(world.mass.tolist(), budget, own.balance)
    place = order.argsort()
    quota = torch.tensor(allowed, dtype=torch.long, device=kept.device)
    return kept[ops.select_quota(place, scores.prototype[kept], quota)]


QUOTA, HARD, QUANTILE, AGREEMENT, NONE = (
    Filter(name=name, options={FLAT: FilterOptions}, select=select, agreement=agreement)
    for name, select, agreement in (
        ("quota", _by_quota, False),
        ("hard", _hardest, False),
        ("quantile", _plausible, False),
        ("agreement", _agreed, True),
        ("none", _all, False),
    )
)

FILTERS = Table(
    "filter",
    "synthesis.filter",
    Filter,
    "fedsyn.synthesis.filters:QUOTA",
    "fedsyn.synthesis.filters:HARD",
    "fedsyn.synthesis.filters:QUANTILE",
    "fedsyn.synthesis.filters:AGREEMENT",
    "fedsyn.synthesis.filters:NONE",
)

"""From rows to verdicts: whether what is claimed of the methods holds in the runs."""

from collections.abc import Sequence
from typing import Any

from fedsyn.metrics.table import MetricTable
from fedsyn.tasks import TASKS
from studies.related.studies import Claim, Study
from studies.trials.arithmetic import Row, interval, paired


def verdicts(rows: Sequence[Row], studies: Sequence[Study]) -> list[dict[str, Any]]:
    """Every claim of a study in every task of its cases that has the claim's metric.

    ``effect`` is the mean difference between runs of the same case and seed, with its interval,
    which takes the runs for independent; ``cases`` has that of each case. A claim ``holds`` if the
    interval is all on its side of 0, or of what the margin leaves; ``None`` where a single run
    says nothing, or there are none.
    """
    return [
        {"study": study.name, "task": task, **_judged(mine, claim, metric)}
        for study in studies
        for claim in study.claims
        for task, mine in by_task([row for row in rows if row["study"] == study.name]).items()
        if (metric := claim.metric or metrics_of(task).headlines[0])
        in metrics_of(task).compared.values()
    ]


def metrics_of(task: str) -> MetricTable:
    """What a task is judged by."""
    return TASKS.find(task).metrics


def by_task(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each task."""
    tasks = dict.fromkeys(row["task"] for row in rows)
    return {task: [row for row in rows if row["task"] == task] for task in tasks}


def _judged(rows: Sequence[Row], claim: Claim, metric: str) -> dict[str, Any]:
    effects = _effects([row for row in rows if _within(row, claim)], claim, metric)
    differences = [value for effect in effects.values() for value in effect["values"]]
    effect = interval(differences) if differences else None
    holds = None
    if effect and effect["half"] is not None:
        gain = -effect["mean"] if claim.below else effect["mean"]
        holds = gain + claim.margin > effect["half"]
    return {
        "one": claim.one,
        "other": claim.other,
        "metric": metric,
        "below": claim.below,
        "margin": claim.margin,
        "where": list(claim.cases),
        "effect": effect,
        "cases": effects,
        "holds": holds,
    }


def _within(row: Row, claim: Claim) -> bool:
    return not claim.cases or row["case"] in claim.cases


def _effects(rows: Sequence[Row], claim: Claim, metric: str) -> dict[str, dict[str, Any]]:
    """By case: differences of the two contenders, seed by seed, where both have been measured."""
    runs = {(row["case"], row["contender"]): row[f"{metric}_runs"] for row in rows}
    effects = {}
    for case in dict.fromkeys(row["case"] for row in rows):
        one, other = (runs.get((case, name), [None]) for name in (claim.one, claim.other))
        if None not in one and None not in other:
            effects[case] = interval(paired(one, other))
    return effects

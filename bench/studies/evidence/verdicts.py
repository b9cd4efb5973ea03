"""Whether the targets are met: cell by cell, on average, under attack.

In a cell the default has to stand beside the best of what is simpler, in each metric by itself: the
closed form, the baseline without synthesis as tuned without labels, and the same at equal compute.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from studies.evidence import frontier, studies
from studies.evidence.arithmetic import METRICS, cells, change
from studies.evidence.studies import CLOSED_FORM, COMPUTE, TUNED, ZERO_SHOT
from studies.trials.arithmetic import Row

SIMPLER = (CLOSED_FORM[0], TUNED, COMPUTE)
ABOVE = {"map": 2 / 3, "r10": 1 / 2}  # share of the cells
CLOSED = {"map": 0.8, "r10": 0.5}  # mean share of the gap to the oracle
OWN_AUC, OWN_TPR, COMBINED = 0.60, 0.03, 0.02
CHEAP_AUC, CHEAP_SHARE = 0.55, 0.75  # of the default's gain
ALIGNED = 0.005  # R@1 that may be lost
TITLES = {"map": "mAP", "r10": "R@10"}


def judged(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Every cell that has all rows that are compared, and metric by metric what is best and where
    the default stands.
    """
    return [
        {
            **{name: cell["on"][name] for name in ("data", "alpha", "method", "objective")},
            **{name: _compared(cell, name) for name in METRICS},
        }
        for cell in cells(rows)
        if cell.keys() >= {"on", *SIMPLER}
    ]


def _compared(cell: Mapping[str, Row], metric: str) -> dict[str, Any]:
    best = max(SIMPLER, key=lambda name: cell[name][f"{metric}_mean"])
    return {
        "best": best,
        "difference": cell["on"][f"{metric}_mean"] - cell[best][f"{metric}_mean"],
        "noise": max(cell[name][f"{metric}_std"] for name in ("on", best)),
        "verdict": change(cell[best], cell["on"], metric),
        "gap_closed": cell["on"]["gap_closed"][metric],
    }


def targets(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Every target, what was measured, and whether it is met; ``None`` where nothing was."""
    found = judged(rows)
    return [
        *(_not_below(found, name) for name in METRICS),
        *(_above(found, name) for name in METRICS),
        *(_closed(found, name) for name in METRICS),
        *_audited(rows),
        _cheap(rows),
        _aligned(rows),
    ]


def _not_below(found: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any]:
    below = sum(cell[metric]["verdict"] < 0 for cell in found)
    return _target(
        f"{TITLES[metric]}: cells where the default is below the best of closed form, tuned and "
        "equal compute by more than one standard deviation: none",
        f"{below} of {len(found)}" if found else None,
        not below,
    )


def _above(found: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any]:
    above = sum(cell[metric]["verdict"] > 0 for cell in found)
    share = {"map": "two thirds", "r10": "half"}[metric]
    return _target(
        f"{TITLES[metric]}: cells where it is above by as much: {share} of them",
        f"{above} of {len(found)}" if found else None,
        above >= ABOVE[metric] * len(found),
    )


def _closed(found: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any]:
    shares = [cell[metric]["gap_closed"] for cell in found]
    known = [share for share in shares if share is not None]
    capped = fmean(min(share, 1.0) for share in known) if known else 0.0
    return _target(
        f"{TITLES[metric]}: mean share of the gap to the oracle closed (each at most 1): "
        f"{CLOSED[metric]:g} or more",
        f"{capped:.2f} over the {len(known)} cells that have a gap ({fmean(known):.2f} without a "
        "limit)" if known else None,
        capped >= CLOSED[metric],
    )  # fmt: skip


def _audited(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Of the default on the data sets that are audited, by as many runs as there are."""
    auc, tpr, more = {}, {}, {}
    for name in studies.AUDITED:
        on, off = (_of_default(rows, name, mode) for mode in ("on", "off"))
        if on is None or off is None:
            continue
        auc[name], tpr[name] = on["own_auc"] or 0.5, on["own_tpr"] or 0.0
        more[name] = on["combined_auc"] - off["combined_auc"]
    return [
        _target(
            f"strongest attack on what clients send of their own for synthesis, Dirichlet "
            f"{studies.SKEWED:g}: AUC {OWN_AUC:.2f} or less",
            _named(auc, "{:.2f}"),
            all(value <= OWN_AUC for value in auc.values()),
        ),
        _target(
            f"the same: true positives at 1 % false ones {OWN_TPR:g} or less",
            _named(tpr, "{:.3f}"),
            all(value <= OWN_TPR for value in tpr.values()),
        ),
        _target(
            "all attacks together, sums seen only as sums: AUC with synthesis less without "
            f"{COMBINED:g} or less",
            _named(more, "{:+.3f}"),
            all(value <= COMBINED for value in more.values()),
        ),
    ]


def _of_default(rows: Sequence[Row], data: str, mode: str) -> dict[str, Any] | None:
    place = (data, studies.SKEWED, *studies.PLAIN, studies.DEFAULT, mode)
    names = ("data", "alpha", "method", "objective", "setting", "synthesis")
    audits = [
        row["audit"]
        for row in rows
        if "audit" in row and tuple(row[name] for name in names) == place
    ]
    return max(audits, key=lambda one: one["runs"], default=None)


def _cheap(rows: Sequence[Row]) -> dict[str, Any]:
    """A point of the frontier, over all data sets."""
    found = frontier.average(frontier.points(rows))
    default = found.get(studies.DEFAULT)
    good = [
        name
        for name, point in found.items()
        if default
        and point.keys() >= {*METRICS, "own_auc"}
        and point["own_auc"] <= CHEAP_AUC
        and all(point[metric] >= CHEAP_SHARE * default[metric] for metric in METRICS)
    ]
    return _target(
        f"a point of the frontier at AUC {CHEAP_AUC:.2f} or less with three quarters of the "
        "default's gain in both metrics",
        (", ".join(good) or "none") if default else None,
        bool(good),
    )


def _aligned(rows: Sequence[Row]) -> dict[str, Any]:
    """R@1 of aligned embeddings against what there is without any training."""
    losses = {
        f"{cell['on']['data']}, {cell['on']['alpha']:g}, {cell['on']['method']}":
        cell["on"]["r1_mean"] - max(cell[name]["r1_mean"] for name in (ZERO_SHOT, CLOSED_FORM[0]))
        for cell in cells(rows)
        if cell.keys() >= {"on", ZERO_SHOT, CLOSED_FORM[0]}
    }  # fmt: skip
    least = min(losses, key=losses.__getitem__, default=None)
    return _target(
        "aligned embeddings: R@1 after federation less the better of zero-shot and closed form "
        f"-{ALIGNED:g} or more",
        f"least {losses[least]:+.3f} ({least}) of {len(losses)} cells" if least else None,
        all(value >= -ALIGNED for value in losses.values()),
    )


def _named(values: Mapping[str, float], shown: str) -> str | None:
    return ", ".join(f"{name} {shown.format(value)}" for name, value in values.items()) or None


def _target(text: str, measured: str | None, met: bool) -> dict[str, Any]:
    return {"target": text, "measured": measured, "met": None if measured is None else met}

"""From rows to conclusions: gaps, paired differences, harm, and whether the targets are met."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, Literal

from fedsyn.federation.compare import gap_closed
from studies.evidence import studies
from studies.trials.arithmetic import Row, interval, paired, signed

NOISE = 2.0  # standard deviations that a gap must exceed to be one
CLOSED_PLAIN, CLOSED_EACH, SMALL = 0.9, 0.6, 0.5  # targets


def relate(rows: Sequence[Row]) -> None:
    """Add to the rows with synthesis what others say of them.

    ``gap_closed`` at the round selected without labels and ``best_gap_closed`` at the best round;
    ``bytes_synthesis``, what synthesis adds to a round's uploads; ``effect``, the difference to the
    runs of the setting ``against``. What a setting has no runs of its own for (without synthesis,
    with the oracle) is taken from that setting too.
    """
    known = {(*_place(row), row["setting"], row["synthesis"]): row for row in rows}
    for row in rows:
        if row["synthesis"] != "on":
            continue
        modes = {"on": row}
        for mode in ("off", "oracle"):
            for setting in (row["against"], row["setting"]):
                if other := known.get((*_place(row), setting, mode)):
                    modes[mode] = other
        row["gap_closed"] = gap_closed(modes, "map", NOISE)
        row["best_gap_closed"] = gap_closed(modes, "best_map", NOISE)
        without = modes["off"]["bytes_up"] if "off" in modes else None
        row["bytes_synthesis"] = None if without is None else row["bytes_up"] - without
        reference = known.get((*_place(row), row["against"], "on"))
        row["effect"] = reference and interval(paired(row["map_runs"], reference["map_runs"]))


def change(off: Mapping[str, Any], on: Mapping[str, Any], metric: str = "map") -> int:
    """Whether ``on`` is above (1) or below (-1) ``off`` by more than the larger deviation."""
    difference = on[f"{metric}_mean"] - off[f"{metric}_mean"]
    if abs(difference) <= max(off[f"{metric}_std"], on[f"{metric}_std"]):
        return 0
    return 1 if difference > 0 else -1


def pairs(rows: Iterable[Row]) -> list[tuple[Row, Row]]:
    """Rows without and with synthesis that differ in nothing else."""
    known: dict[tuple[Any, ...], Row] = {}
    found = []
    for row in sorted(rows, key=lambda row: row["synthesis"] == "on"):
        key = (*_place(row), row["setting"])
        if row["synthesis"] == "off":
            known[key] = row
        elif row["synthesis"] == "on" and key in known:
            found.append((known[key], row))
    return found


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """What the rows say together, and the targets."""
    judged = {
        "gap_closed": _gaps(rows),
        "hurts": _hurts(rows, "map"),
        "hurts_r10": _hurts(rows, "r10"),
        "losses": _losses(rows),
        "adversarial": _adversarial(rows),
        "uploads": _uploads(rows),
    }
    return {**judged, "targets": targets(judged)}


def _gaps(rows: Sequence[Row]) -> dict[str, Any]:
    """Mean share of the gap closed by each baseline under skew, over the data sets with a gap.

    More than the whole gap counts as the whole: one data set does not make up for another.
    """
    found = {}
    for method, objective in studies.BASELINES:
        mine = [
            row
            for row in rows
            if row["study"] == "baselines"
            and (row["method"], row["objective"]) == (method, objective)
            and (row["synthesis"], row["alpha"]) == ("on", studies.SKEWED)
        ]
        if not mine:
            continue
        entry: dict[str, Any] = {}
        for name in ("gap_closed", "best_gap_closed"):
            shares = {row["data"]: row[name] for row in mine if row[name] is not None}
            capped = [min(share, 1.0) for share in shares.values()]
            entry[name] = {"mean": fmean(capped) if capped else None, "data": shares}
        found[f"{method}+{objective}"] = entry
    return found


def _hurts(rows: Sequence[Row], metric: str) -> dict[str, Any]:
    """The cells that synthesis leaves worse, and of how many; how many it leaves better."""
    both = list({tuple(on["runs"]): (off, on) for off, on in reversed(pairs(rows))}.values())
    names = ("study", "data", "alpha", "method", "objective", "setting")
    worse = [
        {name: on[name] for name in names}
        | {"off": off[f"{metric}_mean"], "on": on[f"{metric}_mean"]}
        for off, on in both
        if change(off, on, metric) < 0
    ]
    better = sum(change(off, on, metric) > 0 for off, on in both)
    return {"cells": worse, "of": len(both), "better": better}


def _losses(rows: Sequence[Row]) -> dict[str, Any]:
    """What each constraint loss changes in each context, over data sets and seeds.

    ``best`` is each loss's weight with the largest change where several were tried; 0 where none
    is above none.
    """
    values: dict[str, list[float]] = {}
    for row in rows:
        if row["study"] == "losses" and row["effect"]:
            values.setdefault(row["setting"], []).extend(row["effect"]["values"])
    effects = {setting: interval(each) for setting, each in values.items()}
    best = {}
    for loss in studies.LOSSES:
        tried = {
            weight: effects[name]["mean"]
            for weight in studies.WEIGHTS
            if (name := studies.weighted(studies.WEIGHED, loss, weight)) in effects
        }
        if tried:
            winner = max(tried, key=tried.__getitem__)
            best[loss] = winner if tried[winner] > 0 else 0
    return {"effects": effects, "best": best}


def _adversarial(rows: Sequence[Row]) -> dict[str, Any] | None:
    """A trained generator less the default, the closed-form Gaussian, over seeds and data sets."""
    data = {
        row["data"]: row["effect"]["mean"]
        for row in rows
        if (row["study"], row["setting"]) == ("generators", studies.ADVERSARIAL) and row["effect"]
    }
    # Seeds of one data set are not independent samples of data sets: the interval is over the sets.
    return {**interval(list(data.values())), "data": data} if data else None


def _uploads(rows: Sequence[Row]) -> dict[str, Any]:
    """By data set: the small upload's bytes over the plain one's, and what it loses."""
    found = {}
    mine = {
        (row["data"], row["setting"]): row
        for row in rows
        if (row["study"], row["synthesis"]) == ("uploads", "on")
    }
    for (name, setting), small in mine.items():
        plain = mine.get((name, studies.UPLOAD))
        if setting == studies.SMALL_UPLOAD and plain and plain["bytes_synthesis"]:
            found[name] = {
                "bytes": small["bytes_synthesis"] / plain["bytes_synthesis"],
                "map": small["map_mean"] - plain["map_mean"],
                "noise": max(plain["map_std"], small["map_std"]),
            }
    return found


def targets(judged: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every target, what was measured, and whether it is met; ``None`` where nothing was."""
    hurts, trained, uploads = judged["hurts"], judged["adversarial"], judged["uploads"]
    every = ["+".join(baseline) for baseline in studies.BASELINES]
    plain, skewed = "+".join(studies.PLAIN), f"at Dirichlet {studies.SKEWED:g}"
    closed = {
        name: entry["gap_closed"]["mean"]
        for name, entry in judged["gap_closed"].items()
        if entry["gap_closed"]["mean"] is not None
    }
    shares = ", ".join(f"{name} {share:.2f}" for name, share in closed.items())
    small = ", ".join(
        f"{name} {one['bytes']:.2f} of the bytes, {one['map']:+.3f} mAP"
        for name, one in uploads.items()
    )
    return [
        _target(
            f"mean gap closed (each at most 1) {skewed} by {plain}: {CLOSED_PLAIN:g} or more",
            plain in closed and (f"{closed[plain]:.2f}", closed[plain] >= CLOSED_PLAIN),
        ),
        _target(
            f"mean gap closed (each at most 1) {skewed} by each baseline: {CLOSED_EACH:g} or more",
            closed.keys() >= set(every) and (shares, min(closed.values()) >= CLOSED_EACH),
        ),
        _target(
            "cells that synthesis hurts by more than one standard deviation: none",
            hurts["of"] > 0 and (f"{len(hurts['cells'])} of {hurts['of']}", not hurts["cells"]),
        ),
        _target(
            f"a trained generator ({studies.ADVERSARIAL}) beats the Gaussian default on average",
            trained is not None
            and (
                f"{signed(trained)} mAP, data sets: {len(trained['data'])}",
                trained["mean"] > 0,
            ),
        ),
        _target(
            f"generators sent as {studies.SMALL_UPLOAD} against {studies.UPLOAD}: at most half the "
            "bytes, at no loss beyond one standard deviation",
            bool(uploads)
            and (
                small,
                all(u["bytes"] <= SMALL and -u["map"] <= u["noise"] for u in uploads.values()),
            ),
        ),
    ]


def _target(text: str, found: Literal[False] | tuple[str, bool]) -> dict[str, Any]:
    measured, met = found or (None, None)
    return {"target": text, "measured": measured, "met": met}


def _place(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("study", "data", "alpha", "method", "objective"))

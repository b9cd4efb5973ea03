"""What synthesis gains against what it gives away: a point for each setting."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from studies.evidence import studies
from studies.trials.arithmetic import Row

NAME = "frontier"
LEAKS = ("own_auc", "own_tpr", "combined_auc", "combined_tpr")
NOTHING = {"own_auc": 0.5, "own_tpr": 0.01}  # where nothing is sent that is a client's own
Point = dict[str, Any]
Points = dict[str, Point]  # by setting


def points(rows: Sequence[Row]) -> dict[str, Points]:
    """By data set: gains over no synthesis by metric, and how strong attacks are.

    Of ``off`` there are attacks alone, and none on what is sent for synthesis.
    """
    found: dict[str, Points] = {}
    for row in rows:
        if row["study"] != NAME or "audit" not in row:
            continue
        point = {leak: row["audit"][leak] for leak in LEAKS if row["audit"][leak] is not None}
        if row["synthesis"] == "on":
            gain = row.get("gain") or {}
            point = NOTHING | point | {name: each["mean"] for name, each in gain.items()}
            point |= {f"{name}_half": each["half"] for name, each in gain.items()}
        name = row["setting"] if row["synthesis"] == "on" else row["synthesis"]
        found.setdefault(row["data"], {})[name] = point
    return found


def average(every: dict[str, Points]) -> Points:
    """Plain means over the data sets, of the settings and numbers that all of them have."""
    if not every:
        return {}
    first, *others = every.values()
    found = {}
    for name in first:
        if all(name in other for other in others):
            mine = [points[name] for points in every.values()]
            keys = [key for key in mine[0] if all(key in point for point in mine)]
            found[name] = {
                key: fmean(point[key] for point in mine)
                for key in keys
                if not key.endswith("_half")
            }
    return found


def families(names: Sequence[str]) -> dict[str, list[str]]:
    """Settings that differ in one number, in its order, by what stands before it."""
    found: dict[str, list[str]] = {}
    for name in names:
        if studies.context(name):
            found.setdefault(studies.context(name), []).append(name)
    return found

"""What audits say of a setting's runs, in few numbers.

The strongest attack is the one of the highest mean over the runs, not the mean of each run's
highest, which would be above chance where all attacks are at chance.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from fedsyn.audit.run import ALL, FILE, WITHOUT

__all__ = ["FILE", "summary"]

MEASURES = {"auc": "auc", "tpr": "tpr_at_1pct_fpr"}
OWN, MODEL = "own", "model"  # what clients have sent of their own; averaged models
SUMS, RAW = "sums", "raw"  # sums seen added up over all clients; uploads as they arrive
Attacks = list[dict[str, Any]]


def summary(files: Sequence[Path]) -> dict[str, Any]:
    """Of the audits in these files, one a run.

    ``own_*`` are of the strongest attack on what clients have sent of their own, ``model_*`` of the
    strongest on averaged models, ``combined_*`` of all attacks together where sums are seen only as
    sums, ``without_*`` of these without those on synthesis, ``raw_*`` of all attacks together on
    uploads as they arrive. ``None`` where there is no such attack.
    """
    audits: list[Attacks] = [json.loads(file.read_text("utf-8"))["attacks"] for file in files]
    parts: dict[str, Callable[[dict[str, Any]], bool]] = {
        "own": lambda one: one["of"] == OWN,
        "model": lambda one: one["of"] == MODEL,
        "combined": lambda one: (one["name"], one["view"]) == (ALL, SUMS),
        "without": lambda one: (one["name"], one["view"]) == (WITHOUT, SUMS),
        "raw": lambda one: (one["name"], one["view"]) == (ALL, RAW),
    }
    found: dict[str, Any] = {"runs": len(files)}
    for part, chosen in parts.items():
        for short, name in MEASURES.items():
            found[f"{part}_{short}"] = _strongest(audits, chosen, name)
    return found


def _strongest(
    audits: Sequence[Attacks], chosen: Callable[[dict[str, Any]], bool], measure: str
) -> float | None:
    """The highest mean over the runs of any attack that is chosen."""
    values: dict[tuple[str, str], list[float]] = {}
    for attacks in audits:
        for one in filter(chosen, attacks):
            values.setdefault((one["name"], one["view"]), []).append(one[measure])
    return max(map(fmean, values.values()), default=None)

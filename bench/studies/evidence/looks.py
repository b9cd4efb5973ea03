"""What the pictures of the page have in common."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedsyn.report.plots import COLOURS, INK, UNLABELLED
from studies.evidence.studies import Baseline
from studies.trials.arithmetic import Row

# Told apart by lightness too, for those who do not see the hues.
SERIES = (COLOURS[0], COLOURS[1], INK, UNLABELLED)
CLOSED_FORM = COLOURS[3]
ZERO_SHOT = COLOURS[4]


def dots(marker: str, colour: str, label: str, size: float) -> dict[str, Any]:
    """How points with error bars look."""
    return {
        "marker": marker, "color": colour, "label": label, "markersize": size, "linestyle": "none",
        "elinewidth": 1.0, "capsize": 2.0,
    }  # fmt: skip


def baseline_of(row: Mapping[str, Any]) -> Baseline:
    """The method and the objective of a row."""
    return row["method"], row["objective"]


def different(rows: Sequence[Row], name: str) -> list[Any]:
    """The values of a field, in the order in which rows have them."""
    return list(dict.fromkeys(row[name] for row in rows))

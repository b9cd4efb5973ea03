"""Settings chosen as a user without labels would, and rounds that take as much time.

A baseline without synthesis is tried with some rates and, where it minimises InfoNCE, temperatures:
on one seed, by what clients say of the selected round on pairs that they hold out.
"""

import json
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

from fedsyn.federation import records
from studies.evidence import studies
from studies.evidence.studies import Baseline, Overrides

WATCHING = ("evaluate", "checkpoint")  # phases that no federation has for itself


def grid(baseline: Baseline) -> list[Overrides]:
    """What is tried of a baseline, as overrides."""
    rates = [f"method.lr={rate:g}" for rate in studies.RATES]
    if baseline[1] != studies.PLAIN[1]:
        return [(rate,) for rate in rates]
    temperatures = [f"objective.temperature={value:g}" for value in studies.TEMPERATURES]
    return list(product(temperatures, rates))


def chosen(tried: Mapping[Overrides, Path]) -> Overrides:
    """Of finished runs, by their folders, what clients like best; of equals the first."""
    return min(tried, key=lambda one: held_out(tried[one]))


def held_out(run: Path) -> float:
    """The least criterion on held-out pairs, which is that of the selected round."""
    return min(map(records.held_out_loss, _rows(run)))


def factor(off: Path, on: Path) -> int:
    """How many rounds without synthesis take the time of one with it, between 1 and some."""
    ratio = _seconds(on) / _seconds(off)
    return min(max(round(ratio), 1), studies.MOST_COMPUTE)


def _seconds(run: Path) -> float:
    """What its rounds took, without the start, which all have, and without those who watch."""
    total = 0.0
    for row in _rows(run):
        if row["round"] > 0:
            total += sum(s for phase, s in row["seconds"].items() if phase not in WATCHING)
    return total


def _rows(run: Path) -> list[dict[str, Any]]:
    lines = (run / records.METRICS).read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]

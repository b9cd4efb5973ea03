"""Differences between runs of the same seed, and their intervals."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t

Row = dict[str, Any]
CONFIDENCE = 0.95


def paired(runs: Sequence[float], others: Sequence[float]) -> list[float]:
    """Differences of two settings, seed by seed."""
    return [one - other for one, other in zip(runs, others, strict=True)]


def interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean and its t interval; no interval of a single value."""
    mean, half = fmean(values), None
    if len(values) > 1:
        quantile = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
        half = quantile * stdev(values) / math.sqrt(len(values))
    return {"mean": mean, "half": half, "values": list(values)}


def signed(effect: Mapping[str, Any]) -> str:
    """A difference with its interval."""
    half = "" if effect["half"] is None else f" ± {effect['half']:.3f}"
    return f"{effect['mean']:+.3f}{half}"

"""What rows say of each other: gaps, paired differences, and which is above which."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedsyn.federation.compare import gap_closed
from studies.evidence import studies
from studies.trials.arithmetic import Row, interval, paired

NOISE = 2.0  # standard deviations that a gap must exceed to be one
METRICS = ("map", "r10")  # of the class of an answer, and of the very partner


def relate(rows: Sequence[Row]) -> None:
    """Add to the rows with synthesis what others say of them, by metric.

    ``gap_closed`` is of the round selected without labels; ``gain`` and ``effect`` are differences
    to runs without synthesis and to those of the setting ``against``, seed by seed;
    ``bytes_synthesis`` is what synthesis adds to a round's uploads. What a setting has no runs of
    its own for (without synthesis, with the oracle) is taken from that setting too, or from the
    study's default.
    """
    known = {(*_place(row), row["setting"], row["synthesis"]): row for row in rows}
    for row in rows:
        if row["synthesis"] != "on":
            continue
        modes = {"on": row}
        for mode in ("off", "oracle"):
            for setting in (studies.DEFAULT, row["against"], row["setting"]):
                if other := known.get((*_place(row), setting, mode)):
                    modes[mode] = other
        row["gap_closed"] = {name: gap_closed(modes, name, NOISE) for name in METRICS}
        off, against = modes.get("off"), known.get((*_place(row), row["against"], "on"))
        row["gain"] = off and _differences(row, off)
        row["effect"] = against and _differences(row, against)
        row["bytes_synthesis"] = off and row["bytes_up"] - off["bytes_up"]


def change(one: Mapping[str, Any], other: Mapping[str, Any], metric: str) -> int:
    """Whether ``other`` is above (1) or below (-1) ``one`` by more than the larger deviation."""
    difference = other[f"{metric}_mean"] - one[f"{metric}_mean"]
    if abs(difference) <= max(one[f"{metric}_std"], other[f"{metric}_std"]):
        return 0
    return 1 if difference > 0 else -1


def cells(rows: Iterable[Row]) -> list[dict[str, Row]]:
    """The rows of the study of baselines, by cell and by what they are called there.

    A cell is a data set, a concentration and a baseline; it also has what there is once a data set
    and concentration: ``chance``, ``cca`` and, of aligned embeddings, ``zero-shot``.
    """
    found: dict[tuple[Any, ...], dict[str, Row]] = {}
    shared: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in (row for row in rows if row["study"] == studies.BASELINE_STUDY.name):
        name, place = called(row), (row["data"], row["alpha"])
        if name in (studies.CHANCE, studies.CLOSED_FORM[0], studies.ZERO_SHOT):
            shared.setdefault(place, {})[name] = row
        else:
            found.setdefault((*place, row["method"], row["objective"]), {})[name] = row
    return [shared.get(place[:2], {}) | cell for place, cell in found.items()]


def called(row: Row) -> str:
    """What a row of the study of baselines is, within its cell."""
    if row["method"] in (studies.CHANCE, studies.CLOSED_FORM[0]):
        return str(row["method"])
    return str(row["synthesis"] if row["setting"] == studies.DEFAULT else row["setting"])


def _differences(row: Row, other: Row) -> dict[str, Any] | None:
    """By metric, seed by seed, where both have it."""
    found = {}
    for name in METRICS:
        values, others = (one[f"{name}_runs"] for one in (row, other))
        if len(values) != len(others) or None in [*values, *others]:
            return None
        found[name] = interval(paired(values, others))
    return found


def _place(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("study", "data", "alpha", "method", "objective"))

"""The results of a set of studies: rows in one file, and beside it what is only drawn."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import results
from results import ABOUT
from studies.trials.arithmetic import Row


@dataclass
class Result:
    """What has been measured so far."""

    rows: list[Row] = field(default_factory=list)
    failures: list[Row] = field(default_factory=list)
    measured: dict[str, Row] = field(default_factory=dict)  # by study: when, on what, by what


def read(path: Path, names: Sequence[str]) -> Result:
    """The rows with their curves; ``names`` are those of the fields that tell rows apart.

    Raises
    ------
    ResultError
        If a file is not there or torn.
    """
    lines, drawn = results.read(path), results.read(curves_of(path))
    curves = {_key(line, names): line for line in drawn.get("curve", [])}
    measured = {about.pop("study"): about for about in lines[ABOUT]}
    rows = [row | curves.get(_key(row, names), {}) for row in lines.get("row", [])]
    return Result(rows, lines.get("failure", []), measured)


def write(path: Path, result: Result, names: Sequence[str]) -> None:
    """Write rows and curves, which `read` reads."""
    curves = [
        {k: v for k, v in row.items() if k in names or _drawn(k)}
        for row in result.rows
        if any(map(_drawn, row))
    ]
    drawn = {ABOUT: [{"of": path.name}], "curve": curves}
    results.write(curves_of(path), drawn)  # first: where the rows are, it is there
    abouts = [{"study": study, **about} for study, about in result.measured.items()]
    rows = [{k: v for k, v in row.items() if not _drawn(k)} for row in result.rows]
    results.write(path, {ABOUT: abouts, "row": rows, "failure": result.failures})


def curves_of(path: Path) -> Path:
    """The file beside that of the rows."""
    return path.with_suffix(f".curves{path.suffix}")


def _drawn(name: str) -> bool:
    return name == "curve" or name.endswith("_curve")


def _key(row: Row, names: Sequence[str]) -> tuple[object, ...]:
    return tuple(row[name] for name in names)

"""Result files: JSON lines, of which the first say on what the others were measured.

Every line is an object with a ``kind``. Lines of kind ``about`` stand first: date, machine and
versions, one for all, or one for each part that was measured by itself. A line is what a reader
looks up, or a difference of two versions shows: one measurement.
"""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsyn.errors import FedsynError
from fedsyn.federation import records

Row = dict[str, Any]
Lines = Mapping[str, Sequence[Row]]  # by kind

FOLDER = Path(__file__).parent / "results"
ABOUT = "about"
DIGITS = 6  # more than any measurement here is sure of


class ResultError(FedsynError):
    """A result file cannot be read."""


def read(path: Path) -> dict[str, list[Row]]:
    """The lines of a result file by kind.

    Raises
    ------
    ResultError
        If it is not there, a line is torn, or it does not begin with what it is about.
    """
    try:
        texts = path.read_text("utf-8").removesuffix("\n").split("\n")
    except OSError as error:
        raise ResultError(f"{path} cannot be read: {error.strerror}") from None
    lines: dict[str, list[Row]] = {}
    for number, text in enumerate(texts, 1):
        kind, row = _parsed(text, f"{path}, line {number}")
        if number == 1 and kind != ABOUT:
            raise ResultError(f"{path} begins with kind {kind!r}; expected {ABOUT!r}")
        lines.setdefault(kind, []).append(row)
    return lines


def write(path: Path, lines: Lines) -> None:
    """Write a result file whole; its kinds in this order, what it is about first."""
    assert lines[ABOUT], "a result without the machine and the date is none"
    kinds = sorted(lines, key=lambda kind: kind != ABOUT)
    rows = [{"kind": kind, **row} for kind in kinds for row in lines[kind]]
    path.parent.mkdir(parents=True, exist_ok=True)
    records.write_text(path, "".join(_line(row) for row in rows))


def publish(name: str, about: Row, rows: Sequence[Row], **others: Sequence[Row]) -> None:
    """Write ``bench/results/NAME.jsonl``, and show it."""
    path = FOLDER / f"{name}.jsonl"
    write(path, {ABOUT: [about], "row": rows, **others})
    sys.stdout.write(path.read_text("utf-8"))


def _parsed(text: str, place: str) -> tuple[str, Row]:
    try:
        row = json.loads(text)
    except ValueError:
        raise ResultError(f"{place} is torn; restore the file, or measure anew") from None
    if not isinstance(row, dict) or not isinstance(row.get("kind"), str):
        raise ResultError(f"{place}: expected an object with a kind")
    return row.pop("kind"), row


def _line(row: Row) -> str:
    return json.dumps(_rounded(row), ensure_ascii=False) + "\n"


def _rounded(value: Any) -> Any:
    """Nested data with few digits, and None for what is not finite, which JSON has no words for."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value

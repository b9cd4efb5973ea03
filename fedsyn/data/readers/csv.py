"""Comma-separated values: columns of strings, the first row their names."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fedsyn.data.readers.base import Reader, Stored
from fedsyn.data.sections import DataConfig
from fedsyn.errors import DataError


def _open(path: Path, config: DataConfig) -> dict[str, Stored]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.reader(file))
    if not rows:
        return {}
    header, body = rows[0], [row for row in rows[1:] if row]
    for number, row in enumerate(body):
        if len(row) != len(header):
            raise DataError(
                f"data file {str(path)!r} has {len(row)} fields in row {number} "
                f"and {len(header)} columns"
            )

    def reader(column: int) -> Callable[[], np.ndarray]:
        return lambda: np.array([row[column] for row in body], dtype=str)

    return {name: Stored("str", (len(body),), True, reader(i)) for i, name in enumerate(header)}


CSV = Reader(name="csv", open=_open, endings=(".csv",))

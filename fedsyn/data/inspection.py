"""A look into a file of pairs, before a configuration is written for it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedsyn.data.readers import READERS
from fedsyn.data.readers.base import Reader, Stored
from fedsyn.data.sections import DataConfig
from fedsyn.errors import DataError, UnsafeDataError

CHUNK = 1 << 24  # values at a time
EXAMPLE = 60  # characters


@dataclass(frozen=True)
class ArraySummary:
    """What there is to say of one array or column."""

    name: str
    dtype: str  # as the file has it
    shape: tuple[int, ...]
    low: float | None  # smallest and largest number; None for anything else
    high: float | None
    missing: int  # NaNs, or empty strings
    example: str  # the first row, shortened; or why the array cannot be read


def inspect(path: Path | str, reader: Reader = READERS.default) -> list[ArraySummary]:
    """Summarise every array of a file; arrays that cannot be read say why.

    Parameters
    ----------
    path : Path or str
    reader : Reader
        What reads it; by default what its ending tells.

    Raises
    ------
    DataError
        If the file is missing, of an unknown kind or damaged, or an array is unsafe to read.
    """
    path = Path(path).expanduser()
    return [_summary(name, stored) for name, stored in reader.arrays(path, DataConfig()).items()]


def _summary(name: str, stored: Stored) -> ArraySummary:
    try:
        values = stored.read()
    except UnsafeDataError:
        raise
    except DataError as error:
        return ArraySummary(name, stored.dtype, stored.shape, None, None, 0, str(error))
    first = values.ravel()[:1] if values.ndim < 2 else values[:1].ravel()
    if values.dtype.kind in "fiub":
        low, high, missing = _range(values)
        example = " ".join(f"{value:.4g}" for value in first[:8].tolist())
    else:
        low = high = None
        missing = int((values == "").sum()) if values.dtype.kind == "U" else 0
        example = " | ".join(map(_described, first[:8].tolist()))
    return ArraySummary(name, stored.dtype, values.shape, low, high, missing, _shortened(example))


def _range(values: np.ndarray) -> tuple[float | None, float | None, int]:
    """Smallest and largest number and the count of NaNs, a part of a mapped file at a time."""
    flat = values.reshape(-1)
    lows, highs, missing = [], [], 0
    for start in range(0, flat.size, CHUNK):
        part = flat[start : start + CHUNK]
        present = part[~np.isnan(part)] if part.dtype.kind == "f" else part
        missing += part.size - present.size
        if present.size:
            lows.append(float(present.min()))
            highs.append(float(present.max()))
    return min(lows, default=None), max(highs, default=None), missing


def _described(value: object) -> str:
    return f"{len(value)} bytes" if isinstance(value, bytes) else str(value)


def _shortened(text: str) -> str:
    return text if len(text) <= EXAMPLE else text[: EXAMPLE - 1] + "…"

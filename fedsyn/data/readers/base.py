"""What a reader is: from a file or a folder to its arrays, each described without being read.

Nothing is ever unpickled.
"""

import csv
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fedsyn.data.sections import DataConfig
from fedsyn.errors import DataError, UnsafeDataError
from fedsyn.settings.plugins import Plugin

# What the libraries raise on damaged files.
DAMAGE = (
    OSError, ValueError, KeyError, EOFError, TypeError, IndexError, NotImplementedError,
    RuntimeError, struct.error, zipfile.BadZipFile, zlib.error, csv.Error,
)  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """An array in a file, described before it is read."""

    dtype: str  # as the file has it
    shape: tuple[int, ...]  # the axes that are known before it is read
    column: bool  # a value, or some strings, a row: small enough to read along
    read: Callable[[], np.ndarray]  # strings as dtype str; pictures in columns as bytes objects


@dataclass(frozen=True, kw_only=True, eq=False)
class Reader(Plugin):
    """A form of files, or of folders, that hold pairs, as a plug-in.

    Its options stand in the section ``[data]``.

    Attributes
    ----------
    open : ``(path, config: DataConfig) -> {name: array or Stored}``
        The arrays or columns that are there: numbers, strings, or ``bytes`` of pictures, one row a
        pair. Which of them are pictures, texts, labels and the split is for ``[data]`` to say. What
        it raises on a damaged file (a `DataError`, or what is in `DAMAGE`) is told in one sentence.
    endings : tuple of str
        Of the files that it is chosen for where none is named, with the dot, lower-case.
    folders : bool
        Whether it is chosen for folders.
    """

    open: Callable[[Path, Any], Mapping[str, Stored | ArrayLike]]
    endings: tuple[str, ...] = ()
    folders: bool = False

    def arrays(self, path: Path, config: DataConfig) -> dict[str, Stored]:
        """The arrays or columns of a file or folder, by name.

        Raises
        ------
        DataError
            If it is missing, of another kind or damaged.
        """
        if not path.exists():
            raise DataError(f"data file {str(path)!r} does not exist")
        with _damage_reported(path):
            found = self.open(path, config)
            arrays = {name: held(array) for name, array in found.items()}
        return {
            name: replace(array, read=_guarded(path, array.read)) for name, array in arrays.items()
        }


def held(array: Stored | ArrayLike) -> Stored:
    """An array that is in memory."""
    if isinstance(array, Stored):
        return array
    values = np.asarray(array)
    column = is_column(values.dtype.kind, values.shape)
    return Stored(str(values.dtype), values.shape, column, lambda: values)


def is_column(kind: str, shape: tuple[int, ...]) -> bool:
    """Whether an array of a kind of types has a value, or some strings, a row."""
    return (len(shape) == 1 and kind in "fiubUS") or (len(shape) == 2 and kind in "US")


def without_unit_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """[N, 1] and [1, N] are vectors to MATLAB's users."""
    return (max(shape),) if len(shape) == 2 and 1 in shape else tuple(shape)


def where(path: Path, name: str) -> str:
    """An array of a file, in messages."""
    return f"array {name!r} of {str(path)!r}"


def unreadable(array: str, why: str) -> UnsafeDataError:
    """That an array, as `where` names it, would harm whoever reads it."""
    detail = why.partition("\n")[0]
    return UnsafeDataError(f"{array} cannot be read: {detail}")


def _guarded(path: Path, read: Callable[[], np.ndarray]) -> Callable[[], np.ndarray]:
    def guarded() -> np.ndarray:
        with _damage_reported(path):
            return read()

    return guarded


@contextmanager
def _damage_reported(path: Path) -> Iterator[None]:
    """What the libraries raise on damaged files, in one sentence that names the file."""
    try:
        yield
    except DataError:
        raise
    except PermissionError:
        raise DataError(f"data file {str(path)!r} may not be read") from None
    except DAMAGE as error:
        detail = str(error).partition("\n")[0]
        raise DataError(
            f"data file {str(path)!r} is damaged or not a {path.suffix} file: {detail}"
        ) from error

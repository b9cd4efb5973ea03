"""MATLAB's files: those before version 7.3 by SciPy, the others are HDF5."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fedsyn.data import sparse
from fedsyn.data.readers import matlab_hdf5
from fedsyn.data.readers.base import (
    DAMAGE,
    Reader,
    Stored,
    unreadable,
    where,
    without_unit_axes,
)
from fedsyn.data.sections import DataConfig
from fedsyn.errors import DataError

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
MATLAB_HEADER = b"MATLAB 7.3 MAT-file"
MAYBE_SPARSE = "sparse", "logical"  # classes that SciPy gives to sparse matrices


def _open(path: Path, config: DataConfig) -> dict[str, Stored]:
    with path.open("rb") as file:
        start = file.read(520)
    if start.startswith(MATLAB_HEADER) or HDF5_SIGNATURE in start:
        return matlab_hdf5.arrays(path)
    from scipy.io import loadmat, whosmat
    from scipy.io.matlab import MatReadError
    from scipy.sparse import issparse

    def reader(name: str, axes: tuple[int, ...], kind: str) -> Callable[[], np.ndarray]:
        array = where(path, name)

        def read() -> np.ndarray:
            try:
                value = loadmat(path, variable_names=[name])[name]
            except (*DAMAGE, MatReadError, OverflowError, MemoryError) as error:
                if kind not in MAYBE_SPARSE:
                    raise
                sparse.check_size(array, axes, itemsize=1)
                raise unreadable(array, str(error)) from error
            if issparse(value):
                sparse.check_size(array, axes, itemsize=1)  # these, too, a file can forge
                value = sparse.dense(array, value)
            return _from_matlab(value)

        return read

    def stored(name: str, axes: tuple[int, ...], kind: str) -> Stored:
        shape = without_unit_axes(axes)
        column = len(shape) == 1 or kind in ("char", "cell")
        return Stored(kind, shape, column, reader(name, axes, kind))

    try:
        return {name: stored(name, axes, kind) for name, axes, kind in whosmat(path)}
    except (MatReadError, OverflowError) as error:  # the latter of infinite axes in version 4
        raise ValueError(str(error)) from None


def _from_matlab(value: Any) -> np.ndarray:
    """MATLAB has no vectors and no string arrays: drop unit axes, open cells."""
    array = np.asarray(value)
    array = array.reshape(without_unit_axes(array.shape))
    if array.dtype != object:
        return array
    cells = [np.asarray(cell).ravel() for cell in array.ravel()]
    if not all(cell.dtype.kind == "U" and len(cell) <= 1 for cell in cells):
        raise DataError("a cell array holds other things than strings")
    strings = [str(cell[0]) if len(cell) else "" for cell in cells]
    return np.array(strings).reshape(array.shape)


MAT = Reader(name="mat", open=_open, endings=(".mat",))

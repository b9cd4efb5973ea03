"""HDF5 files. Contiguous data sets are memory-mapped, read-only."""

from pathlib import Path
from typing import Any

import numpy as np

from fedsyn.data.readers.base import Reader, Stored, is_column
from fedsyn.data.sections import DataConfig
from fedsyn.errors import DataError


def _open(path: Path, config: DataConfig) -> dict[str, Stored]:
    import h5py

    found: dict[str, Stored] = {}

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and not name.startswith("#"):
            found[name] = _stored(path, name, node)

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return found


def _stored(path: Path, name: str, node: Any) -> Stored:
    import h5py

    def read() -> np.ndarray:
        with h5py.File(path, "r") as file:
            return _values(path, file[name])

    text = h5py.check_string_dtype(node.dtype) is not None
    kind, shape = "U" if text else node.dtype.kind, tuple(node.shape)
    return Stored("str" if text else str(node.dtype), shape, is_column(kind, shape), read)


def _values(path: Path, node: Any) -> np.ndarray:
    import h5py

    if h5py.check_string_dtype(node.dtype) is not None:
        return np.asarray(node.asstr()[()]).astype(str)
    if node.dtype.kind == "O":
        raise DataError(f"array {node.name!r} holds references or objects, not numbers or strings")
    offset = node.id.get_offset()  # None unless contiguous and allocated
    plain = node.dtype.kind in "fiub" and node.file.userblock_size == 0
    if offset is not None and plain and node.external is None and node.ndim:
        return np.memmap(path, node.dtype, "r", offset=offset, shape=node.shape)
    return np.asarray(node[()])


HDF5 = Reader(name="hdf5", open=_open, endings=(".h5", ".hdf5"))

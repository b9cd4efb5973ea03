"""MATLAB's files of version 7.3: HDF5 with axes reversed, char matrices, cells, sparse matrices."""

from pathlib import Path
from typing import Any

import numpy as np

from fedsyn.data import sparse
from fedsyn.data.readers.base import (
    DAMAGE,
    Stored,
    is_column,
    unreadable,
    where,
    without_unit_axes,
)
from fedsyn.errors import DataError

SPARSE = "MATLAB_sparse"  # an attribute of the group that is a sparse matrix: its number of rows


def arrays(path: Path) -> dict[str, Stored]:
    """The arrays of a file, but for the parts that sparse matrices are made of."""
    import h5py

    found: dict[str, Stored] = {}

    def visit(name: str, node: Any) -> None:
        if name.startswith("#") or SPARSE in node.parent.attrs:
            return
        if SPARSE in node.attrs and isinstance(node, h5py.Group):
            found[name] = _sparse(path, name, node)
        elif isinstance(node, h5py.Dataset):
            found[name] = _array(path, name, node)

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return found


def _array(path: Path, name: str, node: Any) -> Stored:
    import h5py

    # MATLAB stores columns first, so its axes come out reversed.
    shape = without_unit_axes(node.shape[::-1])

    def read() -> np.ndarray:
        with h5py.File(path, "r") as file:
            return _values(file, file[name])

    text = h5py.check_string_dtype(node.dtype) is not None
    cells = node.attrs.get("MATLAB_class", b"") in (b"cell", b"char")
    kind = "U" if text or cells else node.dtype.kind
    return Stored("str" if text else str(node.dtype), shape, is_column(kind, shape), read)


def _values(file: Any, node: Any) -> np.ndarray:
    kind = node.attrs.get("MATLAB_class", b"")
    if kind == b"char":
        values = np.array(_strings(node))
    elif kind == b"cell":
        cells = np.asarray(node[()]).T
        texts = ["".join(_strings(file[cell])) for cell in cells.ravel()]
        values = np.array(texts).reshape(cells.shape)
    elif node.dtype.kind not in "fiub":
        raise DataError(f"array {node.name!r} is of the unsupported MATLAB class {kind.decode()!r}")
    else:
        values = np.asarray(node[()]).T
    return values.reshape(without_unit_axes(values.shape))


def _sparse(path: Path, name: str, node: Any) -> Stored:
    """MATLAB's sparse matrices: a group of pointers ``jc``, row numbers ``ir`` and ``data``."""
    import h5py

    array = where(path, name)

    def read() -> np.ndarray:
        with h5py.File(path, "r") as file:
            try:
                return _sparse_values(array, file[name])
            except DataError:
                raise
            except (*DAMAGE, OverflowError, MemoryError) as error:
                raise unreadable(array, str(error)) from error

    rows, pointers = _sparse_rows(node), _sparse_part(node, "jc")
    if rows is None or pointers is None:
        shape: tuple[int, ...] = ()  # reading it says why
    else:
        shape = without_unit_axes((rows, pointers.size - 1))
    return Stored("sparse", shape, len(shape) == 1, read)


def _sparse_values(array: str, group: Any) -> np.ndarray:
    from scipy.sparse import csc_array

    rows, pointers = _sparse_rows(group), _sparse_part(group, "jc")
    if rows is None:
        raise unreadable(array, "its number of rows is no whole number")
    if pointers is None or pointers.size == 0:
        raise unreadable(array, "it has no 'jc'")
    shape = rows, pointers.size - 1
    # Without any values MATLAB leaves these two out.
    indices, values = (_sparse_part(group, part) for part in ("ir", "data"))
    parts = [part for part in (pointers, indices, values) if part is not None]
    itemsize = 8 if values is None else values.dtype.itemsize
    # Before anything is read: a part can be declared at any length and take no space in the file.
    sparse.check_size(array, shape, itemsize, beside=sum(part.nbytes for part in parts))
    if values is not None and values.dtype.kind not in "fiub":
        raise DataError(f"{array} is a sparse matrix of {values.dtype}; expected real numbers")
    jc = pointers[()].ravel()
    ir = np.empty(0, np.int64) if indices is None else indices[()].ravel()
    data = np.empty(0) if values is None else values[()].ravel()
    sparse.check(array, shape, sparse.compressed_fault(shape[1], rows, jc, ir, data))
    jc, ir = jc.astype(np.int64), ir.astype(np.int64)
    dense = sparse.dense(array, csc_array((data, ir, jc), shape=shape))
    return dense.reshape(without_unit_axes(shape))


def _sparse_rows(group: Any) -> int | None:
    rows = np.asarray(group.attrs[SPARSE])
    return int(rows.item()) if rows.size == 1 and rows.dtype.kind in "iu" else None


def _sparse_part(group: Any, name: str) -> Any:
    """A data set that lies in this group and nowhere else; None where there is no such."""
    import h5py

    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        return None
    part = group[name]
    if not isinstance(part, h5py.Dataset) or part.external is not None or part.is_virtual:
        return None
    return part


def _strings(node: Any) -> list[str]:
    """Rows of a char matrix; MATLAB marks empty values by an attribute and stores their shape."""
    if node.attrs.get("MATLAB_empty", 0):
        return [""]
    if node.attrs.get("MATLAB_class", b"") != b"char":
        raise DataError("a cell array holds other things than strings")
    rows = np.asarray(node[()]).T
    return [row.astype("<u2").tobytes().decode("utf-16-le").rstrip() for row in rows]

"""Sparse matrices that come from files: looked through before anything is made of them.

SciPy makes them dense in C++, which believes what it is given: a value is written to where its
index points, also beyond the matrix, and values are read from where the pointers say. SciPy's own
``check_format(full_check=True)`` passes a matrix whose last pointer is zero without a look at the
others, so nothing here relies on it.
"""

from typing import Any

import numpy as np

from fedsyn.errors import UnsafeDataError

# A file of two hundred bytes can declare a matrix of any size.
LIMIT = 1 << 32  # bytes that are taken for one at most
ROOM = 1 << 28  # bytes that are taken for one with any number of values
SPARSEST = 100_000  # places a value, beyond that room


def dense(where: str, matrix: Any) -> np.ndarray:
    """The values of a matrix of SciPy's that a file's contents were put into.

    Parameters
    ----------
    where : names array and file in messages.
    matrix : in the format CSC, CSR or COO.

    Returns
    -------
    The dense array, of the matrix's shape and type.

    Raises
    ------
    UnsafeDataError
        If its parts contradict each other, or it is too large.
    """
    check_size(where, matrix.shape, matrix.dtype.itemsize)
    check(where, matrix.shape, _fault(matrix))
    check_size(where, matrix.shape, matrix.dtype.itemsize, values=matrix.nnz)
    return np.asarray(matrix.toarray())


def check_size(
    where: str, shape: tuple[int, ...], itemsize: int, beside: int = 0, values: int | None = None
) -> None:
    """Refuse a matrix that would take more than `LIMIT` bytes, or than its values are worth.

    Parameters
    ----------
    where : names array and file in the message.
    shape : as the file declares it.
    itemsize : bytes of a value, at least.
    beside : bytes that are needed beside the dense matrix.
    values : how many there are, where that is known.

    Raises
    ------
    UnsafeDataError
        If it would take more, or has not two axes.
    """
    if len(shape) != 2:
        raise UnsafeDataError(
            f"{where} is a sparse matrix of shape {list(shape)}; expected rows and columns"
        )
    # An axis of length zero hides the other from the product, not from the pointers.
    needed = max(1, shape[0]) * max(1, shape[1]) * itemsize + beside
    limit = LIMIT
    if values is not None:
        limit = min(LIMIT, max(ROOM, SPARSEST * values * itemsize))
    if needed > limit:
        raise UnsafeDataError(
            f"{where} is a sparse matrix of {shape[0]} x {shape[1]} that takes {needed} bytes or "
            f"more to read; expected at most {limit}"
            + (f" for {values} values" if limit < LIMIT else "")
        )


def check(where: str, shape: tuple[int, ...], fault: str | None) -> None:
    """Refuse a matrix that has a fault, see `compressed_fault`.

    Raises
    ------
    UnsafeDataError
        If there is one.
    """
    if fault is not None:
        raise UnsafeDataError(
            f"{where} is a sparse matrix of {shape[0]} x {shape[1]} that contradicts itself: it "
            f"has {fault}"
        )


def compressed_fault(
    lines: int, length: int, pointers: np.ndarray, indices: np.ndarray, values: np.ndarray
) -> str | None:
    """What is wrong with the parts of compressed rows (CSR) or columns (CSC).

    Parameters
    ----------
    lines : rows of CSR, columns of CSC.
    length : of a line.
    pointers : where each line starts among the indices, and where the last one ends [lines + 1].
    indices, values : places in a line, and what stands there; there may be more than are used.

    Returns
    -------
    The first fault found, as an object of "it has"; None where the parts fit each other.
    """
    if not _whole(pointers) or not _whole(indices) or values.ndim != 1:
        return "parts that are no lists of whole numbers with their values"
    if len(pointers) != lines + 1:
        return f"{len(pointers)} pointers; expected {lines + 1}"
    if pointers[0] != 0:
        return f"{pointers[0]} as first pointer; expected 0"
    falls = np.flatnonzero(pointers[1:] < pointers[:-1])
    if falls.size:
        before, after = pointers[falls[0]], pointers[falls[0] + 1]
        return f"pointers that fall from {before} to {after}"
    used = int(pointers[-1])
    if used > len(indices) or len(indices) != len(values):
        return f"{len(indices)} indices and {len(values)} values; its pointers say {used}"
    return _index_fault(indices[:used], length)


def _fault(matrix: Any) -> str | None:
    rows, columns = matrix.shape
    if matrix.format == "csc":
        return compressed_fault(columns, rows, matrix.indptr, matrix.indices, matrix.data)
    if matrix.format == "csr":
        return compressed_fault(rows, columns, matrix.indptr, matrix.indices, matrix.data)
    if matrix.format != "coo":
        raise TypeError(f"a matrix of the format {matrix.format!r}; expected csc, csr or coo")
    if not len(matrix.row) == len(matrix.col) == len(matrix.data):
        return f"{len(matrix.row)} rows, {len(matrix.col)} columns and {len(matrix.data)} values"
    return _index_fault(matrix.row, rows) or _index_fault(matrix.col, columns)


def _whole(part: np.ndarray) -> bool:
    return part.ndim == 1 and part.dtype.kind in "iu"


def _index_fault(indices: np.ndarray, length: int) -> str | None:
    if not len(indices):
        return None
    for index in (int(indices.min()), int(indices.max())):
        if not 0 <= index < length:
            return f"the index {index}; expected indices from 0, below {length}"
    return None

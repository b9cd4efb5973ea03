"""File formats: the arrays that a file holds, each described without being read.

Nothing is ever unpickled. Arrays that lie in a file as they do in memory (uncompressed members of
an ``.npz``, contiguous HDF5 data sets) are memory-mapped, read-only.
"""

import csv
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedsyn.data import sparse
from fedsyn.data.official import official
from fedsyn.errors import DataError, UnsafeDataError

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
MATLAB_HEADER = b"MATLAB 7.3 MAT-file"
SPARSE = "MATLAB_sparse"  # an attribute of the group that is a sparse matrix: its number of rows
MAYBE_SPARSE = "sparse", "logical"  # classes that SciPy gives to sparse matrices
ZIP_HEADER = struct.Struct("<26xHH")  # lengths of name and extra field in a local file header
# What the libraries raise on damaged files.
DAMAGE = (
    OSError, ValueError, KeyError, EOFError, TypeError, IndexError, NotImplementedError,
    RuntimeError, struct.error, zipfile.BadZipFile, zlib.error, csv.Error,
)  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """An array in a file."""

    dtype: str  # as the file has it
    shape: tuple[int, ...]
    column: bool  # a value, or some strings, a row: small enough to read along
    read: Callable[[], np.ndarray]  # strings as dtype str; pictures in columns as bytes objects


def arrays(path: Path) -> dict[str, Stored]:
    """The arrays or columns of a file, or of a folder that `fedsyn.data.official` knows, by name.

    Raises
    ------
    DataError
        If the file is missing, of an unknown kind or damaged.
    """
    if not path.exists():
        raise DataError(f"data file {str(path)!r} does not exist")
    if path.is_dir():
        return {name: held(array) for name, array in official(path).items()}
    opener = FORMATS.get(path.suffix.lower())
    if opener is None:
        raise DataError(
            f"{str(path)!r} has the unknown extension {path.suffix!r}; "
            f"expected one of {', '.join(FORMATS)}"
        )
    with _damage_reported(path):
        return {
            name: replace(array, read=_guarded(path, array.read))
            for name, array in opener(path).items()
        }


def held(array: np.ndarray) -> Stored:
    """An array that is in memory."""
    column = _is_column(array.dtype.kind, array.shape)
    return Stored(str(array.dtype), array.shape, column, lambda: array)


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


# .npz


def _npz(path: Path) -> dict[str, Stored]:
    with zipfile.ZipFile(path) as archive:
        members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        return {
            info.filename.removesuffix(".npy"): _npz_member(path, archive, info) for info in members
        }


def _npz_member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Stored:
    with archive.open(info) as stream:
        shape, fortran, dtype = _npy_header(stream)
        header = stream.tell()
    name = info.filename.removesuffix(".npy")

    def read() -> np.ndarray:
        if dtype.hasobject:
            raise DataError(
                f"array {name!r} of {str(path)!r} holds pickled Python objects, which are never "
                "loaded; expected numbers or strings"
            )
        if info.compress_type == zipfile.ZIP_STORED and np.prod(shape) and dtype.kind in "fiub":
            offset = _data_offset(path, info) + header
            order = "F" if fortran else "C"
            return np.memmap(path, dtype, "r", offset=offset, shape=shape, order=order)  # type: ignore[call-overload, no-any-return]
        with np.load(path, allow_pickle=False) as archive:
            return np.asarray(archive[name])

    return Stored(str(dtype), shape, _is_column(dtype.kind, shape), read)


def _is_column(kind: str, shape: tuple[int, ...]) -> bool:
    return (len(shape) == 1 and kind in "fiubUS") or (len(shape) == 2 and kind in "US")


def _npy_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    return np.lib.format.read_array_header_2_0(stream)


def _data_offset(path: Path, info: zipfile.ZipInfo) -> int:
    # The local header's extra field differs from the directory's, so it is read where it lies.
    with path.open("rb") as file:
        file.seek(info.header_offset)
        name, extra = ZIP_HEADER.unpack(file.read(ZIP_HEADER.size))
    return info.header_offset + ZIP_HEADER.size + int(name) + int(extra)


# .mat


def _mat(path: Path) -> dict[str, Stored]:
    with path.open("rb") as file:
        start = file.read(520)
    if start.startswith(MATLAB_HEADER) or HDF5_SIGNATURE in start:
        return _hdf5(path, matlab=True)
    from scipy.io import loadmat, whosmat
    from scipy.io.matlab import MatReadError
    from scipy.sparse import issparse

    def reader(name: str, axes: tuple[int, ...], kind: str) -> Callable[[], np.ndarray]:
        where = _where(path, name)

        def read() -> np.ndarray:
            try:
                value = loadmat(path, variable_names=[name])[name]
            except (*DAMAGE, MatReadError, OverflowError, MemoryError) as error:
                if kind not in MAYBE_SPARSE:
                    raise
                sparse.check_size(where, axes, itemsize=1)
                raise _unreadable(where, str(error)) from error
            if issparse(value):
                sparse.check_size(where, axes, itemsize=1)  # these, too, a file can forge
                value = sparse.dense(where, value)
            return _from_matlab(value)

        return read

    def stored(name: str, axes: tuple[int, ...], kind: str) -> Stored:
        shape = _without_unit_axes(axes)
        column = len(shape) == 1 or kind in ("char", "cell")
        return Stored(kind, shape, column, reader(name, axes, kind))

    try:
        return {name: stored(name, axes, kind) for name, axes, kind in whosmat(path)}
    except (MatReadError, OverflowError) as error:  # the latter of infinite axes in version 4
        raise ValueError(str(error)) from None


def _where(path: Path, name: str) -> str:
    return f"array {name!r} of {str(path)!r}"


def _unreadable(where: str, why: str) -> UnsafeDataError:
    detail = why.partition("\n")[0]
    return UnsafeDataError(f"{where} cannot be read: {detail}")


def _from_matlab(value: Any) -> np.ndarray:
    """MATLAB has no vectors and no string arrays: drop unit axes, open cells."""
    array = np.asarray(value)
    array = array.reshape(_without_unit_axes(array.shape))
    if array.dtype != object:
        return array
    cells = [np.asarray(cell).ravel() for cell in array.ravel()]
    if not all(cell.dtype.kind == "U" and len(cell) <= 1 for cell in cells):
        raise DataError("a cell array holds other things than strings")
    strings = [str(cell[0]) if len(cell) else "" for cell in cells]
    return np.array(strings).reshape(array.shape)


def _without_unit_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """[N, 1] and [1, N] are vectors to MATLAB's users."""
    return (max(shape),) if len(shape) == 2 and 1 in shape else tuple(shape)


# .h5, .hdf5 and .mat version 7.3


def _h5(path: Path) -> dict[str, Stored]:
    return _hdf5(path, matlab=False)


def _hdf5(path: Path, matlab: bool) -> dict[str, Stored]:
    import h5py

    found: dict[str, Stored] = {}

    def visit(name: str, node: Any) -> None:
        if name.startswith("#") or (matlab and SPARSE in node.parent.attrs):
            return
        if matlab and SPARSE in node.attrs and isinstance(node, h5py.Group):
            found[name] = _hdf5_sparse(path, name, node)
        elif isinstance(node, h5py.Dataset):
            found[name] = _hdf5_array(path, name, node, matlab)

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return found


def _hdf5_array(path: Path, name: str, node: Any, matlab: bool) -> Stored:
    import h5py

    # MATLAB stores columns first, so its axes come out reversed.
    shape = _without_unit_axes(node.shape[::-1]) if matlab else tuple(node.shape)

    def read() -> np.ndarray:
        with h5py.File(path, "r") as file:
            if matlab:
                return _matlab_values(file, file[name])
            return _hdf5_values(path, file[name])

    text = h5py.check_string_dtype(node.dtype) is not None
    cells = matlab and node.attrs.get("MATLAB_class", b"") in (b"cell", b"char")
    kind = "U" if text or cells else node.dtype.kind
    return Stored("str" if text else str(node.dtype), shape, _is_column(kind, shape), read)


def _hdf5_values(path: Path, node: Any) -> np.ndarray:
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


def _matlab_values(file: Any, node: Any) -> np.ndarray:
    kind = node.attrs.get("MATLAB_class", b"")
    if kind == b"char":
        values = np.array(_matlab_strings(node))
    elif kind == b"cell":
        cells = np.asarray(node[()]).T
        texts = ["".join(_matlab_strings(file[cell])) for cell in cells.ravel()]
        values = np.array(texts).reshape(cells.shape)
    elif node.dtype.kind not in "fiub":
        raise DataError(f"array {node.name!r} is of the unsupported MATLAB class {kind.decode()!r}")
    else:
        values = np.asarray(node[()]).T
    return values.reshape(_without_unit_axes(values.shape))


def _hdf5_sparse(path: Path, name: str, node: Any) -> Stored:
    """MATLAB's sparse matrices: a group of pointers ``jc``, row numbers ``ir`` and ``data``."""
    import h5py

    where = _where(path, name)

    def read() -> np.ndarray:
        with h5py.File(path, "r") as file:
            try:
                return _matlab_sparse(where, file[name])
            except DataError:
                raise
            except (*DAMAGE, OverflowError, MemoryError) as error:
                raise _unreadable(where, str(error)) from error

    rows, pointers = _sparse_rows(node), _sparse_part(node, "jc")
    if rows is None or pointers is None:
        shape: tuple[int, ...] = ()  # reading it says why
    else:
        shape = _without_unit_axes((rows, pointers.size - 1))
    return Stored("sparse", shape, len(shape) == 1, read)


def _matlab_sparse(where: str, group: Any) -> np.ndarray:
    from scipy.sparse import csc_array

    rows, pointers = _sparse_rows(group), _sparse_part(group, "jc")
    if rows is None:
        raise _unreadable(where, "its number of rows is no whole number")
    if pointers is None or pointers.size == 0:
        raise _unreadable(where, "it has no 'jc'")
    shape = rows, pointers.size - 1
    # Without any values MATLAB leaves these two out.
    indices, values = (_sparse_part(group, part) for part in ("ir", "data"))
    parts = [part for part in (pointers, indices, values) if part is not None]
    itemsize = 8 if values is None else values.dtype.itemsize
    # Before anything is read: a part can be declared at any length and take no space in the file.
    sparse.check_size(where, shape, itemsize, beside=sum(part.nbytes for part in parts))
    if values is not None and values.dtype.kind not in "fiub":
        raise DataError(f"{where} is a sparse matrix of {values.dtype}; expected real numbers")
    jc = pointers[()].ravel()
    ir = np.empty(0, np.int64) if indices is None else indices[()].ravel()
    data = np.empty(0) if values is None else values[()].ravel()
    sparse.check(where, shape, sparse.compressed_fault(shape[1], rows, jc, ir, data))
    jc, ir = jc.astype(np.int64), ir.astype(np.int64)
    dense = sparse.dense(where, csc_array((data, ir, jc), shape=shape))
    return dense.reshape(_without_unit_axes(shape))


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


def _matlab_strings(node: Any) -> list[str]:
    """Rows of a char matrix; MATLAB marks empty values by an attribute and stores their shape."""
    if node.attrs.get("MATLAB_empty", 0):
        return [""]
    if node.attrs.get("MATLAB_class", b"") != b"char":
        raise DataError("a cell array holds other things than strings")
    rows = np.asarray(node[()]).T
    return [row.astype("<u2").tobytes().decode("utf-16-le").rstrip() for row in rows]


# .parquet


def _parquet(path: Path) -> dict[str, Stored]:
    import pyarrow.parquet as pq

    schema, rows = pq.read_schema(path), pq.read_metadata(path).num_rows

    def reader(name: str) -> Callable[[], np.ndarray]:
        return lambda: _column_values(name, pq.read_table(path, columns=[name]).column(name))

    return {
        field.name: Stored(str(field.type), (rows,), _is_scalar(field.type), reader(field.name))
        for field in schema
    }


def _column_values(name: str, column: Any) -> np.ndarray:
    """A column as an array: numbers [N], lists of numbers [N, d], strings [N] or [N, m], bytes."""
    import pyarrow as pa
    from pyarrow import types

    chunked = column.combine_chunks()
    values = chunked.combine_chunks() if isinstance(chunked, pa.ChunkedArray) else chunked
    kind = values.type
    if types.is_dictionary(kind):
        values = values.dictionary_decode()
        kind = values.type
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        # The layout of image columns in Hugging Face's data sets.
        values = values.field("bytes")
        kind = values.type
    if _is_list(kind):
        return _list_values(name, values)
    if types.is_binary(kind) or types.is_large_binary(kind):
        return _objects(name, values)
    if types.is_string(kind) or types.is_large_string(kind):
        return np.array(values.fill_null("").to_pylist(), dtype=str)
    if _is_scalar(kind):
        # Nulls become NaN, which the validation of each kind of array knows how to judge.
        return np.asarray(values.to_numpy(zero_copy_only=False), dtype=_numeric(values))
    raise DataError(f"column {name!r} is of the unsupported type {kind}")


def _is_scalar(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    text = types.is_string(kind) or types.is_large_string(kind)
    number = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
    return bool(text or number)


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _numeric(values: Any) -> Any:
    if values.null_count:
        return np.float64
    return values.type.to_pandas_dtype()


def _objects(name: str, values: Any) -> np.ndarray:
    if values.null_count:
        row = values.is_null().index(True).as_py()
        raise DataError(f"column {name!r} is null in row {row}; expected a picture's bytes")
    objects = np.empty(len(values), dtype=object)
    objects[:] = values.to_pylist()
    return objects


def _list_values(name: str, values: Any) -> np.ndarray:
    from pyarrow import types

    kind = values.type.value_type
    if types.is_string(kind) or types.is_large_string(kind):
        return np.array([" ".join(item or ()) for item in values.to_pylist()], dtype=str)
    if _is_list(kind):
        return np.array(values.to_pylist())
    if values.null_count:
        row = values.is_null().index(True).as_py()
        raise DataError(f"column {name!r} is null in row {row}; expected a list of numbers")
    lengths = np.array(values.value_lengths())
    odd = np.flatnonzero(lengths != lengths[:1])
    if odd.size:
        raise DataError(
            f"column {name!r} has {lengths[odd[0]]} values in row {odd[0]} "
            f"and {lengths[0]} in row 0; expected lists of one length"
        )
    flat = values.flatten()
    numbers = flat.to_numpy(zero_copy_only=False).astype(_numeric(flat), copy=False)
    return np.asarray(numbers.reshape(len(values), -1))


# .csv


def _csv(path: Path) -> dict[str, Stored]:
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


FORMATS: dict[str, Callable[[Path], dict[str, Stored]]] = {
    ".npz": _npz,
    ".mat": _mat,
    ".h5": _h5,
    ".hdf5": _h5,
    ".parquet": _parquet,
    ".csv": _csv,
}

"""Parquet files, as Hugging Face and pandas write them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fedsyn.data.readers.base import Reader, Stored
from fedsyn.data.sections import DataConfig
from fedsyn.errors import DataError


def _open(path: Path, config: DataConfig) -> dict[str, Stored]:
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


PARQUET = Reader(name="parquet", open=_open, endings=(".parquet",))

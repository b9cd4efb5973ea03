"""Archives of NumPy arrays. Those that are not compressed are memory-mapped, read-only."""

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from fedsyn.data.readers.base import Reader, Stored, is_column, where
from fedsyn.data.sections import DataConfig
from fedsyn.errors import DataError

ZIP_HEADER = struct.Struct("<26xHH")  # lengths of name and extra field in a local file header


def _open(path: Path, config: DataConfig) -> dict[str, Stored]:
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
                f"{where(path, name)} holds pickled Python objects, which are never "
                "loaded; expected numbers or strings"
            )
        if info.compress_type == zipfile.ZIP_STORED and np.prod(shape) and dtype.kind in "fiub":
            offset = _data_offset(path, info) + header
            order = "F" if fortran else "C"
            return np.memmap(path, dtype, "r", offset=offset, shape=shape, order=order)  # type: ignore[call-overload, no-any-return]
        with np.load(path, allow_pickle=False) as archive:
            return np.asarray(archive[name])

    return Stored(str(dtype), shape, is_column(dtype.kind, shape), read)


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


NPZ = Reader(name="npz", open=_open, endings=(".npz",))

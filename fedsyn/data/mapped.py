"""Tensors in a file that is mapped into memory: what is too large to be held."""

import json
import math
import mmap
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from fedsyn.errors import RunError

# A tensor's dtype and shape.
Kind = tuple[torch.dtype, tuple[int, ...]]
# And where in the file it starts.
Layout = Mapping[str, tuple[Kind, int]]

_DTYPES = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64"}
_ALIGN = 64


class MappedTensors:
    """Named tensors that live in one safetensors file and are changed in place.

    The file is sparse: what was never written takes no space and reads as zeros. Pages come and go
    as the system sees fit; `release` lets go of those that this process has touched, so that its
    resident memory does not grow with what it has visited.
    """

    def __init__(self, file: int, layout: Layout) -> None:
        self._map = mmap.mmap(file, 0)
        self.tensors: dict[str, Tensor] = {}
        for name, ((dtype, shape), offset) in layout.items():
            count = math.prod(shape)
            flat = torch.frombuffer(self._map, dtype=dtype, count=count, offset=offset)
            self.tensors[name] = flat.view(shape)

    @classmethod
    def create(cls, path: Path, kinds: Mapping[str, Kind]) -> "MappedTensors":
        """Make the file, of zeros; in the place of one that is there.

        Raises
        ------
        RunError
            If it cannot be made.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb+") as file:
                return cls(file.fileno(), _lay_out(file, kinds))
        except OSError as error:
            raise RunError(f"{str(path)!r} cannot be made: {error.strerror}") from None

    @classmethod
    def anonymous(cls, folder: Path, kinds: Mapping[str, Kind]) -> "MappedTensors":
        """The same in a file without a name in ``folder``, which goes when nobody uses it.

        Raises
        ------
        RunError
            If it cannot be made.
        """
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                return cls(file.fileno(), _lay_out(file, kinds))
        except OSError as error:
            raise RunError(f"no file can be made in {str(folder)!r}: {error.strerror}") from None

    @classmethod
    def open(cls, path: Path) -> "MappedTensors":
        """Map a file that `create` made.

        Raises
        ------
        RunError
            If it is missing or damaged.
        """
        try:
            with path.open("rb+") as file:
                return cls(file.fileno(), _read_layout(file))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{str(path)!r} cannot be read: {error}") from None

    def release(self) -> None:
        """Let go of the pages in memory; what was changed stays, in the system's cache."""
        self._map.madvise(mmap.MADV_DONTNEED)

    def flush(self) -> None:
        """Return when what was changed is on disk."""
        self._map.flush()


def _lay_out(file: IO[bytes], kinds: Mapping[str, Kind]) -> Layout:
    """Write the header of a safetensors file and give it its size."""
    header: dict[str, object] = {}
    end = 0
    for name, (dtype, shape) in kinds.items():
        size = math.prod(shape) * dtype.itemsize
        header[name] = {
            "dtype": _DTYPES[dtype], "shape": shape, "data_offsets": [end, end + size],
        }  # fmt: skip
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % _ALIGN)
    file.write(len(text).to_bytes(8, "little") + text)
    file.truncate(8 + len(text) + end)
    file.seek(0)
    return _read_layout(file)


def _read_layout(file: IO[bytes]) -> Layout:
    names = {name: dtype for dtype, name in _DTYPES.items()}
    start = 8 + int.from_bytes(file.read(8), "little")
    if start > os.fstat(file.fileno()).st_size:
        raise ValueError("its header is longer than the file")
    header = json.loads(file.read(start - 8))
    return {
        name: (
            (names[entry["dtype"]], tuple(entry["shape"])),
            start + entry["data_offsets"][0],
        )
        for name, entry in header.items()
    }


def release(array: np.ndarray) -> None:
    """Let go of the pages of an array that is mapped from a file; of any other, do nothing."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)

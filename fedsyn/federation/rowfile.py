"""Rows of tensors in one safetensors file, read and written one by one.

Reads and writes rather than a mapping: the file system takes them several times faster than the
page faults of a mapping that is written here and there, and resident memory does not grow with what
was visited.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fedsyn.errors import RunError

# A tensor's dtype and shape, the rows' axes first.
Kind = tuple[torch.dtype, tuple[int, ...]]

_DTYPES = {
    torch.float16: "F16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.bool: "BOOL",
}
_ALIGN = 64


class RowFile:
    """Named tensors ``[places, rows, ...]``, of which single rows are read and written.

    The file is sparse: what was never written takes no space and reads as zeros.

    Raises
    ------
    RunError
        If the file is missing, damaged or cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        names = {name: dtype for dtype, name in _DTYPES.items()}
        try:
            self._file = path.open("rb+", buffering=0)
            start = 8 + int.from_bytes(self._file.read(8), "little")
            if start > path.stat().st_size:
                raise ValueError("its header is longer than the file")
            header = json.loads(self._file.read(start - 8))
            self._offsets = {k: start + entry["data_offsets"][0] for k, entry in header.items()}
            self.kinds: Mapping[str, Kind] = {
                name: (names[entry["dtype"]], tuple(entry["shape"]))
                for name, entry in header.items()
            }
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{str(path)!r} cannot be read: {error}") from None

    @classmethod
    def create(cls, path: Path, kinds: Mapping[str, Kind]) -> "RowFile":
        """Make the file, of zeros, in the place of one that is there.

        Raises
        ------
        RunError
            If it cannot be made.
        """
        header: dict[str, object] = {}
        end = 0
        for name, (dtype, shape) in kinds.items():
            start, end = end, end + math.prod(shape) * dtype.itemsize
            header[name] = {"dtype": _DTYPES[dtype], "shape": shape, "data_offsets": [start, end]}
        text = json.dumps(header).encode()
        text += b" " * (-(len(text) + 8) % _ALIGN)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.write(len(text).to_bytes(8, "little") + text)
                file.truncate(8 + len(text) + end)
        except OSError as error:
            raise RunError(f"{str(path)!r} cannot be made: {error.strerror}") from None
        return cls(path)

    def read(self, name: str, places: Sequence[int], rows: Sequence[int]) -> Tensor:
        """Rows ``[C, ...]`` of one tensor."""
        dtype, shape = self.kinds[name]
        found = torch.empty(len(rows), *shape[2:], dtype=dtype)
        for row, place, number in zip(found, places, rows, strict=True):
            buffer = memoryview(row.numpy()).cast("B")
            at = self._at(name, place, number)
            if os.preadv(self._file.fileno(), [buffer], at) != len(buffer):
                raise RunError(f"{self._file.name!r} is damaged: it ends before row {number}")
        return found

    def write(self, name: str, places: Sequence[int], rows: Sequence[int], values: Tensor) -> None:
        """Put ``values [C, ...]`` into rows of one tensor."""
        for value, place, number in zip(values.contiguous(), places, rows, strict=True):
            buffer = memoryview(value.numpy()).cast("B")
            at = self._at(name, place, number)
            while buffer:
                written = os.pwrite(self._file.fileno(), buffer, at)
                buffer, at = buffer[written:], at + written

    def flush(self) -> None:
        """Return when what was written is on disk."""
        os.fsync(self._file.fileno())

    def _at(self, name: str, place: int, row: int) -> int:
        dtype, (_, rows, *rest) = self.kinds[name]
        index = (place * rows + row) * math.prod(rest)
        return int(self._offsets[name] + index * dtype.itemsize)

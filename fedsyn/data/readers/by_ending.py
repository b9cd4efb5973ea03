"""The reader that a file's ending, or its being a folder, tells."""

from collections.abc import Mapping
from pathlib import Path

from numpy.typing import ArrayLike

from fedsyn.data.readers import READERS
from fedsyn.data.readers.base import Reader, Stored
from fedsyn.data.sections import DataConfig
from fedsyn.errors import DataError


def _open(path: Path, config: DataConfig) -> Mapping[str, Stored | ArrayLike]:
    return _reader(path).open(path, config)


def _reader(path: Path) -> Reader:
    ending = path.suffix.lower()
    for reader in READERS:
        if reader.folders if path.is_dir() else ending in reader.endings:
            return reader
    known = ", ".join(ending for reader in READERS for ending in reader.endings)
    raise DataError(
        f"{str(path)!r} has the unknown extension {path.suffix!r}; expected one of {known}, or "
        "data.reader, the name of what reads it"
    )


AUTO = Reader(name="auto", open=_open)

"""Descriptors on disk, keyed by content, so that a second run does not compute them again.

An entry is an ``.npz`` without pickles, written to a temporary file and renamed, so that two
processes that write the same entry at once leave one whole file. A cache never fails a run: an
entry that cannot be read is computed again and a folder that cannot be written is ignored.
"""

import contextlib
import hashlib
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

Arrays = Mapping[str, np.ndarray]


def folder(setting: str) -> Path | None:
    """The folder that ``data.cache`` names: ``"auto"`` is the user's cache, ``""`` is none."""
    if setting == "":
        return None
    if setting != "auto":
        return Path(setting).expanduser()
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification has relative paths ignored.
    root = Path(base) if Path(base).is_absolute() else Path("~/.cache").expanduser()
    return root / "fedsyn"


def key(kind: str, content: np.ndarray, **parameters: object) -> str:
    """A name for ``kind`` of descriptors of ``content`` (hashed) under ``parameters``."""
    digest = hashlib.blake2b(digest_size=16)
    described = sorted((name, repr(value)) for name, value in parameters.items())
    digest.update(repr((kind, content.dtype.str, content.shape, described)).encode())
    step = max(1, (1 << 24) // max(1, content[:1].nbytes))
    for start in range(0, len(content), step):
        digest.update(np.ascontiguousarray(content[start : start + step]).view(np.uint8).data)
    return f"{kind}-{digest.hexdigest()}"


def cached(
    directory: Path | None,
    name: str,
    compute: Callable[[], Arrays],
    valid: Callable[[Arrays], bool] = lambda found: True,
) -> Arrays:
    """The arrays of entry ``name``, from disk where they are whole and ``valid``, else computed."""
    if directory is None:
        return compute()
    path = directory / f"{name}.npz"
    found = _read(path)
    if found is not None and valid(found):
        return found
    arrays = compute()
    with contextlib.suppress(OSError):
        _write(path, arrays)
    return arrays


def _read(path: Path) -> Arrays | None:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error):
        return None


def _write(path: Path, arrays: Arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".tmp-", suffix=".npz")
    try:
        with os.fdopen(handle, "wb") as stream:
            np.savez(stream, allow_pickle=False, **arrays)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise

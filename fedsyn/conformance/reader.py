"""Whether a reader keeps what `fedsyn.data.readers.base.Reader` promises."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from fedsyn.conformance.claims import Claims, check_options
from fedsyn.conformance.runs import check_runs
from fedsyn.conformance.world import configured, world
from fedsyn.data.readers.base import Reader, Stored
from fedsyn.data.sections import DataConfig
from fedsyn.errors import DataError
from fedsyn.settings.loading import over

CUTS = (0.0, 0.1, 0.5, 0.9)  # parts of a damaged file that are left


def check_reader(reader: Reader, file: Path | str, /, **settings: Any) -> None:
    """Try a reader on a file, and in small runs on its pairs.

    What is checked: arrays have the type and shape that they are said to have, and are the same
    when they are read again; the file stays as it is; what is missing, cut off or empty is told as
    `fedsyn.errors.DataError`, and nothing else is raised; whole runs give the same bits when they
    are resumed, and over nodes where the reader can be imported.

    Parameters
    ----------
    reader : Reader
    file : Path or str
        A file, or a folder, that it reads: at least some sixty pairs.
    **settings
        Sections of a configuration, ``data={"image": "pixels"}``, where the file has other names.

    Raises
    ------
    PluginError
        That says in one sentence what is not so.
    """
    claims, path = Claims(f"reader {reader.name!r}"), Path(file).absolute()
    check_options(claims, reader)
    settings = over(settings, {"data": {"path": str(path)}})
    with TemporaryDirectory() as folder:
        config = configured(Path(folder), settings, reader=reader).data
        _check_arrays(claims, reader, path, config)
        _check_damage(claims, reader, path, config, Path(folder))
    with world(claims, settings, reader=reader) as there:
        check_runs(claims, there)


def _check_arrays(claims: Claims, reader: Reader, path: Path, config: DataConfig) -> None:
    before = path.read_bytes() if path.is_file() else b""
    first, second = (_open(claims, reader, path, config) for _ in range(2))
    claims.hold(bool(first), f"{path.name} has no arrays")
    claims.hold(list(first) == list(second), "arrays have other names when they are read again")
    for name, stored in first.items():
        with claims.own_streams(f"reading {name!r}"):
            one, other = stored.read(), second[name].read()
        claims.hold(
            isinstance(one, np.ndarray),
            f"{name!r} is read as a {type(one).__name__}; expected an array",
        )
        claims.hold(
            one.shape[: len(stored.shape)] == stored.shape,
            f"{name!r} is {list(one.shape)}; it was said to be {list(stored.shape)}",
        )
        same = one.dtype == other.dtype and np.array_equal(
            one, other, equal_nan=one.dtype.kind == "f"
        )
        claims.hold(same, f"{name!r} is another when it is read again")
    unchanged = not path.is_file() or path.read_bytes() == before
    claims.hold(unchanged, f"reading changes {path.name}")


def _check_damage(
    claims: Claims, reader: Reader, path: Path, config: DataConfig, folder: Path
) -> None:
    """What is not there, and files that are cut off: they are read, or refused by a `DataError`."""
    try:
        _open(claims, reader, folder / f"missing{path.suffix}", config)
    except DataError:
        pass
    else:
        claims.hold(False, "a file that does not exist is read; expected a DataError")
    if not path.is_file():
        return
    whole = path.read_bytes()
    for part in CUTS:
        damaged = folder / f"damaged{path.suffix}"
        damaged.write_bytes(whole[: int(part * len(whole))])
        try:
            for stored in _open(claims, reader, damaged, config).values():
                with claims.calling("reading an array of a file that is cut off"):
                    stored.read()
        except DataError as error:
            sentence = str(error)
            claims.hold("\n" not in sentence, f"the complaint has several lines: {sentence!r}")


def _open(claims: Claims, reader: Reader, path: Path, config: DataConfig) -> dict[str, Stored]:
    with claims.own_streams(f"opening {path.name}"):
        return reader.arrays(path, config)

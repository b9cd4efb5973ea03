"""Folders of well-known picture sets, as their authors distribute them.

CIFAR-10 and CIFAR-100 in the binary version (Krizhevsky 2009), and sets in the IDX format of MNIST
(LeCun et al. 1998), of which Fashion-MNIST (Xiao et al. 2017, arXiv 1708.07747) is one. The text of
a picture is the name of its label: there is no other.
"""

import gzip
import zlib
from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np

from fedsyn.data.readers.base import Reader
from fedsyn.data.sections import DataConfig
from fedsyn.errors import DataError

Arrays = dict[str, np.ndarray]

CIFAR_SHAPE = 3, 32, 32  # channels first
CIFAR_10 = tuple(f"data_batch_{number}.bin" for number in range(1, 6)), ("test_batch.bin",)
CIFAR_100 = ("train.bin",), ("test.bin",)
IDX_UNSIGNED_BYTES = 8
LABEL_NAMES = "label_names.txt"  # of IDX sets, where there is one: a name a line


def _open(folder: Path, config: DataConfig) -> Arrays:
    """The pictures of a folder.

    Returns
    -------
    dict of str to array
        ``image`` uint8 [N, H, W] or [N, H, W, 3], ``label`` int64 [N], ``label_names``, ``text``
        the label's name [N], ``split`` "train" or "test" [N]; of CIFAR-100 also ``coarse``, the
        name of the superclass [N].

    Raises
    ------
    DataError
        If the folder has none of these sets, or one that is not complete or damaged.
    """
    if (folder / CIFAR_10[0][0]).exists():
        return _cifar(folder, CIFAR_10, {"label": "batches.meta.txt"})
    if (folder / CIFAR_100[0][0]).exists():
        names = {"coarse": "coarse_label_names.txt", "label": "fine_label_names.txt"}
        return _cifar(folder, CIFAR_100, names)
    if any(folder.glob("train-images-idx3-ubyte*")):
        return _idx(folder)
    raise DataError(
        f"{str(folder)!r} is a folder; expected a file, or a folder with {CIFAR_10[0][0]!r} "
        f"(CIFAR-10), {CIFAR_100[0][0]!r} (CIFAR-100) or 'train-images-idx3-ubyte' (MNIST and "
        "Fashion-MNIST)"
    )


def _cifar(
    folder: Path, files: tuple[Sequence[str], Sequence[str]], names: dict[str, str]
) -> Arrays:
    """Records of one byte for each kind of label, then the red, green and blue plane."""
    width = len(names) + prod(CIFAR_SHAPE)
    sides = [np.concatenate([_records(folder / file, width) for file in side]) for side in files]
    records = np.concatenate(sides)
    pixels = records[:, len(names) :].reshape(-1, *CIFAR_SHAPE).transpose(0, 2, 3, 1)
    known = {kind: _lines(folder / file) for kind, file in names.items()}
    label = {kind: records[:, at].astype(np.int64) for at, kind in enumerate(names)}
    for kind, file in names.items():
        _check_labels(label[kind], known[kind], folder / file)
    coarse = {"coarse": known["coarse"][label["coarse"]]} if "coarse" in names else {}
    return _arrays(pixels, label["label"], known["label"], [len(side) for side in sides]) | coarse


def _records(path: Path, width: int) -> np.ndarray:  # [n, width]
    data = _bytes(path)
    if not data or len(data) % width:
        raise DataError(
            f"{str(path)!r} has {len(data)} bytes; expected records of {width} bytes, at least one"
        )
    return np.frombuffer(data, np.uint8).reshape(-1, width)


def _idx(folder: Path) -> Arrays:
    pixels, label = [], []
    for side in ("train", "t10k"):
        pixels.append(_idx_array(folder / f"{side}-images-idx3-ubyte", 3))
        label.append(_idx_array(folder / f"{side}-labels-idx1-ubyte", 1))
        if len(pixels[-1]) != len(label[-1]):
            raise DataError(
                f"{str(folder)!r} has {len(pixels[-1])} {side} pictures and {len(label[-1])} labels"
            )
    values = np.concatenate(label).astype(np.int64)
    names = np.array([str(number) for number in range(int(values.max()) + 1)])
    if (folder / LABEL_NAMES).exists():
        names = _lines(folder / LABEL_NAMES)
        _check_labels(values, names, folder / LABEL_NAMES)
    return _arrays(np.concatenate(pixels), values, names, [len(side) for side in pixels])


def _idx_array(path: Path, axes: int) -> np.ndarray:
    """Unsigned bytes behind a header: two zeros, type, number of axes, big-endian lengths."""
    path = path if path.exists() else path.with_name(f"{path.name}.gz")
    data = _bytes(path)
    header = 4 + 4 * axes
    if data[:4] != bytes([0, 0, IDX_UNSIGNED_BYTES, axes]) or len(data) < header:
        raise DataError(f"{str(path)!r} is not an IDX file of unsigned bytes with {axes} axes")
    shape = np.frombuffer(data, ">u4", axes, 4).astype(int).tolist()
    if len(data) - header != prod(shape) or 0 in shape:
        raise DataError(f"{str(path)!r} has {len(data) - header} values; its header says {shape}")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _arrays(pixels: np.ndarray, label: np.ndarray, names: np.ndarray, sizes: list[int]) -> Arrays:
    return {
        "image": np.ascontiguousarray(pixels),
        "text": names[label],
        "label": label,
        "label_names": names,
        "split": np.repeat(["train", "test"], sizes),
    }


def _check_labels(label: np.ndarray, names: np.ndarray, path: Path) -> None:
    if label.max() >= len(names):
        raise DataError(
            f"{str(path)!r} names {len(names)} labels; expected a line for each up to label "
            f"{label.max()}"
        )


def _lines(path: Path) -> np.ndarray:
    lines = _bytes(path).decode("utf-8", "replace").splitlines()
    return np.array([line.strip() for line in lines if line.strip()], dtype=str)


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except FileNotFoundError:
        raise DataError(f"{str(path)!r} does not exist, but other files of its set do") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{str(path)!r} cannot be read: {error}") from None


OFFICIAL = Reader(name="official", open=_open, folders=True)

"""From the arrays of a file, or in memory, to pairs, with complaints that a user can act on."""

import contextlib
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedsyn.data.mapped import release
from fedsyn.data.pairs import Pairs
from fedsyn.data.pictures import decode
from fedsyn.data.readers import READERS
from fedsyn.data.readers.base import Reader, Stored, held
from fedsyn.data.sections import DataConfig
from fedsyn.errors import DataError

CHUNK = 1 << 20  # values checked at a time
DEFAULTS = DataConfig()


def read(
    config: DataConfig,
    sides: Sequence[str] = ("train", "test"),
    reader: Reader = READERS.default,
) -> Pairs:
    """Read the pairs of ``data.path``.

    Strings in the image array name picture files, which are decoded; pairs that name the same
    picture become one pair with their captions joined, as do [N, m] captions.

    Parameters
    ----------
    config : names of the file and its arrays.
    sides : sides of the split, where the file has one, that must have rows.
    reader : what reads the file; by default what its ending tells.

    Returns
    -------
    Pairs
        Numbers are float (features), uint8 (pixels) or coded labels; features may be
        memory-mapped and keep their float type.

    Raises
    ------
    DataError
        If a file, array or value is missing or not what it must be; one sentence.
    """
    path = Path(config.path).expanduser()
    stored = reader.arrays(path, config)
    return _pairs(_File(repr(str(path)), path.stem, path.parent, stored), config, sides)


def pairs_of(data: Pairs | Mapping[str, Any], config: DataConfig) -> Pairs:
    """Pairs in memory: as they are, or arrays by the names that ``[data]`` gives them.

    Arrays are what files may hold: features, pixels or names of picture files, strings, labels.

    Raises
    ------
    DataError
        As `read`.
    """
    if isinstance(data, Pairs):
        return data
    stored = {name: held(array) for name, array in data.items()}
    file = _File("the arrays that were passed", "arrays", Path(), stored)
    return _pairs(file, config, ("train", "test"))


def _pairs(file: "_File", config: DataConfig, sides: Sequence[str]) -> Pairs:
    image = file.required(config.image, "image")
    text = file.required(config.text, "text")
    label = file.optional(config.label, "label", DEFAULTS.label)
    split = file.optional(config.split, "split", DEFAULTS.split)
    if image.ndim == 0 or len(image) == 0:
        raise DataError(f"{file} holds no pairs: array {config.image!r} has no rows")
    for name, array in ((config.text, text), (config.label, label), (config.split, split)):
        file.check_rows(name, array, config.image, len(image))
    columns = file.columns(len(image), taken={config.text, config.split})
    if image.dtype.kind == "U":
        first, text = _one_pair_a_picture(image, text)
        image = image[first]
        label = None if label is None else label[first]
        split = None if split is None else split[first]
        columns = {name: column[first] for name, column in columns.items()}
    coded, names = (None, ()) if label is None else file.labels(config.label, label)
    return Pairs(
        name=file.stem,
        image=file.images(config, image),
        text=file.texts(config.text, text),
        label=coded,
        label_names=names,
        split=None if split is None else file.split(config.split, split, sides),
        columns=columns,
    )


def _one_pair_a_picture(image: np.ndarray, text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First rows [n] of the distinct pictures in order, and their captions joined [n].

    Were each caption a pair, the same picture could be trained on and tested with.
    """
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(image):
        rows.setdefault(str(name), []).append(row)
    first = np.array([members[0] for members in rows.values()])
    if len(first) == len(image) or text.dtype.kind != "U" or text.ndim != 1:
        return first, text[first]
    return first, np.array([" ".join(text[members]) for members in rows.values()])


@dataclass(frozen=True)
class _File:
    """A file's arrays, or such in memory, and what makes each of them a part of pairs."""

    name: str  # in messages
    stem: str
    folder: Path  # of the pictures that it names
    stored: Mapping[str, Stored]

    def __str__(self) -> str:
        return self.name

    def required(self, name: str, role: str) -> np.ndarray:
        if name in self.stored:
            return _plain(self.stored[name].read())
        there = ", ".join(self.stored) or "none"
        near = difflib.get_close_matches(name, self.stored, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(f"data.{role} = {name!r} is not an array of {self} (it has {there}){hint}")

    def optional(self, name: str, role: str, default: str) -> np.ndarray | None:
        """Absent arrays are an error only where the user asked for one by name."""
        if name == "" or (name == default and name not in self.stored):
            return None
        return self.required(name, role)

    def check_rows(
        self, name: str, array: np.ndarray | None, image_name: str, expected: int
    ) -> None:
        if array is not None and (array.ndim == 0 or len(array) != expected):
            rows = len(array) if array.ndim else "no"
            raise DataError(
                f"array {name!r} of {self} has {rows} rows and array {image_name!r} has "
                f"{expected}; expected one row a pair"
            )

    def columns(self, rows: int, taken: set[str]) -> dict[str, np.ndarray]:
        """Further columns: one value, or some strings, a pair; larger arrays are left alone."""
        kept = {}
        for name, array in self.stored.items():
            if array.column and array.shape[:1] == (rows,) and name not in taken:
                with contextlib.suppress(DataError):  # unreadable, but nobody asked for it
                    kept[name] = _plain(array.read())
        return kept

    def images(self, config: DataConfig, array: np.ndarray) -> np.ndarray:
        name = config.image
        if array.dtype == object:
            return decode(list(array), config.size)
        if array.dtype.kind == "U":
            if array.ndim != 1:
                raise self._shape(name, array, "expected one picture file a pair")
            folder = Path(config.images).expanduser() if config.images else self.folder
            return decode([folder / str(file) for file in array], config.size)
        if array.ndim == 2:
            return self._features(name, array)
        if array.ndim == 4 and array.shape[-1] == 1:
            array = array[..., 0]
        if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[-1] != 3):
            raise self._shape(
                name, array, "expected features [N, d] or pixels [N, H, W] or [N, H, W, 3]"
            )
        if array.dtype != np.uint8:
            raise DataError(
                f"array {name!r} of {self} has {array.ndim} axes and dtype {array.dtype}; "
                "expected pixels of dtype uint8"
            )
        return array

    def texts(self, name: str, array: np.ndarray) -> np.ndarray:
        if array.dtype.kind == "U" and array.ndim == 1:
            return array
        if array.dtype.kind == "U" and array.ndim == 2:
            return np.array([" ".join(filter(None, row)) for row in array], dtype=str)
        if array.ndim != 2:
            raise self._shape(name, array, "expected strings [N] or [N, m] or features [N, d]")
        return self._features(name, array)

    def labels(self, name: str, array: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
        if array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        if array.ndim == 2 and array.dtype.kind in "fiub":
            return self._multi_labels(name, array)
        if array.ndim != 1:
            raise self._shape(name, array, "expected labels [N] or a 0/1 matrix [N, L]")
        if array.dtype.kind == "U":
            known = tuple(sorted(set(array.tolist()) - {""}))
            number = {label: index for index, label in enumerate(known)}
            return np.array([number.get(x, -1) for x in array.tolist()], dtype=np.int64), known
        return self._integer_labels(name, array)

    def _integer_labels(self, name: str, array: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
        if array.dtype.kind not in "fiub":
            raise self._dtype(name, array, "expected integers or strings")
        values = np.where(np.isnan(array), -1, array) if array.dtype.kind == "f" else array
        wrong = np.flatnonzero((values < -1) | (values != np.floor(values)) | np.isinf(values))
        if wrong.size:
            raise DataError(
                f"array {name!r} of {self} has {array[wrong[0]]} in row {wrong[0]}; "
                "expected whole numbers from 0, or -1 for unlabelled"
            )
        values = values.astype(np.int64)
        names = self._label_names(name)
        if names is None:
            known, coded = np.unique(values[values >= 0], return_inverse=True)
            values[values >= 0] = coded
            return values, tuple(map(str, known.tolist()))
        if values.max() >= len(names):
            row = int(values.argmax())
            raise DataError(
                f"array {name!r} of {self} has {values[row]} in row {row}; "
                f"expected less than {len(names)}, the number of names in the file"
            )
        return values, names

    def _multi_labels(self, name: str, array: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
        wrong = np.argwhere((array != 0) & (array != 1))
        if wrong.size:
            row, column = wrong[0]
            raise DataError(
                f"array {name!r} of {self} has {array[row, column]} in row {row}; "
                "expected only 0 and 1 in a label matrix [N, L]"
            )
        names = self._label_names(name) or tuple(map(str, range(array.shape[1])))
        if len(names) != array.shape[1]:
            raise DataError(
                f"array {name!r} of {self} has {array.shape[1]} columns "
                f"and the file names {len(names)} labels"
            )
        return array.astype(bool), names

    def _label_names(self, name: str) -> tuple[str, ...] | None:
        for candidate in (f"{name}_names", "label_names"):
            if candidate in self.stored:
                values = _plain(self.stored[candidate].read())
                if values.dtype.kind == "U" and values.ndim == 1:
                    return tuple(values.tolist())
        return None

    def split(self, name: str, array: np.ndarray, sides: Sequence[str]) -> np.ndarray:
        """True is test, from "train"/"test" or from 0/1."""
        if array.ndim != 1:
            raise self._shape(name, array, 'expected one of "train" and "test" a pair')
        if array.dtype.kind == "U":
            words = np.array([word.strip().lower() for word in array.tolist()])
            known, test = np.isin(words, ("train", "test")), words == "test"
        else:
            known, test = np.isin(array, (0, 1)), array == 1
        if not known.all():
            row = int(np.argmin(known))
            raise DataError(
                f"array {name!r} of {self} has {array[row]!s:.40} in row {row}; "
                'expected "train" or "test" (or 0 and 1, 1 is test)'
            )
        for side, rows in (("train", ~test), ("test", test)):
            if side in sides and not rows.any():
                raise DataError(f'array {name!r} of {self} has no "{side}" rows; expected some')
        return np.asarray(test)

    def _features(self, name: str, array: np.ndarray) -> np.ndarray:
        if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
            raise self._dtype(name, array, "expected real numbers")
        if array.shape[1] == 0:
            raise self._shape(name, array, "expected at least one feature")
        step = max(1, CHUNK // array.shape[1])
        for start in range(0, len(array), step):
            # In float32, as everything downstream: what overflows there is no number either.
            with np.errstate(over="ignore"):
                finite = np.isfinite(array[start : start + step].astype(np.float32))
            if not finite.all():
                row, column = np.argwhere(~finite)[0]
                raise DataError(
                    f"array {name!r} of {self} has {array[start + row, column]} in row "
                    f"{start + row}; expected finite numbers of float32"
                )
            release(array)
        return array if array.dtype.kind == "f" else array.astype(np.float32)

    def _shape(self, name: str, array: np.ndarray, expected: str) -> DataError:
        return DataError(f"array {name!r} of {self} has shape {list(array.shape)}; {expected}")

    def _dtype(self, name: str, array: np.ndarray, expected: str) -> DataError:
        return DataError(f"array {name!r} of {self} has dtype {array.dtype}; {expected}")


def _plain(array: np.ndarray) -> np.ndarray:
    """Byte strings as text; everything else as it is."""
    return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array

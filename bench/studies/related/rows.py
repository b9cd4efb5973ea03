"""Training rows alone, in files of their own: to choose settings by, and to teach a teacher."""

from pathlib import Path
from typing import Any

import numpy as np

from fedsyn.data.glyphs import glyphs

Arrays = dict[str, np.ndarray]


def without_tests(file: Path | None, to: Path) -> None:
    """Write the training rows of a file with a split, or of the embedded glyphs, with none."""
    arrays = _embedded() if file is None else _arrays(file)
    split = arrays.pop("split")
    _write(to, {
        name: array[split == "train"] if len(array) == len(split) else array
        for name, array in arrays.items()
    })  # fmt: skip


def line_drawings(emoji: Path, to: Path) -> None:
    """Write the training rows' line drawings, and as texts their subgroup, group and name."""
    arrays = _arrays(emoji)
    train = arrays["split"] == "train"
    classes = ("sublabel", "label")
    named = [arrays[f"{one}_names"][arrays[one][train]] for one in classes]
    said = zip(*named, arrays["text"][train], strict=True)
    drawn = arrays["image_line"][train]
    image = np.repeat(drawn[..., None], 3, axis=-1)  # as many channels as the pictures have
    _write(to, {"image": image, "text": np.array([", ".join(parts) for parts in said])})


def _arrays(file: Path) -> Arrays:
    with np.load(file, allow_pickle=False) as found:
        return dict(found)


def _embedded() -> Arrays:
    pairs = glyphs()
    assert pairs.label is not None and pairs.split is not None
    split = np.where(pairs.split, "test", "train")
    names = np.array(pairs.label_names)
    return {
        "image": pairs.image, "text": pairs.text, "label": pairs.label, "label_names": names,
        "split": split,
    }  # fmt: skip


def _write(to: Path, arrays: dict[str, Any]) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    np.savez(to, **arrays)

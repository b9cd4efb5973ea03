"""Data sets that are made here, in files below a folder that git does not keep.

**faces** are the embedded glyphs as a dual encoder sees them that was trained on the same training
characters in four other faces: aligned embeddings of one width. **flickr8k_clip** has a row a
caption: here half of the photos, with all their captions, are trained on, and of the others one
caption each is tested, so that no photo is on both sides and each has one answer.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedsyn import streams
from fedsyn.data.glyphs import glyphs
from fedsyn.data.sections import DataConfig
from fedsyn.encoders import glyphs as teacher
from fedsyn.encoders.base import TeacherConfig

WIDTH = 64  # of an embedding
TESTED = 0.5  # share of the photos


def faces(folder: Path) -> Path:
    """The file of the glyphs' embeddings; the encoder is trained, in seconds, where it is not."""
    path = folder / f"faces-{teacher.VERSION}.npz"
    if not path.exists():
        pairs = glyphs()
        encoder = teacher.load(TeacherConfig(), DataConfig(), WIDTH)
        assert pairs.label is not None and pairs.split is not None
        arrays = {
            "image": encoder.pictures(pairs.image).numpy(),
            "text": encoder.texts(pairs.text.tolist()).numpy(),
            "label": pairs.label,
            "label_names": np.array(pairs.label_names),
            "split": np.where(pairs.split, "test", "train"),
        }
        _write(path, arrays)
    return path


def photos(clip: Path, folder: Path) -> Path:
    """The file of CLIP's embeddings with a split by photo, and one caption a tested photo."""
    path = folder / f"{clip.stem}.npz"
    if not path.exists():
        with np.load(clip, allow_pickle=False) as found:
            arrays = {name: found[name] for name in ("image", "text", "picture")}
        names, first, number = np.unique(arrays["picture"], return_index=True, return_inverse=True)
        order = streams.numpy_generator(0, "photos").permutation(len(names))
        tested = np.isin(number, order[: round(TESTED * len(names))])
        kept = ~tested | np.isin(np.arange(len(number)), first)
        arrays["split"] = np.where(tested, "test", "train")
        _write(path, {name: array[kept] for name, array in arrays.items()})
    return path


def _write(path: Path, arrays: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"partial-{path.name}")
    np.savez(partial, **arrays)
    os.replace(partial, path)

"""Teachers: frozen dual encoders of pictures and texts, in one explicit table of names."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedsyn.config import Config
from fedsyn.data import cache
from fedsyn.encoders import clip, dual_encoder, glyphs
from fedsyn.encoders.base import Teacher, logits, prototypes

__all__ = ["TEACHERS", "Teacher", "lesson"]

TEACHERS: dict[str, Callable[[Config], Teacher]] = {
    "glyphs": glyphs.load,
    "run": dual_encoder.load,
    "open_clip": clip.load_open_clip,
    "transformers": clip.load_transformers,
}
# Part of the cache key: what earlier versions of these files said is never taken for this.
VERSION = hashlib.blake2b(
    b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))),
    digest_size=8,
).hexdigest()


def lesson(
    config: Config,
    pixels: Sequence[np.ndarray],  # of each client, uint8 [n, H, W] or [n, H, W, 3]
    names: Sequence[str],
) -> tuple[Tensor, Tensor]:  # [sum of n, L], [L, d]
    """The configured teacher's logits of all pictures, and its unit rows of the classes' names.

    They are kept in the user's cache, like descriptors. A client's pictures are encoded on their
    own, so that its numbers are the same wherever it is.

    Raises
    ------
    ConfigError
        If the teacher cannot be had.
    """
    own, data = config.teacher, config.data

    def compute() -> dict[str, np.ndarray]:
        teacher = TEACHERS[own.name](config)
        known = prototypes(teacher, names, own.prompt)
        said = [logits(teacher, mine, known) for mine in pixels if len(mine)]
        return {
            "logits": torch.cat([known.new_empty(0, len(names)), *said]).numpy(),
            "prototypes": known.numpy(),
        }

    name = cache.key(
        "lesson", np.concatenate(pixels), version=VERSION, sizes=[len(mine) for mine in pixels],
        names=tuple(names), teacher=own, files=_stamps(Path(own.path)) if own.path else [],
        embedded=(data.faces, data.test_fraction, data.split_seed, config.model.dim),
    )  # fmt: skip
    found = cache.cached(cache.folder(data.cache), name, compute)
    return torch.from_numpy(found["logits"]), torch.from_numpy(found["prototypes"])


def _stamps(path: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of a file, or of the files in a folder: which model it is."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [
        (file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.exists()
    ]

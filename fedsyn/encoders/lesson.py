"""What a teacher says of a run's pictures and classes, cached as descriptors are."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedsyn.data import cache
from fedsyn.data.sections import DataConfig
from fedsyn.encoders import TEACHERS
from fedsyn.encoders.base import Teacher, TeacherConfig, logits, prototypes

# Part of the cache key: what earlier versions of these files said is never taken for this.
VERSION = hashlib.blake2b(
    b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))),
    digest_size=8,
).hexdigest()


@dataclass(frozen=True)
class Lesson:
    """A teacher, asked about all pictures once.

    A client's pictures are encoded on their own, so that its numbers are the same wherever it is.
    """

    teacher: Teacher
    config: TeacherConfig
    data: DataConfig
    dim: int  # of the run's embeddings

    def __call__(
        self,
        pixels: Sequence[np.ndarray],  # of each client, uint8 [n, H, W] or [n, H, W, 3]
        names: Sequence[str],
    ) -> tuple[Tensor, Tensor]:  # [sum of n, L], [L, d]
        """Logits of all pictures, and unit rows of the classes' names.

        Raises
        ------
        ConfigError
            If the teacher cannot be had.
        """
        own, data = self.config, self.data

        def compute() -> dict[str, np.ndarray]:
            encoder = self.teacher.load(own, data, self.dim)
            known = prototypes(encoder, names, own.prompt)
            said = [logits(encoder, mine, known) for mine in pixels if len(mine)]
            return {
                "logits": torch.cat([known.new_empty(0, len(names)), *said]).numpy(),
                "prototypes": known.numpy(),
            }

        if not TEACHERS.is_own(self.teacher):  # its code may be another next time
            return _tensors(compute())
        name = cache.key(
            "lesson", np.concatenate(pixels), version=VERSION,
            sizes=[len(mine) for mine in pixels], names=tuple(names), teacher=own,
            files=_stamps(Path(own.path)) if own.path else [],
            embedded=(data.faces, data.test_fraction, data.split_seed, self.dim),
        )  # fmt: skip
        return _tensors(cache.cached(cache.folder(data.cache), name, compute))


def _tensors(said: Mapping[str, np.ndarray]) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(said["logits"]), torch.from_numpy(said["prototypes"])


def _stamps(path: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of a file, or of the files in a folder: which model it is."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [
        (file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.exists()
    ]

"""What a teacher is: a frozen dual encoder, and what it knows of labelled pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor


class Teacher(Protocol):
    """A frozen dual encoder of pictures and texts into one space."""

    @property
    def scale(self) -> float:
        """What it multiplies cosines with to get logits: 100 for CLIP."""

    def pictures(self, pixels: np.ndarray) -> Tensor:
        """Unit rows ``[n, d]`` of uint8 pixels ``[n, H, W]`` or ``[n, H, W, 3]``."""

    def texts(self, strings: Sequence[str]) -> Tensor:
        """Unit rows ``[n, d]``."""


@dataclass(frozen=True)
class Lesson:
    """What a teacher makes of pictures and of the names of their classes."""

    logits: Tensor  # [n, L]
    prototypes: Tensor  # [L, d] unit rows, the embeddings of the classes


def teach(teacher: Teacher, pixels: np.ndarray, names: Sequence[str], prompt: str) -> Lesson:
    """The zero-shot classifier of Radford et al. 2021 (arXiv 2103.00020, section 3.1.2).

    Parameters
    ----------
    pixels : uint8 [n, H, W] or [n, H, W, 3]; there may be none.
    names : of the L classes, put into the ``prompt`` in place of ``{}``, in lower case.
    """
    prototypes = teacher.texts([prompt.format(name.lower()) for name in names])
    if not len(pixels):
        return Lesson(prototypes.new_zeros(0, len(names)), prototypes)
    return Lesson(teacher.scale * teacher.pictures(pixels) @ prototypes.T, prototypes)

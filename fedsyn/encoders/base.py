"""What a teacher is: a frozen dual encoder, and what it makes of labelled pictures."""

from collections.abc import Sequence
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


def prototypes(teacher: Teacher, names: Sequence[str], prompt: str) -> Tensor:
    """Unit rows ``[L, d]`` of classes: their names, in lower case, in place of ``{}``."""
    return teacher.texts([prompt.format(name.lower()) for name in names])


def logits(
    teacher: Teacher,
    pixels: np.ndarray,  # uint8 [n, H, W] or [n, H, W, 3]
    prototypes: Tensor,  # [L, d] unit rows
) -> Tensor:  # [n, L]
    """The zero-shot classifier of Radford et al. 2021 (arXiv 2103.00020, section 3.1.2)."""
    return teacher.scale * teacher.pictures(pixels) @ prototypes.T

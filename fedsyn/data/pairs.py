"""What a data set is: image–text pairs, as read, before any statistics."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Pairs:
    """``N`` image–text pairs as read.

    Labels serve partitions and evaluation only; no unsupervised objective sees them.
    """

    name: str
    image: np.ndarray  # [N, d_v] float features, or uint8 pixels [N, H, W] / [N, H, W, 3]
    text: np.ndarray  # [N, d_t] float features, or [N] strings
    label: np.ndarray | None = None  # [N] int64, -1 is unlabelled; or [N, L] bool (multi-label)
    label_names: tuple[str, ...] = ()  # the L labels
    split: np.ndarray | None = None  # [N] bool, True is test; None where it is still to be drawn
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)  # further [N, ...] columns

    def __len__(self) -> int:
        return len(self.image)

    @property
    def has_pixels(self) -> bool:
        """Whether the image side is raw pixels rather than features."""
        return self.image.ndim > 2

    @property
    def has_strings(self) -> bool:
        """Whether the text side is strings rather than features."""
        return self.text.ndim == 1

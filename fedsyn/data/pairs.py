"""What a data set is: image–text pairs, as read, before any statistics."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

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

    def take(self, rows: np.ndarray) -> "Pairs":
        """These rows alone, copied to new arrays."""
        return replace(
            self,
            image=self.image[rows],
            text=self.text[rows],
            label=None if self.label is None else self.label[rows],
            split=None if self.split is None else self.split[rows],
            columns={name: column[rows] for name, column in self.columns.items()},
        )

    @property
    def has_pixels(self) -> bool:
        """Whether the image side is raw pixels rather than features."""
        return self.image.ndim > 2

    @property
    def picture(self) -> tuple[int, int, int]:
        """Height, width and channels of the pictures; zeros where there are features."""
        if not self.has_pixels:
            return 0, 0, 0
        return self.image.shape[1], self.image.shape[2], 3 if self.image.ndim == 4 else 1

    @property
    def has_strings(self) -> bool:
        """Whether the text side is strings rather than features."""
        return self.text.ndim == 1

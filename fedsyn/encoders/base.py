"""Teachers: frozen dual encoders of pictures and texts, and what they make of labelled pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from fedsyn.data.sections import DataConfig
from fedsyn.settings.plugins import Plugin
from fedsyn.settings.sections import Field, Section


class TeacherConfig(Section):
    """A frozen dual encoder of pictures and texts that some methods learn from."""

    name: str = Field("", description="where it comes from")
    path: str = Field("", description="a run's directory, or the model's file or folder")
    prompt: str = Field(
        "a picture of {}", description="what is said of a class, with its name in place of {}"
    )


class Encoder(Protocol):
    """A frozen dual encoder of pictures and texts into one space."""

    @property
    def scale(self) -> float:
        """What it multiplies cosines with to get logits: 100 for CLIP."""

    def pictures(self, pixels: np.ndarray) -> Tensor:
        """Unit rows ``[n, d]`` of uint8 pixels ``[n, H, W]`` or ``[n, H, W, 3]``."""

    def texts(self, strings: Sequence[str]) -> Tensor:
        """Unit rows ``[n, d]`` of strings."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Teacher(Plugin):
    """Where an encoder comes from, as a plug-in; options stand in the section ``[teacher]``.

    Attributes
    ----------
    load : ``(config, data, dim) -> Encoder``
        By its own options, those of the run's data, and the size of the run's embeddings; raises
        `fedsyn.errors.ConfigError` if it cannot be had.
    """

    load: Callable[[TeacherConfig, DataConfig, int], Encoder]


def prototypes(encoder: Encoder, names: Sequence[str], prompt: str) -> Tensor:
    """Unit rows ``[L, d]`` of classes: their names, in lower case, in place of ``{}``."""
    return encoder.texts([prompt.format(name.lower()) for name in names])


def logits(
    encoder: Encoder,
    pixels: np.ndarray,  # uint8 [n, H, W] or [n, H, W, 3]
    prototypes: Tensor,  # [L, d] unit rows
) -> Tensor:  # [n, L]
    """The zero-shot classifier of Radford et al. 2021 (arXiv 2103.00020, section 3.1.2)."""
    return encoder.scale * encoder.pictures(pixels) @ prototypes.T

"""Teachers: frozen dual encoders of pictures and texts, in one explicit table of names."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from fedsyn.config import Config
from fedsyn.teachers import clip, dual_encoder, glyphs
from fedsyn.teachers.base import Lesson, Teacher, teach

__all__ = ["TEACHERS", "Lesson", "Teacher", "lesson"]

TEACHERS: Mapping[str, Callable[[Config], Teacher]] = {
    "glyphs": glyphs.load,
    "run": dual_encoder.load,
    "open_clip": clip.load_open_clip,
    "transformers": clip.load_transformers,
}


def lesson(config: Config, pixels: np.ndarray, names: Sequence[str]) -> Lesson:
    """What the configured teacher makes of uint8 pixels and of the names of their classes.

    Raises
    ------
    ConfigError
        If there is no such teacher.
    """
    teacher = TEACHERS[config.teacher.name](config)
    return teach(teacher, pixels, names, config.teacher.prompt)

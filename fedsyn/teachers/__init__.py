"""Teachers: frozen dual encoders of pictures and texts, in one explicit table of names."""

from collections.abc import Callable, Mapping

from fedsyn.config import Config
from fedsyn.teachers import clip, dual_encoder, glyphs
from fedsyn.teachers.base import Teacher, logits, prototypes

__all__ = ["TEACHERS", "Teacher", "load", "logits", "prototypes"]

TEACHERS: Mapping[str, Callable[[Config], Teacher]] = {
    "glyphs": glyphs.load,
    "run": dual_encoder.load,
    "open_clip": clip.load_open_clip,
    "transformers": clip.load_transformers,
}


def load(config: Config) -> Teacher:
    """The teacher that the configuration names.

    Raises
    ------
    ConfigError
        If it cannot be had.
    """
    return TEACHERS[config.teacher.name](config)

"""Teachers, frozen encoders; one table, a line a teacher, the default first."""

from fedsyn.encoders.base import Teacher
from fedsyn.settings.plugins import Table

TEACHERS = Table(
    "teacher",
    "teacher.name",
    Teacher,
    "fedsyn.encoders.glyphs:GLYPHS",
    "fedsyn.encoders.dual_encoder:RUN",
    "fedsyn.encoders.clip:OPEN_CLIP",
    "fedsyn.encoders.clip:TRANSFORMERS",
)

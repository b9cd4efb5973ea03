"""What sections of a configuration are made of.

A section is a frozen, validated object with the same fields in TOML and in Python. Every field has
its default and its description: ``mu: NonNegative = Field(0.01, description="weight of ...")``.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "Count",
    "Field",
    "Fraction",
    "Iterations",
    "NonNegative",
    "Positive",
    "Repeated",
    "S",
    "Section",
    "Share",
    "Tried",
    "Whole",
    "Widths",
    "shortest",
]

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Widths = tuple[Count, ...]


class Repeated:
    """Marks a number of repetitions: fewer of them change what is computed, not its form."""


class Tried:
    """Marks a key that is worth tuning: values to try."""

    def __init__(self, *values: float) -> None:
        self.values = values


Iterations = Annotated[int, Field(ge=0), Repeated()]


class Section(BaseModel):
    """Base of the sections: frozen, unknown keys refused, numbers finite.

    ``RENAMED`` says of keys that there were what has taken their place.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {}

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def of(self, kind: type["S"]) -> "S":
        """The options of this class: the section itself, or what stands in one of its fields.

        Raises
        ------
        TypeError
            If they are not in this section.
        """
        for value in (self, *(getattr(self, name) for name in type(self).model_fields)):
            if isinstance(value, kind):
                return value
        raise TypeError(f"{type(self).__name__} has no {kind.__name__}")

    def changed(self, **values: object) -> Self:
        """A copy with these fields in the place of its own; not validated again."""
        return self.model_copy(update=values)


S = TypeVar("S", bound=Section)


def shortest(section: S) -> S:
    """A section with one repetition of everything, or none, where it asks for more."""
    few: dict[str, object] = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            few[name] = shortest(value)
        elif any(isinstance(mark, Repeated) for mark in field.metadata):
            few[name] = min(value, 1)
    return section.changed(**few)

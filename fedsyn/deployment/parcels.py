"""What travels between server and nodes: arrays and a few facts, checked before they are used."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pydantic
from torch import Tensor

import fedsyn
from fedsyn.config import Section
from fedsyn.core.payload import Payload, nbytes
from fedsyn.errors import FedsynError

Facts = dict[str, Any]
Model = TypeVar("Model", bound="Said")


class RefusedError(FedsynError):
    """One side does not do what the other asks, or does not believe what it says."""


@dataclass(frozen=True)
class Parcel:
    """A message or its answer."""

    facts: Facts  # plain JSON
    arrays: Payload = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of arrays and facts."""
        return nbytes(self.arrays) + len(json.dumps(self.facts).encode())

    def group(self, name: str) -> Payload:
        """The arrays called ``name/...``."""
        prefix = f"{name}/"
        return {k.removeprefix(prefix): v for k, v in self.arrays.items() if k.startswith(prefix)}


class Said(Section):
    """Facts of a parcel: what is said beside the arrays. Both sides run the same version."""

    version: str = fedsyn.__version__

    def parcel(self, **groups: Mapping[str, Tensor]) -> Parcel:
        """With arrays of several groups, each called ``group/name``."""
        arrays = {f"{group}/{k}": v for group, many in groups.items() for k, v in many.items()}
        return Parcel(self.model_dump(mode="json"), arrays)


def understood(kind: type[Model], facts: Facts) -> Model:
    """The facts as an object.

    Raises
    ------
    RefusedError
        If they are of another version of fedsyn, or not what was expected.
    """
    version = facts.get("version")
    if version != fedsyn.__version__:
        raise RefusedError(f"the other side runs fedsyn {version}; this is {fedsyn.__version__}")
    try:
        return kind.model_validate(facts)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise RefusedError(
            f"{kind.__name__} has {name} = {first['input']!r}: {first['msg']}"
        ) from None


def check(
    name: str,
    arrays: Payload,
    expected: Payload,
    rows: int | None = None,
    smaller: bool = False,
) -> Payload:
    """The arrays, if they have the names, types and shapes of ``expected`` and are finite.

    Parameters
    ----------
    name : str
        What they are, for the message.
    expected : dict
        Tensors alike; only their form is looked at.
    rows : int, optional
        The length of their first axis, in the place of that of ``expected``.
    smaller : bool
        Whether an axis may be shorter than expected.

    Raises
    ------
    RefusedError
        If they are not.
    """
    if arrays.keys() != expected.keys():
        raise RefusedError(f"{name} holds {sorted(arrays)}; expected {sorted(expected)}")
    for key, like in expected.items():
        value, shape = arrays[key], tuple(like.shape)
        if rows is not None:
            shape = (rows, *shape[1:])
        same = tuple(value.shape) == shape
        if smaller and value.dim() == len(shape):
            same = all(found <= most for found, most in zip(value.shape, shape, strict=True))
        if value.dtype != like.dtype or not same:
            raise RefusedError(
                f"{name} has {key} of {value.dtype} {list(value.shape)}; "
                f"expected {like.dtype} {list(shape)}"
            )
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise RefusedError(f"{name} has values in {key} that are not finite")
    return arrays

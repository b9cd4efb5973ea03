"""What either side holds the other to: the form of what it is sent, and that it is finite."""

from torch import Tensor

from fedsyn.core.payload import Payload
from fedsyn.errors import FedsynError


class RefusedError(FedsynError):
    """One side does not do what the other asks, or does not believe what it says."""


def check(name: str, arrays: Payload, expected: Payload, smaller: bool = False) -> Payload:
    """The arrays, if they have the names, types and shapes of ``expected`` and are finite.

    Parameters
    ----------
    name : str
        What they are, for the message.
    expected : dict
        Tensors alike; only their form is looked at.
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
        _check_one(f"{name} has {key}", arrays[key], like, smaller)
    return arrays


def check_counts(name: str, counts: Payload) -> None:
    """Refuse numbers of rows, and weights by them, that are below 0; raises `RefusedError`."""
    for key, value in counts.items():
        if bool((value < 0).any()):
            raise RefusedError(f"{name} has {key} below 0")


def _check_one(what: str, value: Tensor, like: Tensor, smaller: bool) -> None:
    same = value.shape == like.shape
    if smaller and value.dim() == like.dim():
        same = all(found <= most for found, most in zip(value.shape, like.shape, strict=True))
    if value.dtype != like.dtype or not same:
        raise RefusedError(
            f"{what} of {value.dtype} {list(value.shape)}; expected {like.dtype} {list(like.shape)}"
        )
    if value.is_floating_point() and not bool(value.isfinite().all()):
        raise RefusedError(f"{what} with values that are not finite")

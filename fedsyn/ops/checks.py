"""Argument checks that the operators share; each message names the operator and the argument."""

import math

import torch
from torch import Tensor


def check_same_shape(op: str, x: Tensor, y: Tensor, dims: int) -> None:
    """Refuse operands of different shape, dtype or device, or of fewer than ``dims`` axes."""
    if x.shape != y.shape or x.ndim < dims:
        expected = "two tensors of the same shape with at least " + f"{dims} axes"
        raise ValueError(f"{op}: expected {expected}, got {tuple(x.shape)} and {tuple(y.shape)}")
    if x.dtype != y.dtype or not x.is_floating_point():
        raise TypeError(f"{op}: expected one floating dtype, got {x.dtype} and {y.dtype}")
    if x.device != y.device:
        raise ValueError(f"{op}: expected one device, got {x.device} and {y.device}")


def check_trailing(op: str, name: str, value: Tensor, shape: torch.Size | tuple[int, ...]) -> None:
    """Refuse an argument whose shape is not ``shape``."""
    if tuple(value.shape) != tuple(shape):
        raise ValueError(f"{op}: expected {name} {tuple(shape)}, got {tuple(value.shape)}")


def check_scale(op: str, scale: float | Tensor) -> None:
    """Refuse a Python scale that is not finite; tensors are not read back from their device."""
    # A comparison, as torch.compile traces it also where it does not know the value.
    if not isinstance(scale, Tensor) and not abs(scale) < math.inf:
        raise ValueError(f"{op}: expected a finite scale, got {scale}")


def check_number(op: str, name: str, value: float) -> None:
    """Refuse what is not a finite number."""
    if not isinstance(value, int | float):
        raise TypeError(f"{op}: expected {name} a number, got {type(value).__name__}")
    if not math.isfinite(value):
        raise ValueError(f"{op}: expected a finite {name}, got {value}")

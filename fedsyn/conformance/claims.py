"""What a conformance suite claims of a plug-in, and how it looks whether that is so."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedsyn.core.payload import Payload
from fedsyn.errors import FedsynError, PluginError
from fedsyn.settings.plugins import Plugin
from fedsyn.settings.sections import Section

# Stacked products add up in another order: how far they may be from those one by one, as a share
# of the largest number there is, after a few steps of an optimiser.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Claims:
    """Claims of one plug-in.

    Attributes
    ----------
    subject : str
        What it is called in sentences.
    """

    subject: str

    def hold(self, claim: bool, sentence: str) -> None:
        """Raise `PluginError` with the sentence unless the claim is true."""
        if not claim:
            raise PluginError(f"{self.subject}: {sentence}")

    @contextmanager
    def calling(self, what: str) -> Iterator[None]:
        """What goes wrong within is said of the plug-in."""
        try:
            yield
        except FedsynError:
            raise
        except Exception as error:
            raise PluginError(
                f"{self.subject}: {what} raises {type(error).__name__}: {error}"
            ) from error

    @contextmanager
    def own_streams(self, what: str) -> Iterator[None]:
        """A call of one of its functions, which draws from no global stream of random numbers.

        Those come from the streams of `fedsyn.streams` or from a generator that is passed, so that
        they do not depend on what else a process has computed.
        """
        before = _global_randomness()
        with self.calling(what):
            yield
        self.hold(
            _global_randomness() == before,
            f"{what} draws from a global stream of random numbers; expected one of "
            "fedsyn.streams, or the generator that is passed",
        )

    def payload(self, what: str, found: object, clients: int | None = None) -> Payload:
        """A payload: tensors by name, with a row for each client where their number is given."""
        self.hold(
            isinstance(found, Mapping), f"{what} is a {type(found).__name__}; expected a mapping"
        )
        tensors: dict[str, Tensor] = dict(found)  # type: ignore[call-overload]
        for name, value in tensors.items():
            self.hold(
                isinstance(name, str) and bool(name) and "/" not in name,
                f"{what} has the name {name!r}; expected a string without '/'",
            )
            self.hold(
                isinstance(value, Tensor),
                f"{what} has a {type(value).__name__} as {name!r}; expected a tensor",
            )
            if clients is not None:
                self.rows(f"{what} {name!r}", value, clients)
        return tensors

    def rows(self, what: str, value: Tensor, clients: int) -> None:
        """Claim that a tensor has a row for each client."""
        self.hold(
            value.dim() > 0 and len(value) == clients,
            f"{what} is {list(value.shape)} for {clients} clients; expected [{clients}, ...]",
        )

    def finite(self, what: str, value: Tensor) -> None:
        """Claim that a tensor has no NaN and no infinity."""
        self.hold(
            not value.is_floating_point() or bool(value.isfinite().all()),
            f"{what} is not finite",
        )

    def close(self, what: str, found: Tensor, expected: Tensor, why: str) -> None:
        """The same numbers, up to the order of sums."""
        same = found.shape == expected.shape and found.dtype == expected.dtype
        self.hold(
            same,
            f"{what} is {found.dtype} {list(found.shape)} and {expected.dtype} "
            f"{list(expected.shape)} {why}",
        )
        if not found.numel():
            return
        one, other = found.double(), expected.double()
        same_there = (one == other) | (one.isnan() & other.isnan())
        gap = (one - other).abs().masked_fill(same_there, 0.0)
        apart = float(gap.nan_to_num(torch.inf).max())
        scale = float(other.masked_fill(~other.isfinite(), 0.0).abs().max()) + 1e-6
        self.hold(apart <= TOLERANCE * scale, f"{what} differs by {apart:.2g} {why}")

    def kept(self, state: Payload, first: Payload) -> None:
        """What clients keep has the form that it had before their first round."""
        self.hold(
            state.keys() == first.keys(),
            f"clients keep {sorted(state)}, and at first {sorted(first)}",
        )
        for name, value in state.items():
            self.hold(
                value.shape == first[name].shape and value.dtype == first[name].dtype,
                f"a client's state {name!r} becomes {value.dtype} {list(value.shape)}; it was "
                f"{first[name].dtype} {list(first[name].shape)}",
            )

    def unchanged(self, what: str, before: Payload, after: Payload) -> None:
        """What was passed in is as it was."""
        for name, value in before.items():
            self.hold(
                torch.equal(value, after[name]),
                f"{what} {name!r} is changed in place; expected a new tensor",
            )


def copied(payload: Payload) -> Payload:
    """The same tensors elsewhere in memory."""
    return {name: value.clone() for name, value in payload.items()}


def check_options(claims: Claims, plugin: Plugin) -> None:
    """Every option has a default that is valid, and a description."""
    for place, kind in plugin.options.items():
        with claims.calling(f"{kind.__name__}()"):
            kind()
        for name, described in _fields(kind):
            where = f"option {place}.{name}" if place else f"option {name}"
            claims.hold(described, f"{where} has no description")


def _fields(kind: type[Section], prefix: str = "") -> Iterator[tuple[str, bool]]:
    for name, field in kind.model_fields.items():
        inner: Any = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            yield from _fields(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", bool(field.description)


def _global_randomness() -> tuple[Any, ...]:
    kind, keys, *rest = np.random.get_state()
    return (
        torch.random.get_rng_state().numpy().tobytes(),
        (kind, np.asarray(keys).tobytes(), *rest),
        random.getstate(),
    )

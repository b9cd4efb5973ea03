"""Who does a round: client selection as a plug-in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from fedsyn import streams
from fedsyn.core.payload import Payload
from fedsyn.federation.settings import RunConfig
from fedsyn.settings.plugins import Plugin


def nothing(clients: int, config: RunConfig) -> Payload:
    """Nothing is known before the first round."""
    return {}


@dataclass(frozen=True)
class Heard:
    """What a selection may learn of a round.

    Attributes
    ----------
    round_number : int
    asked, ids : sequence of int
        Clients that were to take part, and those of them that did.
    losses, sizes : Tensor of shape [ids]
        Mean local loss of each, and the rows that it trained on.
    criterion : float
        On held-out rows, after the round; lower is better.
    """

    round_number: int
    asked: Sequence[int]
    ids: Sequence[int]
    losses: Tensor
    sizes: Tensor
    criterion: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection(Plugin):
    """How the clients of a round are chosen; options stand below the section ``[run]``.

    Attributes
    ----------
    choose : ``(memory, clients, number, round_number, config) -> ids, ascending``
        So many of the clients.
    begin : ``(clients, config) -> memory``
        What is known before the first round.
    learn : ``(memory, heard) -> memory``
        What is known after a round, where it learns: from what clients say of the round's model on
        their held-out rows, which then must be known before the next one.
    """

    choose: Callable[[Payload, int, int, int, RunConfig], tuple[int, ...]]
    begin: Callable[[int, RunConfig], Payload] = nothing
    learn: Callable[[Payload, Heard], Payload] | None = None


def sampled(clients: int, fraction: float, seed: int, round_number: int) -> tuple[int, ...]:
    """A share ``fraction`` of all clients at random, at least one, ascending."""
    draw = streams.numpy_generator(seed, "sampling", round_number).permutation(clients)
    return tuple(sorted(draw[: share_of(clients, fraction)].tolist()))


def share_of(clients: int, fraction: float) -> int:
    """How many clients a share of all is, at least one."""
    return max(1, round_half_up(fraction * clients))


def round_half_up(value: float) -> int:
    """Round to the nearest integer, halves up."""
    return int(value + 0.5)

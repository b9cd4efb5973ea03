"""The clients of a federation as its rounds see them, wherever they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from fedsyn.core.judgement import Judgement
from fedsyn.core.payload import Payload
from fedsyn.core.wire import Uploads
from fedsyn.federation.checkpoint import State
from fedsyn.federation.received import Report
from fedsyn.federation.records import Row


@dataclass(frozen=True)
class Answers:
    """What the clients of a round have answered.

    Attributes
    ----------
    ids : tuple of int
        Who has, ascending.
    uploads : mapping of str to Uploads
        What they have sent, by part.
    report : Report
        What they say of their round.
    asked : tuple of int
        Who was to answer, ascending.
    bytes_up, bytes_down : int
    judgement : Judgement, optional
        Of the model that the round began with, where it was asked for.
    missing : tuple of dict
        Who was asked and has not answered, and why.
    """

    ids: tuple[int, ...]
    uploads: Mapping[str, Uploads]
    report: Report
    asked: tuple[int, ...] = ()
    bytes_up: int = 0
    bytes_down: int = 0
    judgement: Judgement | None = None
    missing: tuple[Row, ...] = ()


@dataclass(frozen=True)
class Moments:
    """Sums over all clients, and what they have cost."""

    total: Payload
    bytes_up: int = 0
    bytes_down: int = 0


class Fleet(Protocol):
    """The clients of a federation."""

    @property
    def late(self) -> bool:
        """Whether asking is dear: a model that need not be judged at once is, in `train`."""

    def train(self, state: State, ids: Sequence[int], judge: bool) -> Answers:
        """Let these clients do the round after ``state.round_number``.

        What of their uploads is remembered is put into ``state.received``. With ``judge`` the
        validators also judge the model that the round begins with.
        """

    def moments(self) -> Moments:
        """The moments of all clients' training pairs (`fedsyn.data.moments`)."""

    def judge(
        self, models: Sequence[Tensor], ids: Sequence[int], shares: Sequence[float] = ()
    ) -> Judgement:
        """Let these clients judge models, each ``[1, P]`` or one a client, on held-out pairs.

        With ``shares`` mixtures of two models are judged (`fedsyn.core.judgement.mixtures`).
        """

    def tensors(self) -> Payload:
        """What a checkpoint holds of it."""

    def saved(self) -> None:
        """The checkpoint is in its place."""

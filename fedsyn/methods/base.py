"""The shape of a federated method."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from fedsyn.config import MethodConfig
from fedsyn.core.aggregate import add_sums
from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.data.silos import Silo
from fedsyn.tasks.base import Problem

__all__ = ["Method", "Problem"]

P = TypeVar("P", bound=Problem)


@dataclass(frozen=True)
class Method(Generic[P]):
    """A federated algorithm over stacked payloads.

    Attributes
    ----------
    init : ``(problem, model [P], clients) -> server state``
        The server's state before the first round; ``state["model"] [M, P]`` are the models that
        are evaluated: one, or one a client where there is no federation.
    down : ``(state, ids) -> payload [C, ...]``
        What the clients ``ids`` receive.
    client : ``(problem, payload, kept, cohort, config) -> (payload, kept, losses [C])``
        What clients do, stacked: from what they receive and what they have kept to what they send
        and keep. Kept under ``private``, a model ``[C, P]`` that is never averaged also serves the
        generators as encoder.
    hear : ``(heard, ids, payload, sizes [C], config) -> heard``
        What the server keeps of the replies of the next few clients, in client order; ``heard`` is
        empty at first.
    server : ``(problem, state, heard, config, generator) -> state``
        What the server does when it has heard from all; the generator is the round's. Of the
        problem's rows it looks at the public ones alone.
    keep : ``(problem, model [P]) -> payload``
        What a client has kept before its first round, without the client axis; ``None`` where
        clients keep nothing.
    merge : ``(heard, heard) -> heard``
        Both, of which the second's clients come after the first's: nodes of several clients each
        send what they have heard.
    pooled : bool
        All clients' rows are one client's (the centralised bound).
    tasks : names of the tasks that it can learn; all where ``None``.
    rows : ``(problem, silo) -> rows``
        The rows that a client trains on, where they are not the task's.
    sends_model : bool
        Whether ``down`` has the model that is evaluated, so that clients judge it on held-out
        rows; where not, the last round's is the one that a run selects.
    """

    init: Callable[[P, Tensor, int], Payload]
    down: Callable[[Payload, tuple[int, ...]], Payload]
    client: Callable[[P, Payload, Payload, Cohort, MethodConfig], tuple[Payload, Payload, Tensor]]
    hear: Callable[[Payload, tuple[int, ...], Payload, Tensor, MethodConfig], Payload]
    server: Callable[[P, Payload, Payload, MethodConfig, torch.Generator], Payload]
    keep: Callable[[P, Tensor], Payload] | None = None
    merge: Callable[[Payload, Payload], Payload] = add_sums
    pooled: bool = False
    tasks: tuple[str, ...] | None = None
    rows: Callable[[P, Silo], np.ndarray] | None = None
    sends_model: bool = True

"""The shape of a federated method."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fedsyn.config import MethodConfig
from fedsyn.core.aggregate import add_sums
from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.models.retrieval import RetrievalNet
from fedsyn.objectives.base import Objective


@dataclass(frozen=True)
class Problem:
    """What is trained on what: the pairs, the network and the objective."""

    features: Tensor  # [N, D] concatenated image and text features
    net: RetrievalNet
    objective: Objective


@dataclass(frozen=True)
class Method:
    """A federated algorithm over stacked payloads.

    Attributes
    ----------
    init : ``(model [P], clients) -> server state``
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
    server : ``(state, heard, config, generator) -> state``
        What the server does when it has heard from all; the generator is the round's.
    keep : ``(model [P]) -> payload``
        What a client has kept before its first round, without the client axis; ``None`` where
        clients keep nothing.
    merge : ``(heard, heard) -> heard``
        Both, of which the second's clients come after the first's: nodes of several clients each
        send what they have heard.
    pooled : bool
        All clients' rows are one client's (the centralised bound).
    """

    init: Callable[[Tensor, int], Payload]
    down: Callable[[Payload, tuple[int, ...]], Payload]
    client: Callable[
        [Problem, Payload, Payload, Cohort, MethodConfig], tuple[Payload, Payload, Tensor]
    ]
    hear: Callable[[Payload, tuple[int, ...], Payload, Tensor, MethodConfig], Payload]
    server: Callable[[Payload, Payload, MethodConfig, torch.Generator], Payload]
    keep: Callable[[Tensor], Payload] | None = None
    merge: Callable[[Payload, Payload], Payload] = add_sums
    pooled: bool = False

"""What a federated method is: what goes down, what clients do and send, what the server does."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.core.training import Training
from fedsyn.core.wire import Sum, Upload, Uploads
from fedsyn.data.settings import Needs
from fedsyn.data.silos import Silo
from fedsyn.settings.plugins import Plugin, Tree
from fedsyn.settings.sections import Field
from fedsyn.tasks.base import Problem, Task

__all__ = ["Method", "MethodConfig", "Problem", "Update"]

P = TypeVar("P", bound=Problem)


class MethodConfig(Training):
    """The federated algorithm and the clients' local training."""

    name: str = Field("", description="the federated algorithm")
    weighting: Literal["size", "uniform", "contribution"] = Field(
        "size", description="by what clients count in means"
    )

    def weights(self, cohort: Cohort) -> Tensor:
        """By how much each client counts in means, float64 ``[C]``.

        Who has nothing to train on has no say.
        """
        sizes = torch.tensor(cohort.sizes)
        return sizes.double() if self.weighting == "size" else (sizes > 0).double()

    def weighted(self, cohort: Cohort, **values: Tensor) -> dict[str, Sum]:
        """Tensors ``[C, ...]`` of a cohort as sums, in which clients count by ``weighting``."""
        weights = self.weights(cohort)
        return {name: Sum(value, weights) for name, value in values.items()}


def present(cohort: Cohort, **values: Tensor) -> dict[str, Sum]:
    """Tensors ``[C, ...]`` as sums over the clients that have something to train on."""
    there = (torch.tensor(cohort.sizes) > 0).double()
    return {name: Sum(value, there, weighted=False) for name, value in values.items()}


def to_each(state: Payload, ids: tuple[int, ...], *names: str) -> Payload:
    """Of the server's state ``[1, ...]`` these names, or all of it, to each client ``[C, ...]``."""
    sent = {name: state[name] for name in names or state}
    return {name: value.expand(len(ids), *value.shape[1:]) for name, value in sent.items()}


@dataclass(frozen=True)
class Update:
    """What the clients of a chunk have done: what they send, what they keep, losses ``[C]``."""

    upload: Upload
    state: Payload
    losses: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Method(Plugin, Generic[P]):
    """A federated algorithm over stacked payloads, as a plug-in; a variant is ``replace(...)``.

    Attributes
    ----------
    init : ``(problem, model [P], clients) -> server state``
        The server's state before the first round; ``state["model"] [M, P]`` are the models that
        are evaluated: one, or one a client where there is no federation.
    broadcast : ``(state, ids) -> payload [C, ...]``
        What the clients ``ids`` receive.
    client : ``(problem, received, state, cohort, config) -> Update``
        What clients do, stacked: from what they receive and what they have kept to what they send
        and keep.
    server : ``(problem, state, uploads, config, generator) -> state``
        What the server does when it has heard from all; the generator is the round's. Of the
        problem's rows it looks at the public ones alone.
    client_state : ``(problem, model [P]) -> payload``
        What a client has kept before its first round, without the client axis; ``None`` where
        clients keep nothing.
    tasks : tuple of Task
        Those that it can learn, its own first; all where empty.
    needs : Needs
        Beside those of the task.
    with_task : mapping of str to tree
        What it sets differently from its own ``defaults`` in a task, by that task's name.
    prepare : ``(problem, config) -> problem``
        The problem as the method needs it: with another network, say.
    check : ``(config) -> None``
        Refuses options that do not go together, by `fedsyn.errors.ConfigError`.
    rows : ``(problem, silo) -> rows``
        The rows that a client trains on, where they are not the task's.
    sends : tuple of str
        Names of the sums that clients send.
    private : str
        What of a client's state is a model ``[C, P]`` that is never averaged, which generators may
        look through; empty where there is none.
    broadcasts_model : bool
        Whether what is broadcast has the model that is evaluated, so that clients judge it on
        held-out rows; where not, the last round's is the one that a run selects.
    extensible : bool
        Whether its server has one model of the clients' pairs, which extensions may change.
    deployable : bool
        Whether it is a federation that nodes can take part in, and not a bound.
    starts : bool
        Whether all begin with a model that sums over clients give, where the task has one
        (``model.start``).
    rounds : int, optional
        After how many rounds there is nothing left to do.
    baseline : bool
        Whether every comparison has it, as the simple thing to be better than.
    """

    init: Callable[[P, Tensor, int], Payload]
    broadcast: Callable[[Payload, tuple[int, ...]], Payload]
    client: Callable[[P, Payload, Payload, Cohort, MethodConfig], Update]
    server: Callable[[P, Payload, Uploads, MethodConfig, torch.Generator], Payload]
    client_state: Callable[[P, Tensor], Payload] | None = None
    tasks: tuple[Task, ...] = ()
    needs: Needs = field(default_factory=Needs)
    with_task: Mapping[str, Tree] = field(default_factory=dict)
    prepare: Callable[[P, MethodConfig], P] | None = None
    check: Callable[[MethodConfig], None] | None = None
    rows: Callable[[P, Silo], np.ndarray] | None = None
    sends: tuple[str, ...] = ("model",)
    private: str = ""
    broadcasts_model: bool = True
    extensible: bool = True
    deployable: bool = True
    starts: bool = True
    rounds: int | None = None
    baseline: bool = False

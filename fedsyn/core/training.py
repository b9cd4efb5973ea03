"""Stacked local training: every client of a chunk takes its step in the same batched products."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

import torch
from torch import Tensor

from fedsyn.core.batches import Batches
from fedsyn.core.graphs import Step
from fedsyn.core.optim import Optimizer, State, rows
from fedsyn.settings.sections import (
    Count,
    Field,
    NonNegative,
    Positive,
    Repeated,
    Section,
    Share,
    Tried,
)


class Training(Section):
    """How clients train locally."""

    epochs: Annotated[Count, Repeated()] = Field(
        2, description="passes over a client's rows in a round"
    )
    batch: Annotated[int, Field(ge=2)] = Field(64, description="rows of a step")
    optimizer: Literal["adam", "sgd", "rmsprop"] = Field("adam", description="rule of a step")
    lr: Annotated[Positive, Tried(3e-4, 1e-3, 3e-3)] = Field(1e-3, description="rate of a step")
    momentum: Share = Field(0.0, description="momentum of sgd")
    weight_decay: NonNegative = Field(0.0, description="decay of weights in a step")

    @property
    def rule(self) -> Optimizer:
        """The optimiser that these keys describe."""
        return Optimizer(
            self.optimizer, self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )


# loss(params [c, P], clients [c], index [c, B], valid [c, B], step []) -> [c]
Loss = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
# correction(params [c, P], clients [c]) -> [c, P]
Correction = Callable[[Tensor, Tensor], Tensor]


def train(
    params: Tensor,  # [C, P]
    loss: Loss,
    batches: Batches,
    optimizer: Optimizer,
    correction: Correction | None = None,
    state: State | None = None,
) -> tuple[Tensor, Tensor]:  # [C, P], [C]
    """Train each client on its own batches from its row of ``params``.

    Clients are sorted by their number of steps, so those that are still training are a leading
    slice and finished ones cost nothing.

    Parameters
    ----------
    params : Tensor [C, P]
        Start of each client; left unchanged.
    loss : callable
        ``loss(params [c, P], clients [c], index [c, B], valid [c, B], step []) -> [c]``, where
        ``clients`` are positions in the chunk.
    batches : Batches
    optimizer : Optimizer
    correction : callable, optional
        ``correction(params [c, P], clients [c]) -> [c, P]``, added to the gradient of the loss.
    state : dict, optional
        What the optimiser remembers of earlier steps, ``[C, ...]``, changed in place; by default
        nothing.

    Returns
    -------
    trained : Tensor [C, P]
    mean_loss : Tensor [C]
        Mean over each client's steps; 0 for a client without steps.
    """
    order = batches.steps.argsort(descending=True, stable=True)
    back = order.argsort()
    trained = params[order].clone()
    known = optimizer.init(trained) if state is None else {k: v[order] for k, v in state.items()}

    def update(clients: Tensor, gradient: Tensor) -> None:
        active = len(clients)
        if correction is not None:
            gradient = gradient + correction(trained[:active], clients)
        optimizer.step(trained[:active], gradient, rows(known, active))

    mean = _walk(trained, loss, batches, order, update)
    if state is not None:
        for name, value in known.items():
            state[name][order] = value
    return trained[back], mean[back]


def mean_gradient(params: Tensor, loss: Loss, batches: Batches) -> Tensor:  # [C, P]
    """The mean gradient of ``loss`` over each client's batches, all at its row of ``params``.

    0 for a client without steps.
    """
    order = batches.steps.argsort(descending=True, stable=True)
    here = params[order]
    total = torch.zeros_like(here)

    def add(clients: Tensor, gradient: Tensor) -> None:
        total[: len(clients)] += gradient

    _walk(here, loss, batches, order, add)
    steps = batches.steps.clamp(min=1).to(params.device)
    return total[order.argsort()] / steps[:, None]


def _walk(
    params: Tensor,  # [C, P], sorted
    loss: Loss,
    batches: Batches,
    order: Tensor,  # [C] long, clients by their number of steps, descending
    act: Callable[[Tensor, Tensor], None],  # (clients [c], gradient [c, P]), may change params
) -> Tensor:  # [C], sorted
    """All steps of all clients; the mean loss over each client's steps."""
    total = torch.zeros(len(order), dtype=torch.float64, device=params.device)
    steps, clients = batches.steps[order], order.to(params.device)
    index, valid = (part[:, order].to(params.device) for part in (batches.index, batches.valid))

    def one(active: int, index: Tensor, valid: Tensor, step: Tensor) -> Tensor:
        leaf = params[:active].detach().requires_grad_()
        losses = loss(leaf, clients[:active], index, valid, step)
        (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        act(clients[:active], gradient)
        return losses.detach()

    numbers = torch.arange(len(index), device=params.device)
    step_of: dict[int, Step] = {}  # by the number of clients that still train
    for step in range(len(index)):
        active = int((steps > step).sum())
        if active not in step_of:
            step_of = {active: Step(partial(one, active), params.device)}
        total[:active] += step_of[active](index[step, :active], valid[step, :active], numbers[step])
    return (total / steps.clamp(min=1).to(total.device)).float()

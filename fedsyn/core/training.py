"""Stacked local training: every client of a chunk takes its step in the same batched products."""

from collections.abc import Callable

import torch
from torch import Tensor

from fedsyn.core.batches import Batches
from fedsyn.core.optim import Optimizer, rows

# loss(params [c, P], clients [c], index [c, B], valid [c, B]) -> [c]
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def train(
    params: Tensor,  # [C, P]
    loss: Loss,
    batches: Batches,
    optimizer: Optimizer,
) -> tuple[Tensor, Tensor]:  # [C, P], [C]
    """Train each client on its own batches from its row of ``params``, with fresh moments.

    Clients are sorted by their number of steps, so those that are still training are a leading
    slice and finished ones cost nothing.

    Parameters
    ----------
    params : Tensor [C, P]
        Start of each client; left unchanged.
    loss : callable
        ``loss(params [c, P], clients [c], index [c, B], valid [c, B]) -> [c]``, where ``clients``
        are positions in the chunk.
    batches : Batches
    optimizer : Optimizer

    Returns
    -------
    trained : Tensor [C, P]
    mean_loss : Tensor [C]
        Mean over each client's steps; 0 for a client without steps.
    """
    order = batches.steps.argsort(descending=True, stable=True)
    back = order.argsort()
    trained = params[order].clone()
    state = optimizer.init(trained)
    total = torch.zeros(len(order), dtype=torch.float64, device=params.device)
    steps = batches.steps[order]
    for step in range(len(batches.index)):
        active = int((steps > step).sum())
        leaf = trained[:active].detach().requires_grad_()
        clients = order[:active]
        index, valid = batches.index[step, clients], batches.valid[step, clients]
        losses = loss(leaf, clients, index.to(params.device), valid.to(params.device))
        (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        optimizer.step(trained[:active], gradient, rows(state, active))
        total[:active] += losses.detach()
    mean = total / steps.clamp(min=1).to(total.device)
    return trained[back], mean[back].float()

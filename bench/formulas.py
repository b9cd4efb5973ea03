"""What operators compute, as formulas read: contenders and, in float64, judges."""

from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import cross_entropy, leaky_relu

from fedsyn.ops import backend

P = ParamSpec("P")
T = TypeVar("T")
CHUNK = 512  # rows whose similarities to all others are held in float64
SLOPE = 0.2  # of the critic's leaky ReLU


def forced(name: str, call: Callable[P, T]) -> Callable[P, T]:
    """The call, whose operators are of this backend."""

    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with backend(name):
            return call(*args, **kwargs)

    return run


# ---- InfoNCE -----------------------------------------------------------------------------------


def info_nce(x: Tensor, y: Tensor, scale: Tensor | float) -> Tensor:
    """Of rows [C, B, D]: both directions' mean, summed over clients."""
    logits = scale * x @ y.mT
    target = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
    both = cross_entropy(logits.mT, target) + cross_entropy(logits, target)
    return both / 2 * len(x)


def exact_info_nce(x: Tensor, y: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and gradients to x and y in float64, a few rows at a time."""
    x, y, batch = x.detach().double(), y.detach().double(), x.shape[1]
    chunks = [slice(i, i + CHUNK) for i in range(0, batch, CHUNK)]
    rows = torch.cat([(scale * x[:, c] @ y.mT).logsumexp(2) for c in chunks], 1)
    columns = torch.cat([(scale * y[:, c] @ x.mT).logsumexp(2) for c in chunks], 1)
    loss = ((rows + columns) / 2 - scale * (x * y).sum(-1)).mean(-1).sum()
    to_x, to_y = -scale / batch * y, -scale / batch * x
    for c in chunks:
        s = scale * x[:, c] @ y.mT
        weight = (s - rows[:, c, None]).exp_() + s.sub_(columns[:, None, :]).exp_()
        weight *= scale / (2 * batch)
        to_x[:, c] += weight @ y
        to_y += weight.mT @ x[:, c]
    return loss, to_x, to_y


# ---- A critic ----------------------------------------------------------------------------------


def critic(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """The score of each row."""
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        x = leaky_relu(bias + x @ weight, SLOPE)
    return (x @ weights[-1] + biases[-1]).squeeze(-1)


def gradient_penalty(at: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """By differentiating twice: mean of (‖gradient‖ − 1)² over the rows."""
    at = at.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(at, weights, biases).sum(), at, create_graph=True)
    penalty: Tensor = (vector_norm(gradient, dim=-1) - 1).square().mean(-1)
    return penalty

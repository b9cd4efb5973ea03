"""Optimisers on stacked flat parameters ``[C, P]``: each client has its own moments and step count.

Updates are in place and touch only the rows given, so clients that have finished their steps are
left alone by slicing.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

State = dict[str, Tensor]


@dataclass(frozen=True)
class Optimizer:
    """Adam (Kingma & Ba 2015), SGD with momentum, or RMSprop (as torch.optim defines them)."""

    name: Literal["adam", "sgd", "rmsprop"]
    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.0
    weight_decay: float = 0.0
    eps: float = 1e-8

    def init(self, params: Tensor) -> State:
        """Fresh state for ``params [C, P]``."""
        state = {"step": torch.zeros(params.shape[0], device=params.device)}
        slots = {"adam": ("first", "second"), "sgd": ("first",), "rmsprop": ("second",)}
        return state | {slot: torch.zeros_like(params) for slot in slots[self.name]}

    def step(self, params: Tensor, gradient: Tensor, state: State) -> None:
        """Update ``params [c, P]`` and ``state`` in place by ``gradient [c, P]``."""
        if self.name == "rmsprop":
            self._rmsprop(params, gradient, state)
            return
        # One fused call; a client is one row, so each row keeps its own step count.
        rows, gradients = list(params.unbind(0)), list(gradient.unbind(0))
        first, steps = list(state["first"].unbind(0)), list(state["step"].unbind(0))
        if self.name == "adam":
            adam(
                rows, gradients, first, list(state["second"].unbind(0)), [], steps,
                foreach=False, fused=True, amsgrad=False, beta1=self.betas[0], beta2=self.betas[1],
                lr=self.lr, weight_decay=self.weight_decay, eps=self.eps, maximize=False,
            )  # fmt: skip
            return
        momenta: list[Tensor | None] = list(first) if self.momentum else [None] * len(rows)
        sgd(
            rows, gradients, momenta, foreach=False, fused=True, weight_decay=self.weight_decay,
            momentum=self.momentum, lr=self.lr, dampening=0.0, nesterov=False, maximize=False,
        )  # fmt: skip
        state["step"] += 1

    def _rmsprop(self, params: Tensor, gradient: Tensor, state: State) -> None:
        smoothing = 0.99
        if self.weight_decay:
            gradient = gradient.add(params, alpha=self.weight_decay)
        state["second"].mul_(smoothing).addcmul_(gradient, gradient, value=1 - smoothing)
        params.addcdiv_(gradient, state["second"].sqrt().add_(self.eps), value=-self.lr)
        state["step"] += 1


def rows(state: State, count: int) -> State:
    """The state of the first ``count`` clients, as views."""
    return {name: value[:count] for name, value in state.items()}

"""FedDyn, dynamic regularisation (Acar et al. 2021, arXiv 2111.04263, algorithm 1).

server: w ← w_0, h ← 0; every client: g_k ← 0
every round:
    send w to the sampled clients P
    client k: w_k ← E epochs from w on  F_k(·) − ⟨g_k, ·⟩ + α/2 ‖· − w‖²
              g_k ← g_k − α (w_k − w);  send w_k
    h ← h − α 1/N Σ_{k ∈ P} (w_k − w)        N: all clients
    w ← mean of w_k − h / α

The regulariser enters by its gradient α (· − w) − g_k, so reported losses are those of F_k. The
paper minimises it exactly, where g_k is the gradient of F_k at w_k; here clients take the steps of
their epochs. Its mean is plain, whatever ``weighting`` says.
"""

import torch
from torch import Tensor

from fedsyn.config import MethodConfig
from fedsyn.core.aggregate import WEIGHT, add_weighted
from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.methods import fedavg
from fedsyn.methods.base import Method, Problem


def init(problem: Problem, model: Tensor, clients: int) -> Payload:
    """One global model, h and the number of all clients."""
    return {
        "model": model[None],
        "h": torch.zeros_like(model)[None],
        "clients": torch.tensor(clients),
    }


def keep(problem: Problem, model: Tensor) -> Payload:
    """g_k."""
    return {"gradient": torch.zeros_like(model)}


def client(
    problem: Problem, payload: Payload, kept: Payload, cohort: Cohort, config: MethodConfig
) -> tuple[Payload, Payload, Tensor]:
    """Local training under the client's regulariser, which is then brought up to date."""
    received, gradient, alpha = payload["model"], kept["gradient"], config.feddyn.alpha

    def regulariser(params: Tensor, clients: Tensor) -> Tensor:
        return alpha * (params - received[clients]) - gradient[clients]

    model, losses = problem.train(received, cohort, config, correction=regulariser)
    return {"model": model}, {"gradient": gradient - alpha * (model - received)}, losses


def hear(
    heard: Payload, ids: tuple[int, ...], payload: Payload, sizes: Tensor, config: MethodConfig
) -> Payload:
    """Plain sums over the models of clients with something to train on."""
    return add_weighted(heard, payload, (sizes > 0).double())


def server(
    problem: Problem,
    state: Payload,
    heard: Payload,
    config: MethodConfig,
    generator: torch.Generator,
) -> Payload:
    """The mean of the models, moved on by h."""
    present = float(heard[WEIGHT])
    if not present:
        return state
    model, alpha = state["model"], config.feddyn.alpha
    mean = fedavg.average(heard).to(model.device)
    share = present / int(state["clients"])
    h = state["h"] - alpha * share * (mean - model.double())
    return state | {"model": (mean - h / alpha).to(model), "h": h.to(model)}


METHOD = Method(init, fedavg.down, client, hear, server, keep)

"""Federated averaging (McMahan et al. 2017, arXiv 1602.05629, algorithm 1).

server: w ← w_0
every round:
    send w to the sampled clients
    client k: w_k ← E epochs of local training from w
    w ← Σ_k n_k w_k / Σ_k n_k        (or the plain mean: weighting = "uniform")
"""

import torch
from torch import Tensor

from fedsyn.config import MethodConfig
from fedsyn.core.aggregate import WEIGHT, add_weighted, mean
from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.methods.base import Method, Problem


def init(problem: Problem, model: Tensor, clients: int) -> Payload:
    """One global model."""
    return {"model": model[None]}


def down(state: Payload, ids: tuple[int, ...]) -> Payload:
    """The global model, to each client."""
    return {"model": state["model"].expand(len(ids), -1)}


def client(
    problem: Problem, payload: Payload, kept: Payload, cohort: Cohort, config: MethodConfig
) -> tuple[Payload, Payload, Tensor]:
    """Local training from the received model."""
    model, losses = problem.train(payload["model"], cohort, config)
    return {"model": model}, kept, losses


def hear(
    heard: Payload, ids: tuple[int, ...], payload: Payload, sizes: Tensor, config: MethodConfig
) -> Payload:
    """Sums over the clients' models; clients with nothing to train on have no say."""
    weights = sizes.double() if config.weighting == "size" else (sizes > 0).double()
    return add_weighted(heard, payload, weights)


def server(
    problem: Problem,
    state: Payload,
    heard: Payload,
    config: MethodConfig,
    generator: torch.Generator,
) -> Payload:
    """The mean of the clients' models."""
    if not heard[WEIGHT]:
        return state
    return {"model": average(heard).to(state["model"])[None]}


def average(heard: Payload) -> Tensor:
    """The mean of the clients' models ``[P]``, in float64."""
    return mean({name: heard[name] for name in ("model", WEIGHT)})["model"]


METHOD = Method(init, down, client, hear, server)

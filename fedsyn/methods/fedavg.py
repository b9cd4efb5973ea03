"""Federated averaging (McMahan et al. 2017, arXiv 1602.05629, algorithm 1).

server: w ← w_0
every round:
    send w to the sampled clients
    client k: w_k ← E epochs of local training from w
    w ← Σ_k n_k w_k / Σ_k n_k        (or the plain mean: weighting = "uniform")
"""

from typing import Any

import torch
from torch import Tensor

from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.core.wire import Upload, Uploads
from fedsyn.methods.base import Method, MethodConfig, Problem, Update, to_each


def init(problem: Problem, model: Tensor, clients: int) -> Payload:
    """One global model ``[1, P]``."""
    return {"model": model[None]}


def broadcast(state: Payload, ids: tuple[int, ...]) -> Payload:
    """The global model, to each client."""
    return to_each(state, ids, "model")


def client(
    problem: Problem, received: Payload, state: Payload, cohort: Cohort, config: MethodConfig
) -> Update:
    """Local training from the received model."""
    model, losses = problem.train(received["model"], cohort, config)
    return Update(Upload(config.weighted(cohort, model=model)), state, losses)


def server(
    problem: Problem,
    state: Payload,
    uploads: Uploads,
    config: MethodConfig,
    generator: torch.Generator,
) -> Payload:
    """The mean of the clients' models."""
    if not uploads.weight("model"):
        return state
    return {"model": uploads.mean("model").to(state["model"])[None]}


FEDAVG: Method[Any] = Method(
    name="fedavg", init=init, broadcast=broadcast, client=client, server=server
)

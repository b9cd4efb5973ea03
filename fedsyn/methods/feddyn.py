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

from dataclasses import replace

import torch
from torch import Tensor

from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.core.wire import Upload, Uploads
from fedsyn.methods.base import MethodConfig, Problem, Update, present
from fedsyn.methods.fedavg import FEDAVG
from fedsyn.settings.sections import Field, Positive, Section


class FedDynOptions(Section):
    """Options of the method FedDyn."""

    alpha: Positive = Field(0.01, description="weight α of the regulariser")


def init(problem: Problem, model: Tensor, clients: int) -> Payload:
    """One global model, h and the number of all clients."""
    return {
        "model": model[None],
        "h": torch.zeros_like(model)[None],
        "clients": torch.tensor(clients),
    }


def client_state(problem: Problem, model: Tensor) -> Payload:
    """The client's linear term g_k, zero at first."""
    return {"gradient": torch.zeros_like(model)}


def client(
    problem: Problem, received: Payload, state: Payload, cohort: Cohort, config: MethodConfig
) -> Update:
    """Local training under the client's regulariser, which is then brought up to date."""
    start, gradient = received["model"], state["gradient"]
    alpha = config.of(FedDynOptions).alpha

    def regulariser(params: Tensor, clients: Tensor) -> Tensor:
        return alpha * (params - start[clients]) - gradient[clients]

    model, losses = problem.train(start, cohort, config, correction=regulariser)
    kept = {"gradient": gradient - alpha * (model - start)}
    return Update(Upload(present(cohort, model=model)), kept, losses)


def server(
    problem: Problem,
    state: Payload,
    uploads: Uploads,
    config: MethodConfig,
    generator: torch.Generator,
) -> Payload:
    """The mean of the models, moved on by h."""
    clients = uploads.weight("model")
    if not clients:
        return state
    model, alpha = state["model"], config.of(FedDynOptions).alpha
    mean = uploads.mean("model").to(model.device)
    share = clients / int(state["clients"])
    h = state["h"] - alpha * share * (mean - model.double())
    return state | {"model": (mean - h / alpha).to(model), "h": h.to(model)}


FEDDYN = replace(
    FEDAVG,
    name="feddyn",
    options={"feddyn": FedDynOptions},
    init=init,
    client=client,
    server=server,
    client_state=client_state,
)

"""FedNova, normalised averaging (Wang et al. 2020, arXiv 2007.07481, section 4).

server: as federated averaging, but
client k: w_k ← E epochs, τ_k steps, from w;  send d_k = (w − w_k) / ‖a_k‖₁ and ‖a_k‖₁
server: w ← w − (Σ_k p_k ‖a_k‖₁) Σ_k p_k d_k        p_k by ``weighting``

‖a_k‖₁ is by how much a client's steps count together: τ_k for sgd, and for sgd with momentum ρ

    [τ_k − ρ (1 − ρ^τ_k) / (1 − ρ)] / (1 − ρ).

The paper has none for adaptive optimisers, whose steps are of one size; for them it is τ_k here.
Learning rates are constant, and weight decay is not accounted for.
"""

from dataclasses import replace

import torch
from torch import Tensor

from fedsyn.core.batches import steps
from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.core.wire import Upload, Uploads
from fedsyn.methods.base import MethodConfig, Problem, Update
from fedsyn.methods.fedavg import FEDAVG


def client(
    problem: Problem, received: Payload, state: Payload, cohort: Cohort, config: MethodConfig
) -> Update:
    """Local training from the received model; what is sent is the mean step."""
    model, losses = problem.train(received["model"], cohort, config)
    norm = norms(steps(cohort.sizes, config.batch, config.epochs), config).to(model)
    # A client without steps has not moved, and counts as none.
    direction = (received["model"] - model) / norm.clamp(min=1)[:, None]
    sums = config.weighted(cohort, direction=direction, norm=norm)
    return Update(Upload(sums), state, losses)


def norms(taken: Tensor, config: MethodConfig) -> Tensor:
    """‖a_k‖₁ of clients that have taken so many steps."""
    rho = config.momentum if config.optimizer == "sgd" else 0.0
    taken = taken.double()
    return (taken - rho * (1 - rho**taken) / (1 - rho)) / (1 - rho)


def server(
    problem: Problem,
    state: Payload,
    uploads: Uploads,
    config: MethodConfig,
    generator: torch.Generator,
) -> Payload:
    """The mean direction, times the mean number of steps."""
    if not uploads.weight("direction"):
        return state
    model = state["model"]
    step = (uploads.mean("norm") * uploads.mean("direction")).to(model.device)
    return {"model": (model - step).to(model)}


FEDNOVA = replace(FEDAVG, name="fednova", client=client, server=server, sends=("direction", "norm"))

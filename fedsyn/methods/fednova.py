"""FedNova, normalised averaging (Wang et al. 2020, arXiv 2007.07481, section 4).

server: as federated averaging, but
client k: w_k ← E epochs, τ_k steps, from w;  send d_k = (w − w_k) / ‖a_k‖₁ and ‖a_k‖₁
server: w ← w − (Σ_k p_k ‖a_k‖₁) Σ_k p_k d_k        p_k by ``weighting``

‖a_k‖₁ is by how much a client's steps count together: τ_k for sgd, and for sgd with momentum ρ

    [τ_k − ρ (1 − ρ^τ_k) / (1 − ρ)] / (1 − ρ).

The paper has none for adaptive optimisers, whose steps are of one size; for them it is τ_k here.
Learning rates are constant, and weight decay is not accounted for.
"""

import torch
from torch import Tensor

from fedsyn.config import MethodConfig
from fedsyn.core.aggregate import WEIGHT, mean
from fedsyn.core.batches import steps
from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.methods import fedavg
from fedsyn.methods.base import Method, Problem


def client(
    problem: Problem, payload: Payload, kept: Payload, cohort: Cohort, config: MethodConfig
) -> tuple[Payload, Payload, Tensor]:
    """Local training from the received model; what is sent is the mean step."""
    sent, kept, losses = fedavg.client(problem, payload, kept, cohort, config)
    norm = norms(steps(cohort.sizes, config.batch, config.epochs), config).to(sent["model"])
    moved = payload["model"] - sent["model"]
    # A client without steps has not moved, and counts as none.
    return {"direction": moved / norm.clamp(min=1)[:, None], "norm": norm}, kept, losses


def norms(taken: Tensor, config: MethodConfig) -> Tensor:
    """‖a_k‖₁ of clients that have taken so many steps."""
    rho = config.momentum if config.optimizer == "sgd" else 0.0
    taken = taken.double()
    return (taken - rho * (1 - rho**taken) / (1 - rho)) / (1 - rho)


def server(
    problem: Problem,
    state: Payload,
    heard: Payload,
    config: MethodConfig,
    generator: torch.Generator,
) -> Payload:
    """The mean direction, times the mean number of steps."""
    if not heard[WEIGHT]:
        return state
    model, means = state["model"], mean(heard)
    step = (means["norm"] * means["direction"]).to(model.device)
    return {"model": (model - step).to(model)}


METHOD = Method(fedavg.init, fedavg.down, client, fedavg.hear, server)

"""SCAFFOLD (Karimireddy et al. 2020, arXiv 1910.06378, algorithm 1).

server: w ← w_0, c ← 0; every client: c_k ← 0
every round:
    send w and c to the sampled clients
    client k: w_k ← E epochs from w whose gradients are corrected by c − c_k
              c_k⁺ ← mean gradient of F_k at w, over one pass      (control = "gradient", option I)
                     c_k − c + (w − w_k) / (steps · lr)            (control = "drift", option II)
              send w_k and c_k⁺ − c_k;  c_k ← c_k⁺
    w ← w + server_lr (mean of w_k − w)
    c ← c + 1/N Σ_k (c_k⁺ − c_k)        over all N clients, sampled or not

Option II holds for plain sgd only, and the configuration refuses others with it. The mean of models
goes by ``weighting`` (the paper's is "uniform"); that of the controls is always plain. A client
that takes no step keeps its control.
"""

import torch
from torch import Tensor

from fedsyn.config import MethodConfig
from fedsyn.core.aggregate import WEIGHT, add_weighted
from fedsyn.core.batches import steps
from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.methods import fedavg
from fedsyn.methods.base import Method, Problem


def init(problem: Problem, model: Tensor, clients: int) -> Payload:
    """One global model, the server's control and the number of all clients."""
    return {
        "model": model[None],
        "control": torch.zeros_like(model)[None],
        "clients": torch.tensor(clients),
    }


def down(state: Payload, ids: tuple[int, ...]) -> Payload:
    """The model and the server's control, to each client."""
    return {name: state[name].expand(len(ids), -1) for name in ("model", "control")}


def keep(problem: Problem, model: Tensor) -> Payload:
    """A client's own control."""
    return {"control": torch.zeros_like(model)}


def client(
    problem: Problem, payload: Payload, kept: Payload, cohort: Cohort, config: MethodConfig
) -> tuple[Payload, Payload, Tensor]:
    """Local training with corrected gradients, and the client's next control."""
    received, control, own = payload["model"], payload["control"], kept["control"]
    shift = control - own
    model, losses = problem.train(
        received, cohort, config, correction=lambda params, clients: shift[clients]
    )
    taken = steps(cohort.sizes, config.batch, config.epochs).to(model.device)[:, None]
    if config.scaffold.control == "gradient":
        found = problem.mean_gradient(received, cohort, config, "control")
    else:
        found = (received - model) / (taken.clamp(min=1) * config.lr) - shift
    found = torch.where(taken > 0, found, own)
    return {"model": model, "control": found - own}, {"control": found}, losses


def hear(
    heard: Payload, ids: tuple[int, ...], payload: Payload, sizes: Tensor, config: MethodConfig
) -> Payload:
    """Sums over the clients' models, and over the changes of their controls."""
    heard = fedavg.hear(heard, ids, {"model": payload["model"]}, sizes, config)
    return add_weighted(heard, {"control": payload["control"]}, (sizes > 0).double(), "changed")


def server(
    problem: Problem,
    state: Payload,
    heard: Payload,
    config: MethodConfig,
    generator: torch.Generator,
) -> Payload:
    """A step towards the mean of the models; the control stays the mean of all clients'."""
    if not heard[WEIGHT]:
        return state
    model, control = state["model"], state["control"]
    step = fedavg.average(heard).to(model.device) - model.double()
    change = heard["control"].to(model.device) / int(state["clients"])
    return state | {
        "model": (model + config.scaffold.server_lr * step).to(model),
        "control": (control + change).to(control),
    }


METHOD = Method(init, down, client, hear, server, keep)

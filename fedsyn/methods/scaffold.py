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

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from fedsyn.core.batches import steps
from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.core.wire import Upload, Uploads
from fedsyn.errors import ConfigError
from fedsyn.methods.base import MethodConfig, Problem, Update, present, to_each
from fedsyn.methods.fedavg import FEDAVG
from fedsyn.settings.sections import Field, Positive, Section


class ScaffoldOptions(Section):
    """Options of the method SCAFFOLD."""

    control: Literal["gradient", "drift"] = Field(
        "gradient", description="how a client finds its control: options I and II of the paper"
    )
    server_lr: Positive = Field(1.0, description="rate of the server's step")


def init(problem: Problem, model: Tensor, clients: int) -> Payload:
    """One global model, the server's control and the number of all clients."""
    return {
        "model": model[None],
        "control": torch.zeros_like(model)[None],
        "clients": torch.tensor(clients),
    }


def broadcast(state: Payload, ids: tuple[int, ...]) -> Payload:
    """The model and the server's control, to each client."""
    return to_each(state, ids, "model", "control")


def client_state(problem: Problem, model: Tensor) -> Payload:
    """A client's own control variate, zero at first."""
    return {"control": torch.zeros_like(model)}


def client(
    problem: Problem, received: Payload, state: Payload, cohort: Cohort, config: MethodConfig
) -> Update:
    """Local training with corrected gradients, and the client's next control."""
    start, own = received["model"], state["control"]
    shift = received["control"] - own
    model, losses = problem.train(
        start, cohort, config, correction=lambda params, clients: shift[clients]
    )
    taken = steps(cohort.sizes, config.batch, config.epochs).to(model.device)[:, None]
    if config.of(ScaffoldOptions).control == "gradient":
        found = problem.mean_gradient(start, cohort, config, "control")
    else:
        found = (start - model) / (taken.clamp(min=1) * config.lr) - shift
    found = torch.where(taken > 0, found, own)
    sums = config.weighted(cohort, model=model) | present(cohort, control=found - own)
    return Update(Upload(sums), {"control": found}, losses)


def server(
    problem: Problem,
    state: Payload,
    uploads: Uploads,
    config: MethodConfig,
    generator: torch.Generator,
) -> Payload:
    """A step towards the mean of the models; the control stays the mean of all clients'."""
    if not uploads.weight("model"):
        return state
    model, control = state["model"], state["control"]
    step = uploads.mean("model").to(model.device) - model.double()
    change = uploads.sums["control"].to(model.device) / int(state["clients"])
    return state | {
        "model": (model + config.of(ScaffoldOptions).server_lr * step).to(model),
        "control": (control + change).to(control),
    }


def check(config: MethodConfig) -> None:
    """Refuse the drift of other optimisers than plain sgd."""
    own = config.of(ScaffoldOptions)
    plain = config.optimizer == "sgd" and config.momentum == 0
    if own.control == "drift" and not plain:
        raise ConfigError(
            "method.scaffold.control = 'drift' holds for sgd without momentum only, "
            f"got {config.optimizer!r} with momentum {config.momentum}"
        )


SCAFFOLD = replace(
    FEDAVG,
    name="scaffold",
    options={"scaffold": ScaffoldOptions},
    init=init,
    broadcast=broadcast,
    client=client,
    server=server,
    client_state=client_state,
    check=check,
    sends=("model", "control"),
)

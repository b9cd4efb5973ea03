"""FedExP, server extrapolation (Jhunjhunwala et al. 2023, arXiv 2301.09604, algorithm 1).

clients: as under federated averaging, with Δ_k = w − w_k
server: Δ ← Σ_k p_k Δ_k
        η ← max(1, Σ_k p_k ‖Δ_k‖² / (2 (‖Δ‖² + ε)))
        w ← w − η Δ                                        p_k by ``weighting``

‖Δ_k‖² is a sum like the model: the server sees no client's alone. The paper's mean is plain
(``weighting = "uniform"``), and it reports the average of the last two rounds' models, since one
round's oscillates; here the round's own is evaluated, as under every method.
"""

from dataclasses import replace

import torch

from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.core.wire import Upload, Uploads
from fedsyn.methods.base import MethodConfig, Problem, Update
from fedsyn.methods.fedavg import FEDAVG
from fedsyn.settings.sections import Field, NonNegative, Section


class FedExPOptions(Section):
    """Options of the method FedExP."""

    epsilon: NonNegative = Field(1e-3, description="ε, added to the squared mean change")


def client(
    problem: Problem, received: Payload, state: Payload, cohort: Cohort, config: MethodConfig
) -> Update:
    """Local training from the received model; how far it went is sent beside it."""
    model, losses = problem.train(received["model"], cohort, config)
    moved = (received["model"].double() - model.double()).square().sum(-1)
    return Update(Upload(config.weighted(cohort, model=model, moved=moved)), state, losses)


def server(
    problem: Problem,
    state: Payload,
    uploads: Uploads,
    config: MethodConfig,
    generator: torch.Generator,
) -> Payload:
    """The mean change, lengthened by how far the clients have moved apart."""
    if not uploads.weight("model"):
        return state
    model = state["model"]
    change = model.double() - uploads.mean("model").to(model.device)
    moved = float(uploads.mean("moved"))
    size = float(change.square().sum()) + config.of(FedExPOptions).epsilon
    rate = max(1.0, moved / (2 * size)) if size else 1.0
    return {"model": (model - rate * change).to(model)}


FEDEXP = replace(
    FEDAVG,
    name="fedexp",
    options={"fedexp": FedExPOptions},
    client=client,
    server=server,
    sends=("model", "moved"),
)

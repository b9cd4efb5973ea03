"""FedAdam and FedYogi (Reddi et al. 2021, arXiv 2003.00295, algorithm 2).

clients: as under federated averaging
server: Δ ← mean of w_k − w
        m ← β₁ m + (1 − β₁) Δ
        v ← β₂ v + (1 − β₂) Δ²                           (FedAdam)
            v − (1 − β₂) Δ² sign(v − Δ²)                 (FedYogi)
        w ← w + lr m / (√v + τ)

m starts at 0 and v at τ², and there is no correction of their bias, as in the paper. Its mean is
plain (``weighting = "uniform"``).
"""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from fedsyn.core.payload import Payload
from fedsyn.core.wire import Uploads
from fedsyn.methods.base import MethodConfig, Problem
from fedsyn.methods.fedavg import FEDAVG
from fedsyn.settings.sections import Field, Positive, Section, Share


class AdaptiveOptions(Section):
    """Options of FedAdam and FedYogi."""

    lr: Positive = Field(1e-2, description="rate of the server's step")
    betas: tuple[Share, Share] = Field(
        (0.9, 0.99), description="decay rates β₁ and β₂ of the moments"
    )
    tau: Positive = Field(1e-3, description="τ, added to the root of the second moment")


def server(
    problem: Problem,
    state: Payload,
    uploads: Uploads,
    config: MethodConfig,
    generator: torch.Generator,
    *,
    yogi: bool,
) -> Payload:
    """A step of the adaptive optimiser, with the mean change as its gradient."""
    if not uploads.weight("model"):
        return state
    own, model = config.of(AdaptiveOptions), state["model"]
    beta1, beta2 = own.betas
    first = state.get("first", torch.zeros_like(model))
    second = state.get("second", torch.full_like(model, own.tau**2))
    change = (uploads.mean("model").to(model.device) - model.double()).to(model)
    square = change.square()
    first = beta1 * first + (1 - beta1) * change
    pull: Tensor = square * (second - square).sign() if yogi else second - square
    second = second - (1 - beta2) * pull
    model = model + own.lr * first / (second.sqrt() + own.tau)
    return {"model": model, "first": first, "second": second}


FEDADAM, FEDYOGI = (
    replace(
        FEDAVG,
        name=name,
        options={"adaptive": AdaptiveOptions},
        server=partial(server, yogi=yogi),
    )
    for name, yogi in (("fedadam", False), ("fedyogi", True))
)

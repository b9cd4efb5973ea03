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

from functools import partial

import torch
from torch import Tensor

from fedsyn.config import MethodConfig
from fedsyn.core.aggregate import WEIGHT
from fedsyn.core.payload import Payload
from fedsyn.methods import fedavg
from fedsyn.methods.base import Method, Problem


def server(
    problem: Problem,
    state: Payload,
    heard: Payload,
    config: MethodConfig,
    generator: torch.Generator,
    *,
    yogi: bool,
) -> Payload:
    """A step of the adaptive optimiser, with the mean change as its gradient."""
    if not heard[WEIGHT]:
        return state
    own, model = config.adaptive, state["model"]
    beta1, beta2 = own.betas
    first = state.get("first", torch.zeros_like(model))
    second = state.get("second", torch.full_like(model, own.tau**2))
    change = (fedavg.average(heard).to(model.device) - model.double()).to(model)
    square = change.square()
    first = beta1 * first + (1 - beta1) * change
    pull: Tensor = square * (second - square).sign() if yogi else second - square
    second = second - (1 - beta2) * pull
    model = model + own.lr * first / (second.sqrt() + own.tau)
    return {"model": model, "first": first, "second": second}


FEDADAM, FEDYOGI = (
    Method(fedavg.init, fedavg.down, fedavg.client, fedavg.hear, partial(server, yogi=yogi))
    for yogi in (False, True)
)

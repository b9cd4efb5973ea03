"""The two bounds of every federated method: no federation at all, and all pairs in one place."""

import torch
from torch import Tensor

from fedsyn.config import MethodConfig
from fedsyn.core.payload import Payload, append
from fedsyn.methods import fedavg
from fedsyn.methods.base import Method, Problem


def _own_models(problem: Problem, model: Tensor, clients: int) -> Payload:
    return {"model": model[None].repeat(clients, 1)}


def _own_down(state: Payload, ids: tuple[int, ...]) -> Payload:
    return {"model": state["model"][list(ids)]}


def _own_hear(
    heard: Payload, ids: tuple[int, ...], payload: Payload, sizes: Tensor, config: MethodConfig
) -> Payload:
    return append(heard, {"ids": torch.tensor(ids), "model": payload["model"]})


def _own_server(
    problem: Problem,
    state: Payload,
    heard: Payload,
    config: MethodConfig,
    generator: torch.Generator,
) -> Payload:
    model = state["model"].clone()
    model[heard["ids"].to(model.device)] = heard["model"].to(model.device)
    return {"model": model}


# Each client goes on with its own model; nothing is exchanged.
LOCAL = Method(_own_models, _own_down, fedavg.client, _own_hear, _own_server)

# One client that holds everybody's pairs.
CENTRALISED = Method(
    fedavg.init, fedavg.down, fedavg.client, fedavg.hear, fedavg.server, pooled=True
)

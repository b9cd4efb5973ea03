"""The two bounds of every federated method: no federation at all, and all pairs in one place."""

from dataclasses import replace

import torch
from torch import Tensor

from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.core.wire import Upload, Uploads
from fedsyn.data.settings import Needs
from fedsyn.methods.base import MethodConfig, Problem, Update
from fedsyn.methods.fedavg import FEDAVG


def _own_models(problem: Problem, model: Tensor, clients: int) -> Payload:
    return {"model": model[None].repeat(clients, 1)}


def _to_each_its_own(state: Payload, ids: tuple[int, ...]) -> Payload:
    return {"model": state["model"][list(ids)]}


def _client(
    problem: Problem, received: Payload, state: Payload, cohort: Cohort, config: MethodConfig
) -> Update:
    model, losses = problem.train(received["model"], cohort, config)
    return Update(Upload(own={"model": model}), state, losses)


def _server(
    problem: Problem,
    state: Payload,
    uploads: Uploads,
    config: MethodConfig,
    generator: torch.Generator,
) -> Payload:
    model = state["model"].clone()
    model[list(uploads.ids)] = uploads.own["model"].to(model.device)
    return {"model": model}


# Each client goes on with its own model; nothing is exchanged.
LOCAL = replace(
    FEDAVG,
    name="local",
    init=_own_models,
    broadcast=_to_each_its_own,
    client=_client,
    server=_server,
    sends=(),
    extensible=False,
    deployable=False,
    starts=False,
)

# One client that holds everybody's pairs.
CENTRALISED = replace(
    FEDAVG, name="centralised", needs=Needs(pooled=True), extensible=False, deployable=False
)

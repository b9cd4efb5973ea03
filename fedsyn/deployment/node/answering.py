"""Requests, by their kind, and what a node does with them."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedsyn.core.judgement import Judgement
from fedsyn.core.payload import Payload, named, part_of
from fedsyn.core.wire import Joined
from fedsyn.data import federated
from fedsyn.data.moments import pair_moments
from fedsyn.deployment.messages import (
    DOWN,
    FREQUENCIES,
    IDF,
    MODELS,
    MOMENTS,
    UP,
    VERDICT,
    Answered,
    Introduced,
    Judged,
    JudgeRequest,
    Message,
    Request,
    Trained,
    TrainRequest,
    understood,
)
from fedsyn.deployment.node.admission import admitted
from fedsyn.deployment.node.holdings import (
    RunHoldings,
    UnpreparedError,
    held,
    keep,
    kept,
    local_data,
    run_holdings,
)
from fedsyn.deployment.node.settings import NodeConfig
from fedsyn.deployment.schema import schema
from fedsyn.deployment.validation import RefusedError, check
from fedsyn.errors import FedsynError
from fedsyn.federation import local, received
from fedsyn.federation.client import METHOD
from fedsyn.federation.config import Config
from fedsyn.federation.devices import available, cpu_threads, devices, settings
from fedsyn.federation.evaluation import held_out_losses

logger = logging.getLogger(__name__)


def answer(node: NodeConfig, kind: str, asked: Message) -> Message:
    """Do what is asked, or say in one sentence why not.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    """
    try:
        if asked.nbytes > node.allow.max_bytes:
            raise RefusedError(
                f"the message has {asked.nbytes} bytes; "
                f"this node allows max_bytes = {node.allow.max_bytes}"
            )
        work = KINDS[kind]
        said = understood(work.said, asked.facts)
        return work.do(node, admitted(node, said), said, asked)
    except UnpreparedError as error:
        return Answered(refused=str(error), unprepared=True).message()
    except FedsynError as error:
        logger.error("refused: %s", error)
        return Answered(refused=str(error)).message()


# ---- Who it is, and statistics -------------------------------------------------------------------


def _introduce(node: NodeConfig, config: Config, said: Request, asked: Message) -> Message:
    """The clients held here, and document frequencies of their texts."""
    mine = local_data(node, config)
    silos = [mine.silos[client] for client in mine.clients]
    introduced = Introduced(
        clients=mine.clients,
        pairs=tuple(len(silo.pairs) for silo in silos),
        holdout=tuple(len(silo.holdout) for silo in silos),
        images_only=tuple(len(silo.images) for silo in silos),
        texts_only=tuple(len(silo.texts) for silo in silos),
        form=mine.facts,
    )
    return introduced.message(**{FREQUENCIES: federated.frequencies(mine)})


def _moments(node: NodeConfig, config: Config, said: Request, asked: Message) -> Message:
    """First and second moments of what is held here."""
    found = federated.moments(local_data(node, config), asked.group(IDF))
    return Answered().message(**{MOMENTS: found})


# ---- Rounds --------------------------------------------------------------------------------------


def _train(node: NodeConfig, config: Config, said: TrainRequest, asked: Message) -> Message:
    """A round of some of the clients held here."""
    if said.round_number > config.rounds:
        raise RefusedError(f"round {said.round_number} is asked for of {config.rounds}")
    run = run_holdings(node, config, said, asked)
    down = asked.group(DOWN)
    _check_received(run, down)
    groups: dict[str, Payload] = {}
    with settings(config, cpu_threads(config)):
        if said.ids:
            groups[UP] = _trained(node, run, said, down)
        if said.validators:
            model = part_of(down, METHOD)["model"]
            judgement = held_out_losses(run.fed, [model], held(node, said.validators))
            groups[VERDICT] = _verdict(judgement)
    return Trained(ids=said.ids).message(**groups)


def _check_received(run: RunHoldings, down: Payload) -> None:
    """Refuse what the server would not send."""
    form = schema(run.fed)
    always = {name: value for name, value in down.items() if name in form.model}
    check("what the server sent", always, form.model)
    # (Of some plug-ins it is sent from the second round on, and may be smaller than its largest.)
    more = {name: value for name, value in down.items() if name not in form.model}
    expected = {name: value for name, value in form.more.items() if name in more}
    check("what the server sent", more, expected, smaller=True)


def _trained(node: NodeConfig, run: RunHoldings, said: TrainRequest, down: Payload) -> Payload:
    """Train some clients; what they send."""
    fed, ids = run.fed, held(node, said.ids)
    clients = kept(node, run, said.since)
    parts = dict.fromkeys(name.split("/")[0] for name in down)
    received_parts = {part: part_of(down, part) for part in parts}
    joined: dict[str, Joined] = {}
    alone: dict[str, Payload] = {}

    def broadcast(part: tuple[int, ...]) -> dict[str, Payload]:
        mine = {k: v.expand(len(part), *v.shape[1:]) for k, v in received_parts[METHOD].items()}
        return {**received_parts, METHOD: mine}

    def new(part: str, ids: Sequence[int]) -> Tensor:
        return torch.from_numpy(~np.isin(ids, said.known.get(part, ())))

    def take(part: tuple[int, ...], message: received.Message) -> None:
        for name, sent in message.items():
            if len(ids) == 1:
                alone[name] = sent
            else:
                joined.setdefault(name, Joined()).take(sent)

    with devices(fed.config, available(fed.config.engine.devices)) as everywhere:
        local.train(fed, clients, everywhere, ids, said.round_number, broadcast, new, take)
    keep(run, clients, said.round_number, said.since)
    whole = alone | {name: one.payload for name, one in joined.items()}
    return {key: value for part, sent in whole.items() for key, value in named(part, sent).items()}


def _judge(node: NodeConfig, config: Config, said: JudgeRequest, asked: Message) -> Message:
    """The criterion of models on the held-out pairs of some of the clients held here."""
    run = run_holdings(node, config, said, asked)
    models = asked.group(MODELS)
    like = torch.empty(1, run.fed.problem.net.layout.size)
    check("what the server sent", models, dict.fromkeys(models, like))
    with settings(config, cpu_threads(config)):
        each = [models[str(number)] for number in range(len(models))]
        judgement = held_out_losses(run.fed, each, held(node, said.ids), said.shares)
    return Judged(ids=judgement.ids).message(**{VERDICT: _verdict(judgement)})


def _verdict(judgement: Judgement) -> Payload:
    losses = torch.tensor(judgement.losses, dtype=torch.float64)
    verdict = {"losses": losses, "pairs": torch.tensor(judgement.pairs)}
    if judgement.recalls:
        verdict["recalls"] = torch.tensor(judgement.recalls, dtype=torch.float64)
    return verdict


def _pair_moments(node: NodeConfig, config: Config, said: Request, asked: Message) -> Message:
    """Moments of the pairs held here, added up over the clients."""
    fed = run_holdings(node, config, said, asked).fed
    rows = [fed.silos[client].pairs for client in held(node, node.clients)]
    total = federated.add(pair_moments(fed.problem.features, rows))
    return Answered().message(**{MOMENTS: total})


@dataclass(frozen=True)
class _Kind:
    """A kind of request: what is said in it, and what is done."""

    said: type[Request]
    do: Callable[..., Message]


KINDS = {
    "introduce": _Kind(Request, _introduce),
    "moments": _Kind(Request, _moments),
    "train": _Kind(TrainRequest, _train),
    "judge": _Kind(JudgeRequest, _judge),
    "pair_moments": _Kind(Request, _pair_moments),
}

"""A round of a federation as its server sees it, wherever the clients are.

`listen` asks the sampled clients for their round, `conclude` does what the server does with the
answers. Both stand on a `Fleet`: the clients of this process (`fedsyn.federation.local`) or those
on other machines (`fedsyn.deployment`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fedsyn import streams
from fedsyn.config import Config
from fedsyn.core.payload import Payload
from fedsyn.federation import selection
from fedsyn.federation.client import initial_model
from fedsyn.federation.evaluation import Judgement, evaluate
from fedsyn.federation.federation import Federation, sampled, share_of
from fedsyn.federation.state import State
from fedsyn.federation.store import ClientRows
from fedsyn.profiling import phase
from fedsyn.synthesis.fedftg import distil
from fedsyn.synthesis.server import Library, Pool, fine_tune, synthesise
from fedsyn.tasks.retrieval import RetrievalProblem

Row = dict[str, Any]


@dataclass(frozen=True)
class Heard:
    """What the clients of a round have answered."""

    ids: tuple[int, ...]  # who has, ascending
    payload: Payload  # what `Method.hear` made of it
    pairs: Tensor  # [C] long, training pairs that each holds
    sizes: Tensor  # [C] long, pairs that each trained on
    losses: dict[str, Tensor]  # [C] by name
    asked: tuple[int, ...] = ()  # who was to answer, ascending
    models: tuple[Tensor, ...] = ()  # [.., P] each, in client order, where FedFTG looks at them
    bytes_up: int = 0
    bytes_down: int = 0
    judgement: Judgement | None = None  # of the model that the round began with, where asked for
    missing: tuple[Row, ...] = ()  # who was asked and has not answered, and why


class Fleet(Protocol):
    """The clients of a federation."""

    @property
    def late(self) -> bool:
        """Whether asking is dear: a model that need not be judged at once is, in `train`."""

    def train(self, state: State, ids: Sequence[int], judge: bool) -> Heard:
        """Let these clients do the round after ``state.round``.

        What the server's synthesis needs of them is put into ``state.clients``. With ``judge`` the
        panel's clients also judge the model that the round begins with.
        """

    def judge(
        self, models: Sequence[Tensor], ids: Sequence[int], initial: bool = False
    ) -> Judgement:
        """Let these clients judge models, each ``[1, P]`` or one a client, on held-out pairs.

        With ``initial`` the first that is judged is the initial model, which everybody can make.
        """


def begin(fed: Federation, clients: ClientRows) -> State:
    """The state before the first round."""
    run, number = fed.config.run, len(fed.silos)
    model = initial_model(fed.problem.net, run.seed).to(fed.device)
    learnt = selection.begin(number, run.flash.prior) if run.selection == "flash" else {}
    return State(fed.method.init(fed.problem, model, number), clients, selection=learnt)


def listen(fed: Federation, state: State, fleet: Fleet, judge: bool = False) -> Heard:
    """What the clients of the next round answer; they ``judge`` the model before it."""
    ids = _chosen(fed, state, state.round + 1)
    return replace(fleet.train(state, ids, judge), asked=ids)


def _chosen(fed: Federation, state: State, round: int) -> tuple[int, ...]:
    """The clients of a round, ascending."""
    run, clients = fed.config.run, len(fed.silos)
    if run.selection == "random":
        return sampled(clients, run.fraction, run.seed, round)
    stream = streams.generator(run.seed, "selection", round)
    number = share_of(clients, run.fraction)
    return selection.choose(state.selection, number, round, run.flash.exploration, stream)


def conclude(fed: Federation, state: State, fleet: Fleet, heard: Heard) -> Row:
    """Aggregate, synthesise, evaluate.

    Changes ``state``; returns the round's record without its times. Its loss on held-out pairs is
    missing where the fleet is to be asked with the next round, whose clients do not depend on it.
    """
    config, round = fed.config, state.round + 1
    up, down = heard.bytes_up, heard.bytes_down
    with phase("aggregate"):
        generator = streams.generator(config.run.seed, "aggregate", round)
        state.server = fed.method.server(
            fed.problem, state.server, heard.payload, config.method, generator
        )
    server: Row = {}
    judgement: Judgement | None = None
    # (A diverged model embeds nothing; the caller looks for it and says so.)
    if config.synthesis_mode != "off" and bool(state.server["model"].isfinite().all()):
        server, judgement = _server_step(fed, state, fleet, heard, round)
        down, up = down + server.pop("bytes_down"), up + server.pop("bytes_up")
    state.round = round
    row: Row = {"round": round, "clients": list(heard.ids), "bytes_up": up, "bytes_down": down}
    # (Completed pairs are trained on by the method alone.)
    weights = dict.fromkeys(heard.losses, heard.pairs) | {"local": heard.sizes}
    row["losses"] = {name: _mean(value, weights[name]) for name, value in heard.losses.items()}
    if heard.missing:
        row["missing"] = list(heard.missing)
    if server:
        row["server"] = server
    with phase("evaluate"):
        model = state.server["model"]
        can_wait = config.run.selection == "random" and round < config.run.rounds
        now = fed.method.sends_model and not (fleet.late and can_wait)
        if judgement is None and now:
            judgement = fleet.judge([model], fed.panel)
            if config.run.selection == "flash":  # which rests on what they say
                row["bytes_up"] += judgement.bytes_up
                row["bytes_down"] += judgement.bytes_down
        row["losses"]["holdout"] = None if judgement is None else judgement.mean(-1, fed.panel)
        if round % config.run.evaluate_every == 0 or round == config.run.rounds:
            row["metrics"], row["client_metrics"] = evaluate(fed, model)
    if config.run.selection == "flash":
        state.selection = selection.learn(
            state.selection, round, heard.asked, heard.ids, heard.losses["local"], heard.sizes,
            row["losses"]["holdout"],
        )  # fmt: skip
    return row


def _server_step(
    fed: Federation, state: State, fleet: Fleet, heard: Heard, round: int
) -> tuple[Row, Judgement | None]:
    """Fine-tune the aggregated model on synthetic (oracle: real) pairs, if the gate agrees.

    A judgement's last model is the one that stays.
    """
    config, problem = fed.config, fed.problem
    assert isinstance(problem, RetrievalProblem)  # (`Config.synthesis_mode`)
    model = state.server["model"]
    report: Row = {"bytes_up": 0, "bytes_down": 0}
    pool = Pool(0, lambda at: model.new_zeros(0, 0))
    if config.synthesis_mode == "oracle":
        rows = np.concatenate([silo.pairs for silo in fed.silos])
        pool = Pool(len(rows), lambda at: _real(fed, rows[at.numpy()]))
    elif config.synthesis.server == "filter" or config.shares_pairs:
        library = Library(_heard_from(state), state.clients.take)
        pool = synthesise(
            problem.net, model, library, config.synthesis, config.run.seed, round, fed.stack
        )
        report |= {"candidates": pool.candidates, "kept": pool.size}
    if config.shares_pairs:
        state.shared = _shared(config, pool, round)
    with phase("fine-tune"):
        if heard.models:
            tuned, loss = distil(
                problem.net, problem.objective, model, torch.cat(heard.models),
                Library(heard.ids, state.clients.take), config.synthesis, config.run.seed, round,
            )  # fmt: skip
        else:
            generator = streams.generator(config.run.seed, "fine-tune", round)
            tuned, loss = fine_tune(
                problem.net, problem.objective, model, pool, config.synthesis, generator
            )
    report["loss"] = loss
    accepted, judgement = True, None
    if config.synthesis.gate and tuned is not model:
        with phase("gate"):
            accepted, judged, judgement = _gate(fed, fleet, model, tuned, heard.ids)
        report |= judged
    report["accepted"] = accepted
    state.server["model"] = tuned if accepted else model
    return report, judgement


def _gate(
    fed: Federation, fleet: Fleet, model: Tensor, tuned: Tensor, ids: tuple[int, ...]
) -> tuple[bool, Row, Judgement]:
    """Whether the round's clients accept a fine-tuning, without labels, and what they say.

    They compare both models by ``run.criterion`` on their held-out pairs, and refuse one that takes
    back more than the share ``synthesis.tolerance`` of what was gained since the initial model.
    The panel is asked with them, so that the model that stays need not be sent again.
    """
    judgement = fleet.judge([model, tuned], sorted({*ids, *fed.panel}), initial=True)
    first, before, after = (judgement.mean(which, ids) for which in range(3))
    accepted = not after - before > fed.config.synthesis.tolerance * max(first - before, 0.0)
    report = {"holdout_start": first, "holdout_before": before, "holdout_after": after}
    report |= {"bytes_up": judgement.bytes_up, "bytes_down": judgement.bytes_down}
    return accepted, report, judgement.of([0, 2] if accepted else [0, 1])


def _shared(config: Config, pool: Pool, round: int) -> Payload:
    """Some of the pairs kept, for the clients of the next round."""
    if not pool.size:
        return {}
    draw = torch.randperm(pool.size, generator=streams.generator(config.run.seed, "shared", round))
    return {"pairs": pool.take(draw[: config.synthesis.shared])}


def _heard_from(state: State) -> tuple[int, ...]:
    """The clients whose generators have been trained."""
    known = state.clients.known
    if not len(known):
        return ()
    trained = state.clients.take(known.tolist(), ("trained",))["trained"].cpu()
    return tuple(known[trained > 0].tolist())


def _real(fed: Federation, rows: np.ndarray) -> Tensor:
    """Features of these rows."""
    problem, (places,) = fed.near([rows])
    return problem.features[torch.from_numpy(places).to(fed.device)]


def _mean(values: Tensor, weights: Tensor) -> float:
    total = float(weights.sum())
    if total == 0:
        return float("nan")
    return float((values.double().cpu() * weights.double()).sum()) / total

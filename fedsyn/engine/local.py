"""The round loop on one machine: chunks of clients, stacked, one after another or on devices.

Memory is bounded by the chunks: replies are added up as they come, and what clients keep lies where
`fedsyn.engine.clients.ClientRows` puts it.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedsyn import streams
from fedsyn.config import Config
from fedsyn.core.cohort import Cohort, chunks
from fedsyn.core.payload import Payload, nbytes
from fedsyn.engine.client import Reply, Task, initial_model
from fedsyn.engine.clients import ClientRows
from fedsyn.engine.devices import Devices
from fedsyn.engine.evaluation import evaluate, held_out_loss
from fedsyn.engine.federation import Federation, sampled
from fedsyn.engine.state import State
from fedsyn.metrics.timing import phase
from fedsyn.synthesis.fedftg import distil
from fedsyn.synthesis.server import Library, Pool, fine_tune, synthesise

Row = dict[str, Any]


def begin(fed: Federation, clients: ClientRows) -> State:
    """The state before the first round."""
    model = initial_model(fed.problem.net, fed.config.run.seed).to(fed.device)
    return State(fed.method.init(model, len(fed.silos)), clients)


def step(fed: Federation, state: State, devices: Devices) -> Row:
    """One round: train the sampled clients, aggregate, synthesise, evaluate.

    Changes ``state``; returns the round's record without its times.
    """
    config, round = fed.config, state.round + 1
    ids = sampled(len(fed.silos), config.run.fraction, config.run.seed, round)
    cohort = Cohort(ids, tuple(fed.silos[c].pairs for c in ids), config.run.seed, round)
    heard: Payload = {}
    losses: dict[str, list[Tensor]] = {}
    sizes: list[Tensor] = []
    models: list[Tensor] = []  # FedFTG's server looks at each
    up = down = place = 0
    for reply in devices.answers(_tasks(fed, state, cohort, devices)):
        part = ids[place : place + len(reply.sizes)]
        place += len(part)
        up += reply.bytes_up
        sizes.append(reply.sizes)
        if config.synthesis.server == "fedftg" and config.trains_generators:
            models.append(reply.payload["model"].to(fed.device))
        heard = _hear(fed, state, heard, part, reply)
        for name, value in reply.losses.items():
            losses.setdefault(name, []).append(value)
    with phase("aggregate"):
        down += len(ids) * (nbytes(fed.method.down(state.server, ids[:1])) + nbytes(state.shared))
        generator = streams.generator(config.run.seed, "aggregate", round)
        state.server = fed.method.server(state.server, heard, config.method, generator)
    server: Row = {}
    # (A diverged model embeds nothing; the caller looks for it and says so.)
    if config.synthesis_mode != "off" and bool(state.server["model"].isfinite().all()):
        server = _server_step(fed, state, ids, models, round)
        down, up = down + server.pop("bytes_down"), up + server.pop("bytes_up")
    state.round = round
    row: Row = {"round": round, "clients": list(ids), "bytes_up": up, "bytes_down": down}
    # (Completed pairs are trained on by the method alone.)
    weights = {name: torch.tensor(cohort.sizes) for name in losses} | {"local": torch.cat(sizes)}
    row["losses"] = {
        name: _mean(torch.cat(values), weights[name]) for name, values in losses.items()
    }
    if server:
        row["server"] = server
    with phase("evaluate"):
        model = state.server["model"]
        row["losses"]["holdout"] = held_out_loss(fed, model, fed.panel)
        if round % config.run.evaluate_every == 0 or round == config.run.rounds:
            row["metrics"], row["client_metrics"] = evaluate(fed, model)
    return row


def _tasks(fed: Federation, state: State, cohort: Cohort, devices: Devices) -> Iterator[Task]:
    """The chunks of a cohort, each made when it can be worked on."""
    completing = fed.config.synthesis.complete and bool(state.shared)
    for chunk in chunks(cohort, fed.stack, devices.workers):
        silos, count = [fed.silos[client] for client in chunk.ids], len(chunk.ids)
        halves = [*(s.images for s in silos), *(s.texts for s in silos)] if completing else []
        problem, places = fed.near([*chunk.rows, *halves], devices.device)
        with phase("gather"):
            known = state.clients.has(chunk.ids)
            old = [client for client, is_known in zip(chunk.ids, known, strict=True) if is_known]
            kept = state.clients.take(old) if old else {}
            payload = fed.method.down(state.server, chunk.ids)
            shared = {name: value.to(devices.device) for name, value in state.shared.items()}
        here = replace(chunk, rows=places[:count])
        images, texts = places[count : 2 * count], places[2 * count :]
        yield Task(here, problem, payload, known, kept, shared, images, texts)


def _hear(
    fed: Federation, state: State, heard: Payload, ids: tuple[int, ...], reply: Reply
) -> Payload:
    """Take in what some clients sent, and put away what stays with them."""
    if reply.kept:
        with phase("upload"):
            state.clients.put(ids, reply.kept)
    with phase("aggregate"):
        return fed.method.hear(heard, ids, reply.payload, reply.sizes, fed.config.method)


def _server_step(
    fed: Federation, state: State, ids: tuple[int, ...], models: list[Tensor], round: int
) -> Row:
    """Fine-tune the aggregated model on synthetic (oracle: real) pairs, if the gate agrees.

    ``models`` are those that the round's clients sent, for FedFTG alone.
    """
    config, problem = fed.config, fed.problem
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
        if models:
            tuned, loss = distil(
                problem.net, problem.objective, model, torch.cat(models),
                Library(ids, state.clients.take), config.synthesis, config.run.seed, round,
            )  # fmt: skip
        else:
            generator = streams.generator(config.run.seed, "fine-tune", round)
            tuned, loss = fine_tune(
                problem.net, problem.objective, model, pool, config.synthesis, generator
            )
    report["loss"] = loss
    accepted = True
    if config.synthesis.gate and tuned is not model:
        with phase("gate"):
            accepted, judged = _gate(fed, model, tuned, ids)
        report |= judged
    report["accepted"] = accepted
    state.server["model"] = tuned if accepted else model
    return report


def _gate(fed: Federation, model: Tensor, tuned: Tensor, ids: tuple[int, ...]) -> tuple[bool, Row]:
    """Whether the round's clients accept a fine-tuning, without labels, and what they say.

    They compare both models by ``run.criterion`` on their held-out pairs, and refuse one that takes
    back more than the share ``synthesis.tolerance`` of what was gained since the initial model.
    """
    start = initial_model(fed.problem.net, fed.config.run.seed).to(model)[None]
    first, before, after = (held_out_loss(fed, each, ids) for each in (start, model, tuned))
    accepted = not after - before > fed.config.synthesis.tolerance * max(first - before, 0.0)
    # Everybody can make the initial model; the fine-tuned one is sent beside the aggregated one,
    # and three numbers come back.
    report = {"holdout_start": first, "holdout_before": before, "holdout_after": after}
    report["bytes_down"] = len(ids) * nbytes({"model": tuned})
    report["bytes_up"] = len(ids) * 3 * tuned.element_size()
    return accepted, report


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

"""The round loop in one process: cohorts of clients, stacked, in chunks of ``engine.stack``."""

from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fedsyn import streams
from fedsyn.core.cohort import Cohort, chunks
from fedsyn.core.payload import Payload, concatenate, nbytes
from fedsyn.engine.evaluation import evaluate, held_out_loss
from fedsyn.engine.federation import Federation
from fedsyn.engine.state import State
from fedsyn.objectives.local import local_training
from fedsyn.synthesis import generators
from fedsyn.synthesis.server import fine_tune, synthesise

Row = dict[str, Any]


class Watch(Protocol):
    """Times phases: `fedsyn.metrics.timing.Stopwatch`, or one that also reports progress."""

    def __call__(self, phase: str) -> AbstractContextManager[None]:
        """Time the body of a ``with`` statement."""


def begin(fed: Federation) -> State:
    """The state before the first round."""
    return State(fed.method.init(_initial_model(fed), len(fed.silos)))


def _initial_model(fed: Federation) -> Tensor:
    """The model ``[P]`` that everybody starts from, private networks included."""
    model = fed.problem.net.init(streams.generator(fed.config.run.seed, "model"))
    return model.to(fed.problem.features.device)


def step(fed: Federation, state: State, watch: Watch) -> Row:
    """One round: train the sampled clients, aggregate, synthesise, evaluate.

    Changes ``state``; returns the round's record without its times.
    """
    config, round = fed.config, state.round + 1
    ids = sampled(len(fed.silos), config.run.fraction, config.run.seed, round)
    cohort = Cohort(ids, tuple(fed.silos[c].pairs for c in ids), config.run.seed, round)
    sizes = torch.tensor(cohort.sizes)
    replies: list[Payload] = []
    losses: dict[str, list[Tensor]] = {}
    up = down = 0
    for chunk in chunks(cohort, config.engine.stack):
        payload = fed.method.down(state.server, chunk.ids)
        with watch("local"):
            reply, loss = fed.method.client(fed.problem, payload, chunk, config.method)
        losses.setdefault("local", []).append(loss)
        down, up = down + nbytes(payload), up + nbytes(reply)
        replies.append(reply)
        if fed.synthetic:
            with watch("generator"):
                sent, adversarial = _synthesis_client(fed, state, chunk, payload["model"])
            up += nbytes(sent)
            for name, value in adversarial.items():
                losses.setdefault(name, []).append(value)
    with watch("aggregate"):
        state.server = fed.method.server(
            state.server, ids, concatenate(replies), sizes, config.method
        )
    server: Row = {}
    # (A diverged model embeds nothing; the caller looks for it and says so.)
    if config.synthesis_mode != "off" and bool(state.server["model"].isfinite().all()):
        server = _server_step(fed, state, ids, round, watch)
        down, up = down + server.pop("bytes_down"), up + server.pop("bytes_up")
    state.round = round
    row: Row = {"round": round, "clients": list(ids), "bytes_up": up, "bytes_down": down}
    row["losses"] = {
        name: _mean(torch.cat(values), sizes) for name, values in losses.items() if values
    }
    if server:
        row["server"] = server
    with watch("evaluate"):
        model = state.server["model"]
        row["losses"]["holdout"] = held_out_loss(fed, model, range(len(fed.silos)))
        if round % config.run.evaluate_every == 0 or round == config.run.rounds:
            row["metrics"], row["client_metrics"] = evaluate(fed, model)
    return row


def sampled(clients: int, fraction: float, seed: int, round: int) -> tuple[int, ...]:
    """The clients of a round, ascending: a share ``fraction`` of all, at least one."""
    number = max(1, round_half_up(fraction * clients))
    draw = streams.numpy_generator(seed, "sampling", round).permutation(clients)
    return tuple(sorted(draw[:number].tolist()))


def round_half_up(value: float) -> int:
    """Round to the nearest integer, halves up."""
    return int(value + 0.5)


def _synthesis_client(
    fed: Federation, state: State, chunk: Cohort, received: Tensor
) -> tuple[Payload, dict[str, Tensor]]:
    """A chunk's synthesis: state on first use, private training, adversarial training, upload."""
    config, problem = fed.config, fed.problem
    _ensure_client_state(fed, state)
    ids = torch.tensor(chunk.ids)
    mine = {name: value[ids] for name, value in state.clients.items()}
    if fed.private:
        mine["private"], _ = local_training(
            problem.net, problem.objective, mine["private"], problem.features, chunk,
            config.method, "private",
        )  # fmt: skip
    encoder = mine["private"] if fed.private else received
    losses = generators.train(mine, problem.features, chunk, config.synthesis, problem.net, encoder)
    for name, value in mine.items():
        state.clients[name][ids] = value
    return generators.upload(mine), losses


def _ensure_client_state(fed: Federation, state: State) -> None:
    """Every client's synthesis state, before anybody's first round."""
    if state.clients:
        return
    config = fed.config
    everyone = Cohort(
        tuple(range(len(fed.silos))), tuple(s.pairs for s in fed.silos), config.run.seed, 0
    )
    state.clients = concatenate(
        generators.init(fed.problem.features, chunk, config.synthesis)
        for chunk in chunks(everyone, config.engine.stack)
    )
    if fed.private:
        state.clients["private"] = _initial_model(fed).repeat(len(fed.silos), 1)


def _server_step(
    fed: Federation, state: State, ids: tuple[int, ...], round: int, watch: Watch
) -> Row:
    """Fine-tune the aggregated model on synthetic (oracle: real) pairs, if the gate agrees.

    The gate needs no labels: the round's clients compare the aggregated and the fine-tuned model by
    the objective on their held-out pairs, and refuse a fine-tuning that makes it worse by more than
    ``synthesis.tolerance``.
    """
    config, problem = fed.config, fed.problem
    model = state.server["model"]
    report: Row = {"bytes_up": 0, "bytes_down": 0}
    if config.synthesis_mode == "oracle":
        rows = np.concatenate([silo.pairs for silo in fed.silos])
        pairs = problem.features[torch.from_numpy(rows).to(model.device)]
    else:
        with watch("filter"):
            known = tuple(state.clients["trained"].nonzero().squeeze(-1).tolist())
            library = {
                name: value[list(known)] for name, value in generators.upload(state.clients).items()
            }
            synthetic = synthesise(
                problem.net, model, library, known, config.synthesis, config.run.seed, round,
                config.engine.stack,
            )  # fmt: skip
        pairs = synthetic.pairs
        report |= {"candidates": synthetic.candidates, "kept": len(pairs)}
    with watch("finetune"):
        generator = streams.generator(config.run.seed, "fine-tune", round)
        tuned, loss = fine_tune(
            problem.net, problem.objective, model, pairs, config.synthesis, generator
        )
    report["loss"] = loss
    accepted = True
    if config.synthesis.gate and tuned is not model:
        with watch("gate"):
            before, after = (held_out_loss(fed, candidate, ids) for candidate in (model, tuned))
        accepted = not after > (1 + config.synthesis.tolerance) * before
        report |= {"holdout_before": before, "holdout_after": after}
        # The round's clients receive the fine-tuned model beside the aggregated one, and answer.
        report["bytes_down"] += len(ids) * nbytes({"model": tuned})
        report["bytes_up"] += len(ids) * 2 * tuned.element_size()
    report["accepted"] = accepted
    state.server["model"] = tuned if accepted else model
    return report


def _mean(values: Tensor, weights: Tensor) -> float:
    total = float(weights.sum())
    if total == 0:
        return float("nan")
    return float((values.double().cpu() * weights.double()).sum()) / total

"""A complete run: data, rounds, checkpoints, and the files that stay."""

import hashlib
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

import fedsyn
from fedsyn import config as configuration
from fedsyn import ops
from fedsyn.config import Config
from fedsyn.data import federated
from fedsyn.errors import DataError, RunError
from fedsyn.federation import local, records, rounds, state
from fedsyn.federation.devices import available, cpu_threads, devices, settings
from fedsyn.federation.evaluation import outputs
from fedsyn.federation.federation import Federation, federation
from fedsyn.federation.gallery import gallery
from fedsyn.federation.store import ClientRows
from fedsyn.profiling import Stopwatch, phase, stopwatch

logger = logging.getLogger(__name__)


class Observer(Protocol):
    """Who watches a run: the command line's progress display, or nobody."""

    def phase(self, round: int, name: str) -> None:
        """A phase of a round begins."""

    def row(self, row: records.Row) -> None:
        """A round is done."""


class Silent:
    """Watches nothing."""

    def phase(self, round: int, name: str) -> None:
        """Ignore."""

    def row(self, row: records.Row) -> None:
        """Ignore."""


def run(
    config: Config,
    out: Path,
    *,
    resume: bool = False,
    observer: Observer | None = None,
    profile: bool = False,
) -> dict[str, Any]:
    """Train as configured and leave the run directory ``out``.

    Parameters
    ----------
    config : Config
    out : Path
        Made if absent. A run that is resumed continues from its last checkpoint to the same
        ``metrics.jsonl`` that an uninterrupted run writes, apart from times; ``run.rounds`` and
        ``[engine]`` may differ from the first part's.
    resume : bool
    observer : Observer, optional
    profile : bool
        Whether ``torch.profiler`` traces the second round of this call, or the only one, and leaves
        ``trace.json`` (for Perfetto or chrome://tracing). Clients are then computed in one thread.

    Returns
    -------
    dict
        What ``summary.json`` holds.

    Raises
    ------
    FedsynError
        If the data, the configuration or the directory does not allow the run; nothing is written
        then.
    """
    found = available(config.engine.devices)
    with settings(config, cpu_threads(config)):
        return _run(config, out, found, resume, observer or Silent(), profile)


def _run(
    config: Config,
    out: Path,
    found: list[torch.device],
    resume: bool,
    observer: Observer,
    profile: bool,
) -> dict[str, Any]:
    started = time.perf_counter()
    before = resumed(config, out, found[0]) if resume else None
    observer.phase(0, "data")
    data = federated.load(config, _existing(out))
    fed = federation(config, data, found[0], on_host=len(found) > 1)
    _check(fed)
    done = begin(fed, out) if before is None else before
    if before is None:
        records.create(out)
    rows = prepare(fed, out, done, federated.who_has_what(data))
    watch = stopwatch(
        found[0], profiled=profile, entered=lambda name: observer.phase(done.round + 1, name)
    )
    traced = min(done.round + 2, config.run.rounds) if profile else None
    with devices(config, found, inline=profile) as everywhere:
        train(fed, done, rows, local.Here(fed, everywhere), out, watch, observer, traced)
    return finish(fed, done, rows, out, time.perf_counter() - started)


def resumed(config: Config, out: Path, device: torch.device) -> state.State:
    """The state that the run in ``out`` is to go on from."""
    clients = ClientRows(0, out / records.CHECKPOINT.parent, 0, device)
    return state.load(out / records.CHECKPOINT, digest(config), clients, device)


def begin(fed: Federation, out: Path) -> state.State:
    """The state before the first round of a run in ``out``, where nothing is written yet."""
    budget = fed.config.engine.memory << 20
    clients = ClientRows(len(fed.silos), (out / records.CHECKPOINT).parent, budget, fed.device)
    return rounds.begin(fed, clients)


def prepare(
    fed: Federation, out: Path, done: state.State, partition: records.Row
) -> list[records.Row]:
    """The files of a run that begins with, or goes on from, ``done``; the rows so far."""
    config, checkpoint = fed.config, out / records.CHECKPOINT
    rows = records.keep_rows(out, done.round)
    if not (out / records.PARTITION).exists():
        records.write_json(out / records.PARTITION, partition)
        records.write_tensors(out / records.PREPROCESSING, fed.data.preprocessing)
    records.write_text(out / records.CONFIG, configuration.dump(config))
    state.prepare(done, checkpoint, digest(config))
    state.commit(done, checkpoint)
    return rows


def train(
    fed: Federation,
    done: state.State,
    rows: list[records.Row],
    fleet: rounds.Fleet,
    out: Path,
    watch: Stopwatch,
    observer: Observer,
    traced: int | None = None,
    checkpoint_seconds: float | None = None,
) -> None:
    """The rounds that are left, each with its row, the due ones with a checkpoint.

    Changes ``done`` and ``rows``. The round ``traced`` leaves ``trace.json``.
    """
    config, checkpoint = fed.config, out / records.CHECKPOINT
    between = config.engine.checkpoint_seconds if checkpoint_seconds is None else checkpoint_seconds
    saved = time.perf_counter()
    while done.round < config.run.rounds:
        tracing = _trace(out) if done.round + 1 == traced else nullcontext()
        with watch.running(), tracing:
            late = fleet.late and fed.method.sends_model
            unjudged = late and bool(rows) and rows[-1]["losses"]["holdout"] is None
            heard = rounds.listen(fed, done, fleet, judge=unjudged)
            if heard.judgement is not None:
                rows[-1]["losses"]["holdout"] = heard.judgement.mean(-1, fed.panel)
                records.write_rows(out, rows)
                _select(done, rows, config)
            row = rounds.conclude(fed, done, fleet, heard)
            _refuse_diverged(config, done)
            rows.append(row)
            if row["losses"]["holdout"] is not None or not fed.method.sends_model:
                _select(done, rows, config)
            due = time.perf_counter() - saved >= between
            kept = due or done.round == config.run.rounds
            if kept:
                with phase("checkpoint"):
                    state.prepare(done, checkpoint, digest(config))
        row["seconds"] = watch.lap()
        # A checkpoint never counts a round that metrics.jsonl does not have.
        records.append_row(out, row)
        if kept:
            state.commit(done, checkpoint)
            saved = time.perf_counter()
        observer.row(row)


def _select(done: state.State, rows: list[records.Row], config: Config) -> None:
    """Keep the model of the last row, if it is the best so far of those that clients judged."""
    last = rows[-1]
    if "metrics" in last and records.chosen_rounds(rows, config.task.name)["selected"] is last:
        done.selected = {"model": done.server["model"].clone()}


def digest(config: Config) -> str:
    """Identifies everything in the configuration that changes what a round computes."""
    tree = config.model_dump(mode="json")
    del tree["engine"], tree["flower"], tree["run"]["rounds"], tree["data"]["cache"]
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def _refuse_diverged(config: Config, done: state.State) -> None:
    if not done.server["model"].isfinite().all():
        raise RunError(
            f"the model has diverged in round {done.round} (not finite); "
            f"method.lr = {config.method.lr:g} or "
            f"synthesis.server_lr = {config.synthesis.server_lr:g} may be too high"
        )


def _existing(out: Path) -> Path:
    """The folder that ``out`` is, or will be, in."""
    return next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())


@contextmanager
def _trace(out: Path) -> Iterator[None]:
    """Profile the body of a ``with`` statement and write what happened to ``trace.json``."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        yield
    profiler.export_chrome_trace(str(out / records.TRACE))


def _check(fed: Federation) -> None:
    """Refuse a federation in which nobody could learn anything."""
    sizes = [len(fed.rows(client)) for client in range(len(fed.silos))]
    if max(sizes) < 2:
        raise DataError(
            f"no client has two training pairs (the largest has {max(sizes)}); "
            "contrast needs at least two"
        )
    empty = [client for client, size in enumerate(sizes) if size < 2]
    if empty:
        completing = fed.config.shares_pairs and fed.config.synthesis.complete
        until = " until they can complete pairs" if completing else ""
        logger.warning("clients %s have fewer than two pairs and sit out training%s", empty, until)


def finish(
    fed: Federation,
    done: state.State,
    rows: list[records.Row],
    out: Path,
    seconds: float,
) -> dict[str, Any]:
    """The files that a run ends with; what ``summary.json`` holds."""
    config, models = fed.config, done.selected["model"]
    records.write_tensors(out / records.MODEL, named_parameters(fed, models))
    if config.task.name == "retrieval":
        image, text = (u.cpu() for u in outputs(fed, models[0], fed.data.test))
        shown = gallery(fed.data.pairs, fed.data.test, image, text, config.run.seed)
        records.write_json(out / records.GALLERY, shown)
    chosen = records.chosen_rounds(rows, config.task.name)
    summary = {
        "task": config.task.name,
        "method": config.method.name,
        "objective": config.objective.name,
        "synthesis": config.synthesis_mode,
        "data": config.data.path or config.data.name,
        "clients": len(fed.silos),
        "rounds": done.round,
        "seed": config.run.seed,
        "metrics": chosen["selected"]["metrics"],
        **{
            name: {"round": row["round"], "metrics": row["metrics"]} for name, row in chosen.items()
        },
        "seconds": sum(sum(row["seconds"].values()) for row in rows),
        "seconds_total": seconds,
        "bytes_up": fed.data.bytes_up + sum(row["bytes_up"] for row in rows),
        "bytes_down": fed.data.bytes_down + sum(row["bytes_down"] for row in rows),
        "version": fedsyn.__version__,
        "backend": ops.backends()[-1],
    }
    records.write_json(out / records.SUMMARY, summary)
    return records.plain_object(summary)


def named_parameters(fed: Federation, models: Tensor) -> dict[str, Tensor]:
    """Parameters by name; one client's under ``client{k}/`` where every client has its own."""
    views = fed.problem.net.layout.views(models)
    if len(models) == 1:
        return {name: value[0] for name, value in views.items()}
    return {
        f"client{client}/{name}": value[client]
        for client in range(len(models))
        for name, value in views.items()
    }

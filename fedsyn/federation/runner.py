"""A complete run: data, rounds, checkpoints, and the files that stay."""

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

import fedsyn
from fedsyn import ops
from fedsyn.core.judgement import Judgement
from fedsyn.core.payload import Payload
from fedsyn.data import federated
from fedsyn.data.pairs import Pairs
from fedsyn.data.reading import pairs_of
from fedsyn.errors import DataError, RunError
from fedsyn.federation import checkpoint, records, rounds
from fedsyn.federation.checkpoint import State
from fedsyn.federation.config import Config, data_settings, dump, with_plugins
from fedsyn.federation.devices import available, cpu_threads, devices, settings
from fedsyn.federation.evaluation import outputs
from fedsyn.federation.federation import Federation, federation
from fedsyn.federation.fleet import Fleet
from fedsyn.federation.gallery import gallery
from fedsyn.federation.local import LocalFleet
from fedsyn.federation.store import ClientStore
from fedsyn.profiling import Stopwatch, phase, stopwatch
from fedsyn.tasks.retrieval import RetrievalProblem

logger = logging.getLogger(__name__)


class Observer(Protocol):
    """Who watches a run: the command line's progress display, or nobody."""

    def phase(self, round_number: int, name: str) -> None:
        """A phase of a round begins."""

    def row(self, row: records.Row) -> None:
        """A round is done; this is its record."""


class Silent:
    """An observer that shows nothing."""

    def phase(self, round_number: int, name: str) -> None:
        """Ignore that a phase begins."""

    def row(self, row: records.Row) -> None:
        """Ignore that a round is done."""


def run(
    config: Config,
    out: Path | str,
    *,
    resume: bool = False,
    observer: Observer | None = None,
    profile: bool = False,
    data: Pairs | Mapping[str, Any] | None = None,
    **plugins: Any,
) -> dict[str, Any]:
    """Train as configured and leave the run directory ``out``.

    Parameters
    ----------
    config : Config
    out : Path or str
        Made if absent. A run that is resumed continues from its last checkpoint to the same
        ``metrics.jsonl`` that an uninterrupted run writes, apart from times; ``run.rounds`` and
        ``[engine]`` may differ from the first part's. (With more rounds, what was the last one
        keeps the ``bytes_down`` of sending its model to be judged, which it really had.)
    resume : bool
    observer : Observer, optional
    profile : bool
        Whether ``torch.profiler`` traces the second round of this call, or the only one, and leaves
        ``trace.json`` (for Perfetto or chrome://tracing). Clients are then computed in one thread.
    data : Pairs or mapping of str to array, optional
        Pairs in memory, in the place of those that ``[data]`` names: arrays by the names that
        ``[data]`` gives them. A run on such pairs is resumed with the same pairs.
    **plugins
        Plug-ins as objects, by family: ``method=...``, ``objective=...``, ``extensions=(...)``.

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
    config, out = with_plugins(config, **plugins), Path(out)
    pairs = None if data is None else pairs_of(data, config.data)
    found = available(config.engine.devices)
    with settings(config, cpu_threads(config)):
        return _run(config, out, found, resume, observer or Silent(), profile, pairs)


def _run(
    config: Config,
    out: Path,
    found: list[torch.device],
    resume: bool,
    observer: Observer,
    profile: bool,
    pairs: Pairs | None,
) -> dict[str, Any]:
    started = time.perf_counter()
    if resume:
        check_resumable(config, out)  # before the data are read
    observer.phase(0, "data")
    data = federated.load(data_settings(config), _existing(out), pairs)
    fed = federation(config, data, found[0], on_host=len(found) > 1)
    _check(fed)
    folder = (out / records.CHECKPOINT).parent
    clients = ClientStore(
        len(fed.silos), folder / records.CLIENTS, config.engine.memory << 20, fed.device
    )
    done, kept = resumed(fed, out) if resume else (begin(fed, out), {})
    if resume:
        clients.restore(kept)
    else:
        records.create(out)
    watch = stopwatch(
        found[0],
        profiled=profile,
        entered=lambda name: observer.phase(done.round_number + 1, name),
    )
    traced = min(max(done.round_number, 0) + 2, config.rounds) if profile else None
    with devices(config, found, inline=profile) as everywhere:
        fleet = LocalFleet(fed, everywhere, clients, out)
        rows = prepare(fed, out, done, fleet, federated.who_has_what(data))
        train(fed, done, rows, fleet, out, watch, observer, traced)
    return finish(fed, done, rows, out, time.perf_counter() - started)


def check_resumable(config: Config, out: Path) -> int:
    """The last round that the run in ``out`` has done; raises `RunError` if it cannot go on."""
    return checkpoint.check(out / records.CHECKPOINT, digest(config))


def resumed(fed: Federation, out: Path) -> tuple[State, Payload]:
    """The state that the run in ``out`` is to go on from, and what its fleet has kept."""
    path = out / records.CHECKPOINT
    received = rounds.memory(fed, path.parent)
    return checkpoint.load(path, digest(fed.config), received, fed.device)


def begin(fed: Federation, out: Path) -> State:
    """The state before the first round of a run in ``out``, where nothing is written yet."""
    return rounds.begin(fed, rounds.memory(fed, (out / records.CHECKPOINT).parent))


def prepare(
    fed: Federation, out: Path, done: State, fleet: Fleet, partition: records.Row
) -> list[records.Row]:
    """The files of a run that begins with, or goes on from, ``done``; the rows so far."""
    rows = records.keep_rows(out, done.round_number + 1)
    if not (out / records.PARTITION).exists():
        records.write_json(out / records.PARTITION, partition)
        records.write_tensors(out / records.PREPROCESSING, fed.data.preprocessing)
    records.write_text(out / records.CONFIG, dump(fed.config))
    _save(fed, out, done, fleet)
    _commit(out, done, fleet)
    return rows


def _save(fed: Federation, out: Path, done: State, fleet: Fleet) -> None:
    groups = {**done.groups(), "fleet": fleet.tensors()}
    checkpoint.save(out / records.CHECKPOINT, digest(fed.config), done.round_number, groups)


def _commit(out: Path, done: State, fleet: Fleet) -> None:
    checkpoint.commit(out / records.CHECKPOINT)
    done.saved()
    fleet.saved()


def train(
    fed: Federation,
    done: State,
    rows: list[records.Row],
    fleet: Fleet,
    out: Path,
    watch: Stopwatch,
    observer: Observer,
    traced: int | None = None,
    checkpoint_seconds: float | None = None,
) -> None:
    """The start and the rounds that are left, each with its row, the due ones with a checkpoint.

    Changes ``done`` and ``rows``. The round ``traced`` leaves ``trace.json``.
    """
    config, judged = fed.config, fed.plan.method.broadcasts_model
    between = config.engine.checkpoint_seconds if checkpoint_seconds is None else checkpoint_seconds
    saved = time.perf_counter()
    while done.round_number < config.rounds:
        tracing = _trace(out) if done.round_number + 1 == traced else nullcontext()
        with watch.running(), tracing:
            if done.round_number < 0:
                row = rounds.start(fed, done, fleet)
            else:
                late = fleet.late and judged
                unjudged = late and bool(rows) and rows[-1]["losses"]["holdout"] is None
                answers = rounds.listen(fed, done, fleet, judge=unjudged)
                if answers.judgement is not None:
                    _judged(fed, rows[-1], answers.judgement)
                    records.write_rows(out, rows)
                    _select(fed, done, rows)
                row = rounds.conclude(fed, done, fleet, answers)
            _refuse_diverged(config, done)
            rows.append(row)
            if row["losses"]["holdout"] is not None or not judged:
                _select(fed, done, rows)
            due = time.perf_counter() - saved >= between
            kept = due or done.round_number == config.rounds
            if kept:
                with phase("checkpoint"):
                    _save(fed, out, done, fleet)
        row["seconds"] = watch.lap()
        # A checkpoint never counts a round that metrics.jsonl does not have.
        records.append_row(out, row)
        if kept:
            _commit(out, done, fleet)
            saved = time.perf_counter()
        observer.row(row)


def _judged(fed: Federation, row: records.Row, judgement: Judgement) -> None:
    """Enter into a round's row what clients think of its model, and what it has cost to ask."""
    rounds.enter(fed, row, judgement)
    row["bytes_up"] += judgement.bytes_up
    row["bytes_down"] += judgement.bytes_down


def _select(fed: Federation, done: State, rows: list[records.Row]) -> None:
    """Keep the model of the last row, if it is the best so far of those that clients judged."""
    last, table = rows[-1], fed.config.plugins.task.metrics
    if "metrics" in last and records.chosen_rounds(rows, table)["selected"] is last:
        done.selected = {"model": done.server["model"].clone()}


def digest(config: Config) -> str:
    """Identifies everything in the configuration that changes what a round computes."""
    tree = config.model_dump(mode="json")
    del tree["engine"], tree["flower"], tree["data"]["cache"]
    del tree["run"]["rounds"], tree["run"]["record_uploads"]
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def _refuse_diverged(config: Config, done: State) -> None:
    if not done.server["model"].isfinite().all():
        raise RunError(
            f"the model has diverged in round {done.round_number} (not finite); "
            f"method.lr = {config.method.lr:g}, or the rate of what changes the model after it, "
            "may be too high"
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
        completing = any(one.completes(own) for one, own in fed.plan.extensions)
        until = " until they can complete pairs" if completing else ""
        logger.warning("clients %s have fewer than two pairs and sit out training%s", empty, until)


def finish(
    fed: Federation,
    done: State,
    rows: list[records.Row],
    out: Path,
    seconds: float,
) -> dict[str, Any]:
    """The files that a run ends with; what ``summary.json`` holds."""
    config, models = fed.config, done.selected["model"]
    plugins = config.plugins
    records.write_tensors(out / records.MODEL, named_parameters(fed, models))
    if isinstance(fed.problem, RetrievalProblem):
        image, text = (u.cpu() for u in outputs(fed, models[0], fed.data.test))
        shown = gallery(fed.data.pairs, fed.data.test, image, text, config.run.seed)
        records.write_json(out / records.GALLERY, shown)
    chosen = records.chosen_rounds(rows, plugins.task.metrics)
    summary = {
        "task": plugins.task.name,
        "method": plugins.method.name,
        "objective": plugins.objective.name,
        "synthesis": config.synthesis_mode,
        "data": config.data.path or config.data.name,
        "clients": len(fed.silos),
        "rounds": done.round_number,
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

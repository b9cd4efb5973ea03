"""A complete run: data, rounds, checkpoints, and the files that stay."""

import hashlib
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

import fedsyn
from fedsyn import config as configuration
from fedsyn import ops
from fedsyn.config import Config
from fedsyn.data import federated
from fedsyn.engine import local, records, state
from fedsyn.engine.federation import Federation, federation
from fedsyn.engine.gallery import gallery
from fedsyn.errors import ConfigError, DataError, RunError
from fedsyn.metrics.timing import Stopwatch

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
    observer = observer or Silent()
    device = _device(config)
    if config.engine.threads:
        torch.set_num_threads(config.engine.threads)
    started = time.perf_counter()
    done = state.load(out / records.CHECKPOINT, digest(config)) if resume else None
    observer.phase(0, "data")
    data = federated.load(config)
    fed = federation(config, data, device)
    _check(fed)
    if done is None:
        records.create(out)
        records.write_text(out / records.METRICS, "")
        done, rows = local.begin(fed), []
    else:
        rows = records.keep_rows(out, done.round)
        done.to(device)
    if not resume or not (out / records.PARTITION).exists():
        records.write_json(out / records.PARTITION, federated.who_has_what(data))
        records.write_tensors(out / records.PREPROCESSING, data.preprocessing)
    records.write_text(out / records.CONFIG, configuration.dump(config))
    state.save(done, out / records.CHECKPOINT, digest(config))
    watch = _Watch(observer)
    while done.round < config.run.rounds:
        watch.round = done.round + 1
        row = local.step(fed, done, watch)
        if not done.server["model"].isfinite().all():
            raise RunError(
                f"the model has diverged in round {done.round} (not finite); "
                f"method.lr = {config.method.lr:g} or "
                f"synthesis.server_lr = {config.synthesis.server_lr:g} may be too high"
            )
        row["seconds"] = watch.stopwatch.lap()
        rows.append(row)
        if "metrics" in row and records.chosen_rounds(rows)["selected"] is row:
            done.selected = {"model": done.server["model"].clone()}
        records.append_row(out, row)
        state.save(done, out / records.CHECKPOINT, digest(config))
        observer.row(row)
    return _finish(fed, done, rows, out, time.perf_counter() - started)


def digest(config: Config) -> str:
    """Identifies everything in the configuration that changes what a round computes."""
    tree = config.model_dump(mode="json")
    del tree["engine"], tree["run"]["rounds"], tree["data"]["cache"]
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


class _Watch:
    """Times phases and tells the observer when they begin."""

    def __init__(self, observer: Observer) -> None:
        self.observer, self.stopwatch, self.round = observer, Stopwatch(), 0

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        self.observer.phase(self.round, phase)
        with self.stopwatch(phase):
            yield


def _device(config: Config) -> torch.device:
    if len(config.engine.devices) != 1:
        raise ConfigError(
            f"engine.devices = {list(config.engine.devices)} is not valid: expected one device"
        )
    name = config.engine.devices[0]
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ConfigError(
            f"engine.devices = {[name]} is not valid: there is no such device here"
        ) from None
    return device


def _check(fed: Federation) -> None:
    """Refuse a federation in which nobody could learn anything."""
    sizes = [len(silo.pairs) for silo in fed.silos]
    if max(sizes) < 2:
        raise DataError(
            f"no client has two training pairs (the largest has {max(sizes)}); "
            "contrast needs at least two"
        )
    empty = [client for client, size in enumerate(sizes) if size < 2]
    if empty:
        logger.warning("clients %s have fewer than two pairs and sit out training", empty)


def _finish(
    fed: Federation,
    done: state.State,
    rows: list[records.Row],
    out: Path,
    seconds: float,
) -> dict[str, Any]:
    config, models = fed.config, done.selected["model"]
    records.write_tensors(out / records.MODEL, named_parameters(fed, models))
    with torch.no_grad():
        named = fed.problem.net.layout.views(models[:1])
        image, text = (u[0].cpu() for u in fed.problem.net.embed(named, fed.problem.features[None]))
    test = torch.from_numpy(fed.data.test)
    records.write_json(
        out / records.GALLERY,
        gallery(fed.data.pairs, fed.data.test, image[test], text[test], config.run.seed),
    )
    chosen = records.chosen_rounds(rows)
    summary = {
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

"""Runs that were handed to a SuperLink: how they are submitted and followed."""

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tomli_w

from fedsyn.deployment.cluster.executables import flwr
from fedsyn.deployment.flower.project import PATHS, Project, with_absolute_paths
from fedsyn.errors import ConfigError, FedsynError, RunError
from fedsyn.federation import config as configuration
from fedsyn.federation import records
from fedsyn.federation.config import Config
from fedsyn.federation.runner import Observer

SILENCE = 10.0  # seconds without news after which the SuperLink is asked about a run


@dataclass(frozen=True)
class Submitted:
    """A run, by the id that the SuperLink gave it and its directory."""

    id: str
    out: Path


@dataclass(frozen=True)
class Progress:
    """How far a run is: what its server app says, unless the SuperLink knows better."""

    state: str  # "submitted", "waiting", "running", "done", "failed" or "interrupted"
    round: int = 0
    rounds: int = 0
    nodes: list[dict[str, Any]] = field(default_factory=list)
    missing: list[dict[str, Any]] = field(default_factory=list)  # replies: round, node, why
    error: str | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.state in ("done", "failed", "interrupted")


def load(project: Project, overrides: Sequence[str], resumed: Path | None) -> Config:
    """The configuration of a run, or of a part of it that is resumed.

    Raises
    ------
    ConfigError
        If it is not valid, or an override names a file by a path that another process would
        look for elsewhere.
    """
    config = configuration.load(_config(project, resumed), overrides)
    if with_absolute_paths(config) != config:
        names = ", ".join(f"{section}.{key}" for section, key in PATHS)
        raise ConfigError(f"a run on Flower needs absolute paths: {names}")
    return config


def submit(project: Project, overrides: Sequence[str], out: Path, resume: bool) -> Submitted:
    """Hand a run to the project's SuperLink.

    Raises
    ------
    RunError
        If the directory ``out`` is not empty and nothing is resumed, or the SuperLink does not take
        the run.
    """
    out = out.absolute()
    if resume:
        # What it said when it ended is not to be taken for news.
        (out / records.STATUS).unlink(missing_ok=True)
    else:
        records.create(out)
    settings = {
        "config": str(_config(project, out if resume else None)),
        "overrides": json.dumps(list(overrides)),
        "out": str(out),
        "resume": resume,
    }
    file = project.home / "run.toml"
    records.write_text(file, tomli_w.dumps(settings))
    try:
        answer = flwr(project, "run", str(project.app), "--run-config", str(file))
    except FedsynError:
        with suppress(OSError):
            out.rmdir()  # made above, and still empty
        raise
    run = Submitted(answer["run-id"], out)
    records.write_json(_record(project), {"id": run.id, "out": str(run.out)})
    return run


def last(project: Project) -> Submitted | None:
    """The run that was submitted last."""
    path = _record(project)
    if not path.exists():
        return None
    tree = json.loads(path.read_text(encoding="utf-8"))
    return Submitted(tree["id"], Path(tree["out"]))


def progress(run: Submitted) -> Progress:
    """What the run's server app says of it."""
    path = run.out / records.STATUS
    if not path.exists():
        return Progress("submitted")
    try:
        return Progress(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{str(path)!r} cannot be read: {error}") from None


def confirmed(project: Project, run: Submitted) -> Progress:
    """The same, after a look at whether the SuperLink still runs it.

    A server app that was killed, or that could not be started, has not said so itself.
    """
    said = progress(run)
    if said.ended:
        return said
    try:
        listed = flwr(project, "list", "--run-id", run.id)["runs"]
    except RunError as error:
        return replace(said, state="interrupted", error=str(error))
    status, details = listed[0]["status"], listed[0]["status-details"]
    said = progress(run)  # it may have ended since
    if said.ended or not status.startswith("finished"):
        return said
    return replace(said, state="failed", error=f"{status}: {details}")


def follow(project: Project, run: Submitted, observer: Observer) -> Progress:
    """Watch a run until it has ended, or its SuperLink no longer answers."""
    said, heard = Progress("submitted"), time.monotonic()
    while not said.ended:
        before, said = said, progress(run)
        if said != before:
            heard = time.monotonic()
            observer.phase(said.round, said.state)
            if row := _last_row(run):
                observer.row(row)
        elif time.monotonic() - heard > SILENCE:
            said, heard = confirmed(project, run), time.monotonic()
        time.sleep(0.2)
    return said


def _last_row(run: Submitted) -> records.Row | None:
    """The last complete line of ``metrics.jsonl``."""
    path = run.out / records.METRICS
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    return json.loads(lines[-1]) if lines else None


def _config(project: Project, resumed: Path | None) -> Path:
    return project.config if resumed is None else resumed.absolute() / records.CONFIG


def _record(project: Project) -> Path:
    return project.path / "state" / "run.json"

"""What is known of the processes of a cluster: ``processes.json``, and the locks beside it."""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from fedsyn.deployment.flower.project import PORT, Project
from fedsyn.errors import RunError
from fedsyn.federation import records

HOST = "127.0.0.1"
FILE = "processes.json"


@dataclass(frozen=True)
class Process:
    """One that was started: a line of ``processes.json``."""

    name: str
    pid: int
    log: str
    log_start: int  # byte of the log at which it was started
    command: list[str]


@dataclass(frozen=True)
class Cluster:
    """The content of ``processes.json``."""

    port: int
    insecure: bool
    processes: dict[str, Process]

    @property
    def address(self) -> str:
        """Where the SuperLink answers."""
        return f"{HOST}:{self.port}"


def read(project: Project) -> Cluster:
    """What ``processes.json`` says; nothing runs where there is none."""
    path = project.path / FILE
    if not path.exists():
        return Cluster(PORT, False, {})
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        processes = {name: Process(**entry) for name, entry in tree["processes"].items()}
        return Cluster(tree["port"], tree["insecure"], processes)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(f"{str(path)!r} cannot be read: {error}") from None


def write(project: Project, cluster: Cluster) -> None:
    """Write the file anew, as the cluster now is."""
    records.write_json(project.path / FILE, asdict(cluster))


def lock_of(project: Project, name: str) -> Path:
    """The file that a process of this name holds locked."""
    return project.state(name) / "lock"


@contextmanager
def alone(project: Project) -> Iterator[None]:
    """Let no other `up` or `down` of this project run at the same time."""
    with (project.path / "state" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

"""One process of a cluster: started detached, watched, stopped.

The standard input of every process started here is a file that is locked (``flock``). Children
inherit both, so the lock lasts as long as anything that the process has started, and a process id
that has been given to somebody else is not taken for ours.
"""

import fcntl
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO

from fedsyn.deployment.cluster.executables import environment
from fedsyn.deployment.cluster.logs import tail
from fedsyn.deployment.cluster.state import HOST, Process, lock_of, read, write
from fedsyn.deployment.flower.project import Project
from fedsyn.errors import RunError

SUPERLINK = "superlink"
PATIENCE = 120.0  # seconds for a process to start, on a machine that is busy
GRACE = 20.0  # seconds for one to stop, before it is killed
TAIL = 12  # lines of a log in an error


def start(project: Project, name: str, command: list[str], port: int) -> Process:
    """Start a process, detached, and enter it into ``processes.json``.

    Children that outlived its last start, because it was killed, are stopped first: they would go
    on with what nobody waits for.

    Raises
    ------
    RunError
        If its port is taken, or such children cannot be stopped.
    """
    state, log = project.state(name), project.log(name)
    state.mkdir(mode=0o700, exist_ok=True)
    home = project.home if name == SUPERLINK else state / "flower"
    last = read(project).processes.get(name)
    if last and held(lock_of(project, name)):
        stop(project, [last])
    with lock_of(project, name).open("w+") as lock, log.open("ab") as output:
        if not _take(lock):
            raise RunError(f"{str(lock.name)!r} is held: {name} is being started elsewhere")
        _refuse_taken(port)
        started = subprocess.Popen(
            command, cwd=project.path, env=environment(home), stdin=lock,
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
        process = Process(name, started.pid, str(log), output.tell(), command)
    cluster = read(project)
    write(project, replace(cluster, processes=cluster.processes | {name: process}))
    return process


def alive(project: Project, process: Process) -> bool:
    """Whether this very process runs."""
    _reap(process)
    lock = lock_of(project, process.name)
    if not held(lock):
        return False
    with suppress(OSError):
        if _stdin(os.getpid()).exists():
            return _stdin(process.pid).samefile(lock)
        os.kill(process.pid, 0)  # children may hold the lock, but its id is not given away so soon
        return True
    return False


def held(lock: Path) -> bool:
    """Whether anybody holds a lock."""
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def stop(project: Project, processes: list[Process]) -> None:
    """Ask them to end, kill what does not, and return when all of it is gone."""
    locks = [lock_of(project, process.name) for process in processes]

    def gone() -> bool:
        for process in processes:
            _reap(process)
        return not any(map(held, locks))

    for process in processes:
        if alive(project, process):
            os.killpg(process.pid, signal.SIGTERM)
    with suppress(RunError):
        until(gone, GRACE, "")
    for pid in [pid for lock in locks for pid in _holders(lock)]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    names = ", ".join(f"{process.name} (process {process.pid})" for process in processes)
    until(gone, GRACE, f"not all that these have started could be stopped: {names}")


def wait(
    project: Project, process: Process, ready: Callable[[Process], object], otherwise: str
) -> None:
    """Wait until a process is ready; raises `RunError` with the end of its log if it is not."""

    def failure(what: str) -> str:
        return f"{process.name} {what}; {process.log} ends:\n{tail(process, TAIL)}"

    deadline = time.monotonic() + PATIENCE
    while not ready(process):
        if not alive(project, process):
            raise RunError(failure("has ended"))
        if time.monotonic() > deadline:
            raise RunError(failure(f"{otherwise} after {PATIENCE:g} s"))
        time.sleep(0.1)


def until(
    condition: Callable[[], bool], seconds: float, otherwise: str, pause: float = 0.1
) -> None:
    """Wait until a condition holds; raises `RunError` with a sentence if it takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RunError(otherwise)
        time.sleep(pause)


def _reap(process: Process) -> None:
    """Let a child of this very process that has ended be gone."""
    with suppress(ChildProcessError):
        os.waitpid(process.pid, os.WNOHANG)


def _holders(lock: Path) -> Iterator[int]:
    """Processes whose standard input is this file, as far as the system tells."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if _stdin(int(entry.name)).samefile(lock):
                yield int(entry.name)


def _stdin(pid: int) -> Path:
    return Path(f"/proc/{pid}/fd/0")


def _take(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise RunError(f"port {port} is not free ({error.strerror}); try --port") from None

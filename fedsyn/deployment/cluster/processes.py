"""The SuperLink and SuperNodes of one machine: started detached, watched, stopped.

The standard input of every process started here is a file that is locked (``flock``). Children
inherit both, so the lock lasts as long as anything that the process has started, and a process id
that has been given to somebody else is not taken for ours.
"""

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from fedsyn.deployment.flower.project import PORT, SWITCHED_OFF, Project, write_connection
from fedsyn.errors import ConfigError, RunError
from fedsyn.federation import records

HOST = "127.0.0.1"
SUPERLINK, ELSEWHERE = "superlink", "elsewhere"
PATIENCE = 120.0  # seconds for a process to start, on a machine that is busy
GRACE = 20.0  # seconds for one to stop, before it is killed
TAIL = 12  # lines of a log in an error
# What flwr says where no SuperLink is, or has ever been.
NOBODY = ("Connection to the SuperLink is unavailable", "Failed to read certificate file")
NODE_ID = re.compile(r"SuperNode ID: (\d+)")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Process:
    """One that was started: a line of ``processes.json``."""

    name: str
    pid: int
    log: str
    log_start: int  # byte of the log at which it was started
    command: list[str]


@dataclass(frozen=True)
class Federation:
    """The content of ``processes.json``."""

    port: int
    insecure: bool
    processes: dict[str, Process]

    @property
    def address(self) -> str:
        """Where the SuperLink answers."""
        return f"{HOST}:{self.port}"


@dataclass(frozen=True)
class Seen:
    """How a process is, or a node that was not started here."""

    name: str
    pid: int | None
    alive: bool | None
    node: str | None  # the id that Flower gave a node
    online: bool | None  # whether the SuperLink hears of the node; None: nobody can say
    why: str | None  # it is not alive or not online


# ---- Flower's executables ------------------------------------------------------------------


def executable(name: str) -> str:
    """The path of one of Flower's commands; raises `ConfigError` if Flower is not installed."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise ConfigError("fedsyn flower needs Flower: pip install 'fedsyn[flower]'")
    return found


def environment(home: Path) -> dict[str, str]:
    """The environment of what is started here.

    Flower's commands call each other by name. Proxies are left out: all of it is on the loopback.
    """
    inherited = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    path = f"{Path(executable('flwr')).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return inherited | SWITCHED_OFF | {"FLWR_HOME": str(home), "PATH": path}


def flwr(project: Project, *arguments: str) -> dict[str, Any]:
    """What ``flwr`` answers; raises `RunError` with its message if it fails."""
    done = subprocess.run(
        [executable("flwr"), *arguments, "--format", "json"],
        env=environment(project.home), stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except json.JSONDecodeError:
        answer = {"success": False, "error-message": done.stderr or done.stdout}
    if not answer["success"]:
        message = answer["error-message"].strip().split("\n\n")[-1]
        if message.startswith(NOBODY):
            message = f"no SuperLink answers; start it: fedsyn flower up {project.path}"
        raise RunError(f"flwr {arguments[0]}: {message}")
    return answer


# ---- Up, down, status ----------------------------------------------------------------------


def up(
    project: Project,
    nodes: int | None = None,
    insecure: bool = False,
    port: int | None = None,
    progress: Callable[[str], None] = lambda waiting_for: None,
) -> None:
    """Start the SuperLink and SuperNodes that do not run, and return when all are online.

    Parameters
    ----------
    project : Project
    nodes : int, optional
        How many of the configured nodes; all by default.
    insecure : bool
        Without encryption and without authentication of nodes.
    port : int, optional
        Of the SuperLink; the nodes take those after it. By default that of the last time.
    progress : callable, optional
        Is told what is being waited for.

    Raises
    ------
    ConfigError
        If there are not so many nodes, or what runs already runs otherwise.
    RunError
        If a process ends, or does not come online in time: with the last lines of its log.
    """
    names = project.nodes[:nodes]
    if nodes is not None and nodes > len(names):
        raise ConfigError(f"--nodes {nodes}: {str(project.path)!r} has {len(names)} in nodes/")
    with _alone(project):
        before = read(project)
        port = port or before.port
        running = {name for name, p in before.processes.items() if alive(project, p)}
        if running and (port, insecure) != (before.port, before.insecure):
            how = "without TLS" if before.insecure else "with TLS"
            raise ConfigError(
                f"{', '.join(sorted(running))} run {how} on port {before.port}; "
                "stop them first: fedsyn flower down"
            )
        federation = Federation(port, insecure, before.processes)
        _write(project, federation)
        write_connection(project, port, insecure)
        if not insecure:
            _make_missing(project, names)
        if SUPERLINK not in running:
            progress(SUPERLINK)
            superlink = start(project, SUPERLINK, _superlink_command(project, federation), port)
            _wait(project, superlink, lambda _: _answers(project, federation), "does not answer")
        for number, name in enumerate(names, start=1):
            if name not in running:
                if not insecure:
                    if last := before.processes.get(name):
                        progress(f"the SuperLink to miss {name}")
                        _wait_until_missed(project, last)
                    _register(project, name)
                command = node_command(project, federation, name, port + number)
                start(project, name, command, port + number)
        for name in names:
            progress(name)
            _wait(project, read(project).processes[name], _node_id, "is not online")


def _wait_until_missed(project: Project, node: Process) -> None:
    """Wait until the SuperLink has noticed that a node is gone: it lets nobody in twice.

    It takes a minute (two missed heartbeats) where the node could not say goodbye.
    """
    known = _node_id(node) or ""
    otherwise = f"the SuperLink still takes {node.name} for online"
    _until(lambda: _nodes(project).get(known) != "online", PATIENCE, otherwise, pause=2.0)


def _superlink_command(project: Project, federation: Federation) -> list[str]:
    folder = project.certificates
    command = [
        executable("flower-superlink"), "--host", HOST, "--port", str(federation.port),
        "--database", str(project.home / "superlink.db"),
        "--disable-runtime-dependency-installation",
    ]  # fmt: skip
    if federation.insecure:
        return [*command, "--insecure"]
    return [
        *command, "--enable-supernode-auth", "--ssl-ca-certfile", str(folder / "ca.crt"),
        "--ssl-certfile", str(folder / "server.crt"), "--ssl-keyfile", str(folder / "server.key"),
    ]  # fmt: skip


def node_command(project: Project, federation: Federation, name: str, port: int) -> list[str]:
    """How a node is started; ``port`` is of its own interface to its apps."""
    command = [
        executable("flower-supernode"), "--superlink", federation.address, "--port", str(port),
        "--node-config", f"config='{project.node(name)}'",
    ]  # fmt: skip
    if federation.insecure:
        return [*command, "--insecure"]
    return [
        *command, "--root-certificates", str(project.certificates / "ca.crt"),
        "--auth-supernode-private-key", str(project.key(name)),
    ]  # fmt: skip


def down(project: Project) -> list[str]:
    """Stop everything that `up` has started and return the names of what was running.

    Raises
    ------
    RunError
        If something is still there, after it was asked and then killed.
    """
    with _alone(project):
        federation = read(project)
        there = [p for p in federation.processes.values() if held(_lock(project, p.name))]
        # Nodes first, while there is a SuperLink to say goodbye to.
        _stop(project, [process for process in there if process.name != SUPERLINK])
        _stop(project, [process for process in there if process.name == SUPERLINK])
        _write(project, Federation(federation.port, federation.insecure, {}))
    return [process.name for process in there]


def status(project: Project) -> list[Seen]:
    """How the processes are, and which nodes the SuperLink hears of, wherever they run."""
    nodes: dict[str, str] | None = None
    with suppress(RunError):  # no SuperLink answers
        nodes = _nodes(project)
    seen = [_seen(project, process, nodes) for process in read(project).processes.values()]
    own = {one.node for one in seen}
    others = {node: how for node, how in (nodes or {}).items() if node not in own}
    return seen + [
        Seen(ELSEWHERE, None, None, node, how == "online", None if how == "online" else how)
        for node, how in others.items()
    ]


def _seen(project: Project, process: Process, nodes: dict[str, str] | None) -> Seen:
    living, node = alive(project, process), _node_id(process)
    there = None
    if process.name != SUPERLINK and nodes is not None:
        there = living and nodes.get(node or "") == "online"
    why = None
    if not living:
        why = _entry(process, "ERROR", "Exit Code") or f"its log ends: {_tail(process, 1)}"
    elif there is False:
        why = _entry(process, "ERROR|WARNING") or "it has not called yet"
    return Seen(process.name, process.pid, living, node, there, why)


def _nodes(project: Project) -> dict[str, str]:
    """Whether each admitted node is ``registered`` (never seen), ``online`` or ``offline``."""
    listed = flwr(project, "supernode", "list")["nodes"]
    return {n["node-id"]: n["status"] for n in listed if n["status"] != "unregistered"}


# ---- One process ---------------------------------------------------------------------------


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
    if last and held(_lock(project, name)):
        _stop(project, [last])
    with _lock(project, name).open("w+") as lock, log.open("ab") as output:
        if not _take(lock):
            raise RunError(f"{str(lock.name)!r} is held: {name} is being started elsewhere")
        _refuse_taken(port)
        started = subprocess.Popen(
            command, cwd=project.path, env=environment(home), stdin=lock,
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
        process = Process(name, started.pid, str(log), output.tell(), command)
    federation = read(project)
    _write(project, replace(federation, processes=federation.processes | {name: process}))
    return process


def alive(project: Project, process: Process) -> bool:
    """Whether this very process runs."""
    _reap(process)
    lock = _lock(project, process.name)
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


def _stop(project: Project, processes: list[Process]) -> None:
    """Ask them to end, kill what does not, and return when all of it is gone."""
    locks = [_lock(project, process.name) for process in processes]

    def gone() -> bool:
        for process in processes:
            _reap(process)
        return not any(map(held, locks))

    for process in processes:
        if alive(project, process):
            os.killpg(process.pid, signal.SIGTERM)
    with suppress(RunError):
        _until(gone, GRACE, "")
    for pid in [pid for lock in locks for pid in _holders(lock)]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    names = ", ".join(f"{process.name} (process {process.pid})" for process in processes)
    _until(gone, GRACE, f"not all that these have started could be stopped: {names}")


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


def _wait(
    project: Project, process: Process, ready: Callable[[Process], object], otherwise: str
) -> None:
    def failure(what: str) -> str:
        return f"{process.name} {what}; {process.log} ends:\n{_tail(process, TAIL)}"

    deadline = time.monotonic() + PATIENCE
    while not ready(process):
        if not alive(project, process):
            raise RunError(failure("has ended"))
        if time.monotonic() > deadline:
            raise RunError(failure(f"{otherwise} after {PATIENCE:g} s"))
        time.sleep(0.1)


def _until(
    condition: Callable[[], bool], seconds: float, otherwise: str, pause: float = 0.1
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RunError(otherwise)
        time.sleep(pause)


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


# ---- What they say -------------------------------------------------------------------------


def _answers(project: Project, federation: Federation) -> bool:
    context, scheme = None, "http"
    if not federation.insecure:
        context = ssl.create_default_context(cafile=project.certificates / "ca.crt")
        scheme = "https"
    direct = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    try:
        with direct.open(f"{scheme}://{federation.address}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise RunError(
                f"the SuperLink's certificate is not valid: {error.reason.verify_message}; "
                f"{project.certificates / 'make-certificates.sh'} makes another"
            ) from None
        return False
    except OSError:
        return False


def _since_start(process: Process) -> str:
    with suppress(FileNotFoundError), open(process.log, "rb") as file:
        file.seek(process.log_start)
        return COLOURS.sub("", file.read().decode("utf-8", errors="replace"))
    return ""


def _node_id(process: Process) -> str | None:
    found = NODE_ID.search(_since_start(process))
    return found[1] if found else None


def _tail(process: Process, lines: int) -> str:
    return "\n".join(_since_start(process).rstrip().splitlines()[-lines:])


def _entry(process: Process, level: str, beginning: str = "") -> str | None:
    """The last entry of a level in the log, as one line."""
    # It goes on to the next one or to an empty line.
    more = r"(?:\n(?!(?:DEBUG|INFO|WARNING|ERROR) *:|\d{4}-).+)*"
    entry = rf"^(?:{level}) *: *({beginning}.+{more})"
    found = re.findall(entry, _since_start(process), re.MULTILINE)
    return " ".join(found[-1].split()) if found else None


# ---- Keys and files ------------------------------------------------------------------------


def _make_missing(project: Project, names: Iterable[str]) -> None:
    """The SuperLink's certificates, and keys of these nodes."""
    if not (project.certificates / "server.crt").exists():
        _script(project.certificates / "make-certificates.sh")
    for name in names:
        if not project.key(name).exists():
            _script(project.path / "keys" / "make-key.sh", name)


def _script(path: Path, *arguments: str) -> None:
    done = subprocess.run(
        [path, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        raise RunError(f"{path} failed: {done.stderr.strip()}")


def _register(project: Project, name: str) -> None:
    try:
        flwr(project, "supernode", "register", f"{project.key(name)}.pub")
    except RunError as error:
        if "already in use" not in str(error):
            raise


def read(project: Project) -> Federation:
    """What ``processes.json`` says; nothing runs where there is none."""
    path = project.path / "processes.json"
    if not path.exists():
        return Federation(PORT, False, {})
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        processes = {name: Process(**entry) for name, entry in tree["processes"].items()}
        return Federation(tree["port"], tree["insecure"], processes)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(f"{str(path)!r} cannot be read: {error}") from None


def _write(project: Project, federation: Federation) -> None:
    records.write_json(project.path / "processes.json", asdict(federation))


def _lock(project: Project, name: str) -> Path:
    return project.state(name) / "lock"


@contextmanager
def _alone(project: Project) -> Iterator[None]:
    """Let no other `up` or `down` of this project run at the same time."""
    with (project.path / "state" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

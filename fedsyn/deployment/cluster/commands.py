"""The SuperLink and SuperNodes of one machine: all of them started, looked at, stopped."""

import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fedsyn.deployment.cluster.executables import executable, flwr
from fedsyn.deployment.cluster.logs import entry, node_id, tail
from fedsyn.deployment.cluster.processes import (
    PATIENCE,
    SUPERLINK,
    alive,
    held,
    start,
    stop,
    until,
    wait,
)
from fedsyn.deployment.cluster.state import HOST, Cluster, Process, alone, lock_of, read, write
from fedsyn.deployment.flower.project import Project, write_connection
from fedsyn.errors import ConfigError, RunError

ELSEWHERE = "elsewhere"


@dataclass(frozen=True)
class ProcessStatus:
    """How a process is, or a node that was not started here."""

    name: str
    pid: int | None
    alive: bool | None
    node: str | None  # the id that Flower gave a node
    online: bool | None  # whether the SuperLink hears of the node; None: nobody can say
    why: str | None  # it is not alive or not online


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
    with alone(project):
        before = read(project)
        port = port or before.port
        running = {name for name, p in before.processes.items() if alive(project, p)}
        if running and (port, insecure) != (before.port, before.insecure):
            how = "without TLS" if before.insecure else "with TLS"
            raise ConfigError(
                f"{', '.join(sorted(running))} run {how} on port {before.port}; "
                "stop them first: fedsyn flower down"
            )
        cluster = Cluster(port, insecure, before.processes)
        write(project, cluster)
        write_connection(project, port, insecure)
        if not insecure:
            _make_missing(project, names)
        if SUPERLINK not in running:
            progress(SUPERLINK)
            superlink = start(project, SUPERLINK, _superlink_command(project, cluster), port)
            wait(project, superlink, lambda _: _answers(project, cluster), "does not answer")
        for number, name in enumerate(names, start=1):
            if name not in running:
                if not insecure:
                    if last := before.processes.get(name):
                        progress(f"the SuperLink to miss {name}")
                        _wait_until_missed(project, last)
                    _register(project, name)
                command = node_command(project, cluster, name, port + number)
                start(project, name, command, port + number)
        for name in names:
            progress(name)
            wait(project, read(project).processes[name], node_id, "is not online")


def down(project: Project) -> list[str]:
    """Stop everything that `up` has started and return the names of what was running.

    Raises
    ------
    RunError
        If something is still there, after it was asked and then killed.
    """
    with alone(project):
        cluster = read(project)
        there = [p for p in cluster.processes.values() if held(lock_of(project, p.name))]
        # Nodes first, while there is a SuperLink to say goodbye to.
        stop(project, [process for process in there if process.name != SUPERLINK])
        stop(project, [process for process in there if process.name == SUPERLINK])
        write(project, Cluster(cluster.port, cluster.insecure, {}))
    return [process.name for process in there]


def status(project: Project) -> list[ProcessStatus]:
    """How the processes are, and which nodes the SuperLink hears of, wherever they run."""
    nodes: dict[str, str] | None = None
    with suppress(RunError):  # no SuperLink answers
        nodes = _nodes(project)
    seen = [_seen(project, process, nodes) for process in read(project).processes.values()]
    own = {one.node for one in seen}
    others = {node: how for node, how in (nodes or {}).items() if node not in own}
    return seen + [
        ProcessStatus(
            ELSEWHERE, None, None, node, how == "online", None if how == "online" else how
        )
        for node, how in others.items()
    ]


def node_command(project: Project, cluster: Cluster, name: str, port: int) -> list[str]:
    """How a node is started; ``port`` is of its own interface to its apps."""
    command = [
        executable("flower-supernode"), "--superlink", cluster.address, "--port", str(port),
        "--node-config", f"config='{project.node(name)}'",
    ]  # fmt: skip
    if cluster.insecure:
        return [*command, "--insecure"]
    return [
        *command, "--root-certificates", str(project.certificates / "ca.crt"),
        "--auth-supernode-private-key", str(project.key(name)),
    ]  # fmt: skip


def _superlink_command(project: Project, cluster: Cluster) -> list[str]:
    folder = project.certificates
    command = [
        executable("flower-superlink"), "--host", HOST, "--port", str(cluster.port),
        "--database", str(project.home / "superlink.db"),
        "--disable-runtime-dependency-installation",
    ]  # fmt: skip
    if cluster.insecure:
        return [*command, "--insecure"]
    return [
        *command, "--enable-supernode-auth", "--ssl-ca-certfile", str(folder / "ca.crt"),
        "--ssl-certfile", str(folder / "server.crt"), "--ssl-keyfile", str(folder / "server.key"),
    ]  # fmt: skip


def _wait_until_missed(project: Project, node: Process) -> None:
    """Wait until the SuperLink has noticed that a node is gone: it lets nobody in twice.

    It takes a minute (two missed heartbeats) where the node could not say goodbye.
    """
    known = node_id(node) or ""
    otherwise = f"the SuperLink still takes {node.name} for online"
    until(lambda: _nodes(project).get(known) != "online", PATIENCE, otherwise, pause=2.0)


def _seen(project: Project, process: Process, nodes: dict[str, str] | None) -> ProcessStatus:
    living, node = alive(project, process), node_id(process)
    there = None
    if process.name != SUPERLINK and nodes is not None:
        there = living and nodes.get(node or "") == "online"
    why = None
    if not living:
        why = entry(process, "ERROR", "Exit Code") or f"its log ends: {tail(process, 1)}"
    elif there is False:
        why = entry(process, "ERROR|WARNING") or "it has not called yet"
    return ProcessStatus(process.name, process.pid, living, node, there, why)


def _nodes(project: Project) -> dict[str, str]:
    """Whether each admitted node is ``registered`` (never seen), ``online`` or ``offline``."""
    listed = flwr(project, "supernode", "list")["nodes"]
    return {n["node-id"]: n["status"] for n in listed if n["status"] != "unregistered"}


def _answers(project: Project, cluster: Cluster) -> bool:
    context, scheme = None, "http"
    if not cluster.insecure:
        context = ssl.create_default_context(cafile=project.certificates / "ca.crt")
        scheme = "https"
    direct = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    try:
        with direct.open(f"{scheme}://{cluster.address}/health", timeout=5) as answer:
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

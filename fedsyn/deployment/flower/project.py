"""The folder of a federation on Flower: what ``fedsyn flower init`` writes.

Flower bundles every ``.py``, ``.toml``, ``.md``, ``.yaml`` and ``.json`` file of an app and sends
it to all nodes. So the app is a folder of its own with one file in it; configurations,
certificates, keys, state, logs and runs lie beside it.
"""

import getpass
import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import fedsyn
from fedsyn.errors import ConfigError, RunError
from fedsyn.federation import config as configuration
from fedsyn.federation import records
from fedsyn.federation.config import Config

if TYPE_CHECKING:
    from jinja2 import Environment

# What Flower and Ray send home or fetch unless told otherwise.
SWITCHED_OFF = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
# Keys that are paths.
PATHS = (("data", "path"), ("data", "images"), ("teacher", "path"), ("flower", "test"))
PORT = 8000  # of the SuperLink, by default
SUFFIX = ".jinja"
NODE, CONNECTION = "nodes/node.toml.jinja", "state/superlink/config.toml.jinja"


@dataclass(frozen=True)
class Project:
    """Where everything lies, below one absolute path."""

    path: Path

    @property
    def app(self) -> Path:
        """What is bundled and sent to all nodes; nothing else belongs here."""
        return self.path / "app"

    @property
    def config(self) -> Path:
        """The configuration of its runs."""
        return self.path / "run.toml"

    @property
    def certificates(self) -> Path:
        """The authority's and the SuperLink's certificates and keys."""
        return self.path / "certificates"

    @property
    def home(self) -> Path:
        """The SuperLink's state, and the folder in which ``flwr`` finds how to reach it."""
        return self.state("superlink")

    @property
    def nodes(self) -> list[str]:
        """Names of the configured nodes, ``node-0`` first."""
        found = (file.stem for file in (self.path / "nodes").glob("node-*.toml"))
        return sorted(found, key=lambda name: (len(name), name))

    def node(self, name: str) -> Path:
        """The configuration of a node."""
        return self.path / "nodes" / f"{name}.toml"

    def key(self, name: str) -> Path:
        """A node's private key; the public one beside it ends in ``.pub``."""
        return self.path / "keys" / name

    def state(self, name: str) -> Path:
        """The folder of what a process keeps."""
        return self.path / "state" / name

    def log(self, name: str) -> Path:
        """The file with the log of a process."""
        return self.path / "logs" / f"{name}.log"

    @property
    def runs(self) -> Path:
        """The run directories, unless told otherwise."""
        return self.path / "runs"


def find(path: Path) -> Project:
    """The project in a folder; raises `RunError` if there is none."""
    project = Project(path.absolute())
    if not (project.app / "pyproject.toml").is_file():
        raise RunError(f"{str(path)!r} is not a folder that `fedsyn flower init` has made")
    return project


def create(path: Path, config: Config, nodes: int) -> Project:
    """Write the folder of a federation.

    Parameters
    ----------
    path : Path
        Made; must not hold anything.
    config : Config
        Of the runs. Its ``partition.clients`` are dealt out evenly.
    nodes : int
        Nodes that hold them.

    Raises
    ------
    ConfigError
        If there are more nodes than clients.
    RunError
        If the folder is not empty or cannot be made.
    """
    clients = config.partition.clients
    if nodes > clients:
        raise ConfigError(f"--nodes {nodes} is more than there are silos to hold ({clients})")
    project = Project(path.absolute())
    records.create(project.path)
    project.path.chmod(0o700)
    names = [f"node-{number}" for number in range(nodes)]
    for folder in ("logs", "runs", "state", *(f"state/{name}" for name in names)):
        (project.path / folder).mkdir(mode=0o700)
    facts = {
        "version": fedsyn.__version__, "config": config, "nodes": names, "port": PORT,
        "user": getpass.getuser(), "bin": Path(sys.executable).parent,
    }  # fmt: skip
    for template in _templates().list_templates():
        target = project.path / template.removesuffix(SUFFIX)
        if template not in (NODE, CONNECTION):
            _render(project, template, target, facts)
    held = np.array_split(np.arange(clients), nodes)
    for name, silos in zip(names, held, strict=True):
        own = facts | {"name": name, "silos": silos.tolist()}
        _render(project, NODE, project.node(name), own)
    write_connection(project, PORT, insecure=False)
    project.config.write_text(_commented(with_absolute_paths(config)), encoding="utf-8")
    return project


def write_connection(project: Project, port: int, insecure: bool) -> None:
    """Tell ``flwr`` how to reach the SuperLink."""
    facts = {"port": port, "insecure": insecure}
    _render(project, CONNECTION, project.home / "config.toml", facts)


def with_absolute_paths(config: Config) -> Config:
    """The same for a process that runs in another folder."""
    tree: dict[str, dict[str, Any]] = {}
    for section, key in PATHS:
        value = getattr(getattr(config, section), key)
        if value:
            tree.setdefault(section, {})[key] = str(Path(value).absolute())
    return configuration.with_overrides(config, **tree)


def _commented(config: Config) -> str:
    """The complete configuration, each section under what it is for."""
    lines = [
        "# What runs of this federation do, unless `fedsyn flower run DIR key=value` differs.",
        "# `fedsyn config` explains every key.",
        "",
    ]
    for line in configuration.dump(config).splitlines():
        if line.startswith("["):
            section: Any = config
            for name in line.strip("[]").split("."):
                section = getattr(section, name)
            lines.append(f"# {(inspect.getdoc(section) or '').splitlines()[0]}")
        lines.append(line)
    return "\n".join(lines) + "\n"


def _render(project: Project, template: str, target: Path, facts: dict[str, Any]) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    known = {"project": project, "switched_off": SWITCHED_OFF, **facts}
    target.write_text(_templates().get_template(template).render(known), encoding="utf-8")
    if target.suffix == ".sh":
        target.chmod(0o700)


def _templates() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("fedsyn.deployment.flower"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )

"""A node's own configuration: what it holds, and what it agrees to."""

from pathlib import Path

from fedsyn.errors import ConfigError
from fedsyn.federation.settings import EngineConfig
from fedsyn.settings.loading import read
from fedsyn.settings.sections import Count, Field, Section, Whole


class Limits(Section):
    """What a node agrees to do for a run."""

    methods: tuple[str, ...] = Field((), description="methods that it takes part in; empty: all")
    objectives: tuple[str, ...] = Field((), description="objectives; empty: all")
    plugins: tuple[str, ...] = Field(
        (),
        description="plug-ins from outside this package, as the run names them "
        "(package.module:NAME, or an entry point): others are never imported",
    )
    max_bytes: Count = Field(256 << 20, description="bytes of a message")
    max_rounds: Count = Field(1000, description="rounds of a run")
    min_pairs: Count = Field(
        2, description="training rows that each client must have before the node answers"
    )
    min_cluster: Count = Field(3, description="pairs that each prototype must stand for")


class NodeConfig(Section):
    """What a node holds, and what it agrees to."""

    clients: tuple[Whole, ...] = Field((), description="ids of its silos, unique in the federation")
    data: tuple[str, ...] = Field(
        (), description="a file of each silo; empty: their shares of the run's own data set"
    )
    teacher: str = Field(
        "", description="of a run that has a teacher: the node's own copy, a file or folder"
    )
    state: str = Field("state", description="folder for what stays between rounds")
    allow: Limits = Field(Limits(), description="what it agrees to")
    engine: EngineConfig = Field(EngineConfig(), description="how it computes")

    @classmethod
    def load(cls, path: Path) -> "NodeConfig":
        """Read a TOML file; relative paths in it start at its folder.

        Raises
        ------
        ConfigError
            If it is missing, not TOML, or not valid.
        """
        found: NodeConfig = read(path, cls)
        here = path.absolute().parent
        if found.data and len(found.data) != len(found.clients):
            raise ConfigError(
                f"{str(path)!r} has {len(found.data)} files in data for "
                f"{len(found.clients)} clients"
            )
        if not found.clients or len(set(found.clients)) < len(found.clients):
            raise ConfigError(
                f"{str(path)!r} has clients = {list(found.clients)}; expected different ids"
            )
        files = tuple(str(here / file) for file in found.data)
        teacher = found.teacher and str(here / found.teacher)
        return found.changed(data=files, teacher=teacher, state=str(here / found.state))

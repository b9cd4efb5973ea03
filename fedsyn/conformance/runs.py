"""Whole runs with a plug-in: repeated, one client at a time, resumed, and over nodes."""

import json
import random
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from fedsyn.conformance.claims import Claims
from fedsyn.conformance.world import CLIENTS, World
from fedsyn.deployment.loopback import Loopback
from fedsyn.deployment.node import Limits, NodeConfig
from fedsyn.deployment.server import check_deployable, serve
from fedsyn.errors import ConfigError
from fedsyn.federation import records
from fedsyn.federation.config import Config, dump, load, with_overrides
from fedsyn.federation.runner import Silent, run
from fedsyn.settings.loading import leaves

TIMES = ("seconds",)
STOP = 2  # of three rounds


def check_runs(claims: Claims, world: World) -> None:
    """Small runs of a world as it is configured.

    Raises
    ------
    PluginError
        If they do not give the same bits when they are repeated with other global random numbers,
        resumed, or made over nodes; or other numbers where clients are computed one by one.
    """
    config = world.config
    with TemporaryDirectory() as folder:
        first = _Ran(claims, config, Path(folder) / "first", seed=1)
        _check_file(claims, config, first.out)
        again = _Ran(claims, config, Path(folder) / "again", seed=2)
        again.same_bits(first, "with other global random numbers")
        single = with_overrides(config, engine={"stack": 1})
        alone = _Ran(claims, single, Path(folder) / "alone", seed=3)
        for name, value in alone.model.items():
            claims.close(f"model {name!r}", value, first.model[name], "where clients are alone")
        resumed = _Resumed(claims, config, Path(folder) / "resumed", seed=4)
        resumed.same_bits(first, "after the run was resumed")
        if _deployable(config):
            nodes = _OverNodes(claims, config, Path(folder) / "nodes", seed=5)
            nodes.same_bits(alone, "over nodes")


def _check_file(claims: Claims, config: Config, out: Path) -> None:
    """A run's file says the same as its configuration, and is found again by its names."""
    if config.given:
        return  # whoever reads it has to pass the plug-in again
    with claims.calling("reading config.toml"):
        read = load(out / records.CONFIG)
    claims.hold(dump(read) == dump(config), "config.toml does not load as what it was written from")


def _deployable(config: Config) -> bool:
    if config.given:
        return False
    try:
        check_deployable(config)
    except ConfigError:
        return False
    return True


class _Ran:
    """A run, and what it has left."""

    def __init__(self, claims: Claims, config: Config, out: Path, seed: int) -> None:
        self._claims, self.out = claims, out
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        with claims.calling("a run"):
            self._run(config)
        self.model: dict[str, Tensor] = load_file(out / records.MODEL)
        self.rows = [
            {key: value for key, value in json.loads(line).items() if key not in TIMES}
            for line in (out / records.METRICS).read_text("utf-8").splitlines()
        ]

    def _run(self, config: Config) -> None:
        run(config, self.out)

    def same_bits(self, other: "_Ran", why: str) -> None:
        """The same model, and the same of all that is in the rows.

        (A server of nodes does not know how many rows there are of each label.)
        """
        for mine, theirs in zip(self.rows, other.rows, strict=True):
            known = dict(leaves(theirs))
            for key, value in leaves(mine):
                self._claims.hold(
                    value == known.get(key),
                    f"{key} of round {mine['round']} is {value} {why}, and was {known.get(key)}",
                )
        for name, value in self.model.items():
            self._claims.hold(
                torch.equal(value, other.model[name]), f"model {name!r} is another {why}"
            )


class _StoppedError(Exception):
    """Ends a run before its last round."""


class _Stop(Silent):
    """Stops a run when a round is done."""

    def row(self, row: records.Row) -> None:
        """Stop the run before its last round."""
        if row["round"] == STOP:
            raise _StoppedError


class _Resumed(_Ran):
    """A run that is stopped, and goes on from its checkpoint."""

    def _run(self, config: Config) -> None:
        with suppress(_StoppedError):
            run(config, self.out, observer=_Stop())
        run(config, self.out, resume=True)


class _OverNodes(_Ran):
    """A run over nodes of this process, with a client each."""

    def _run(self, config: Config) -> None:
        allowed = Limits(plugins=config.foreign, min_pairs=1, min_cluster=1)
        nodes = {
            number: NodeConfig(
                clients=(number,),
                state=str(self.out.with_name(f"node-{number}")),
                allow=allowed,
                engine=config.engine,
            )
            for number in range(CLIENTS)
        }
        serve(with_overrides(config, flower={"nodes": CLIENTS}), self.out, Loopback(nodes))

"""A whole run over nodes, from the server: the rounds of the runner, over `Nodes`."""

import json
import secrets
import time
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from fedsyn.config import Config
from fedsyn.data import federated
from fedsyn.data.federated import Described
from fedsyn.deployment.remote import Nodes, Post
from fedsyn.errors import ConfigError, RunError
from fedsyn.federation import records, runner
from fedsyn.federation.devices import available, cpu_threads, settings
from fedsyn.federation.federation import Federation, federation
from fedsyn.methods import METHODS
from fedsyn.profiling import stopwatch

NAME = "flower.json"  # what the nodes know a run by
BOUNDS = ("local", "centralised")


def serve(config: Config, out: Path, post: Post, *, resume: bool = False) -> dict[str, Any]:
    """Run a federation over nodes and leave the run directory ``out``.

    It is that of `fedsyn.federation.runner.run`, with a checkpoint after every round, and with
    ``status.json``, which says who takes part, who was missing and why, and how it ended.

    Returns
    -------
    dict
        What ``summary.json`` holds.

    Raises
    ------
    FedsynError
        If the configuration, the directory or the nodes do not allow the run to begin or to go on.
    """
    _check(config)
    run = _run_name(out) if resume else secrets.token_hex(8)
    if not resume:
        records.create(out)
        records.write_json(out / NAME, {"run": run})
    (device, *_) = available(config.engine.devices)
    with settings(config, cpu_threads(config)):
        before = runner.resumed(config, out, device) if resume else None
        own = _own(config)
        known = load_file(out / records.PREPROCESSING) if resume else None
        nodes = Nodes(config, run, own, post, known)
        status = _Status(out, config, nodes)
        status.write("waiting", before.round if before else 0)
        try:
            started = time.perf_counter()
            nodes.gather()
            status.write("running", before.round if before else 0)
            up, down = (0, 0) if resume else nodes.prepare()
            data = federated.finish(own, nodes.preprocessing, up, down)
            fed = federation(config, data, device)
            nodes.enter(fed)
            done = runner.begin(fed, out) if before is None else before
            rows = runner.prepare(fed, out, done, _who_has_what(fed, nodes))
            watch = stopwatch(device)
            runner.train(fed, done, rows, nodes, out, watch, status, checkpoint_seconds=0.0)
            summary = runner.finish(fed, done, rows, out, time.perf_counter() - started)
        except BaseException as error:
            status.write("failed", error=f"{error}" or type(error).__name__)
            raise
    status.write("done")
    return summary


def _check(config: Config) -> None:
    """Refuse what only one machine that has all pairs can do."""
    if METHODS[config.method.name].pooled or config.method.name == "local":
        raise ConfigError(f"method.name = {config.method.name!r} is a bound, not a federation")
    if config.synthesis_mode == "oracle":
        raise ConfigError("synthesis.oracle = true needs everybody's pairs, which no server has")


def _own(config: Config) -> Described:
    """The server's test pairs."""
    if config.flower.test:
        return federated.describe_test(config, Path(config.flower.test))
    return federated.describe(config, clients=())


def _run_name(out: Path) -> str:
    """Of the run that goes on."""
    path = out / NAME
    try:
        return str(json.loads(path.read_text("utf-8"))["run"])
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{str(path)!r} does not name a run to resume: {error}") from None


def _who_has_what(fed: Federation, nodes: Nodes) -> dict[str, Any]:
    """The content of ``partition.json``, of the nodes that are there; labels stay with them."""
    silos = len(fed.silos)
    counted = {name: [0] * silos for name in SIZES}
    for member in nodes.members.values():
        for name, numbers in counted.items():
            for client, number in zip(member.said.clients, getattr(member.said, name), strict=True):
                numbers[client] = number
    total = [sum(numbers) for numbers in zip(*counted.values(), strict=True)]
    test = [len(silo.test) for silo in fed.silos]
    return {
        "labels": ["unlabelled"],
        "clients": [[number] for number in total],
        **counted,
        "test": test,
    }


SIZES = ("pairs", "holdout", "images_only", "texts_only")


class _Status:
    """Writes ``status.json`` as the run goes on."""

    def __init__(self, out: Path, config: Config, nodes: Nodes) -> None:
        self._out, self._config, self._nodes = out, config, nodes
        self._round = 0

    def phase(self, round: int, name: str) -> None:
        """Nothing to write."""

    def row(self, row: records.Row) -> None:
        """A round is done."""
        self.write("running", row["round"])

    def write(self, state: str, round: int | None = None, error: str | None = None) -> None:
        """Write it anew."""
        self._round = self._round if round is None else round
        records.write_json(
            self._out / records.STATUS,
            {
                "state": state,
                "round": self._round,
                "rounds": self._config.run.rounds,
                "nodes": [
                    {"node": str(one.node), "clients": list(one.said.clients)}
                    for one in self._nodes.in_order()
                ],
                "missing": [{"round": one.round, **one.plain()} for one in self._nodes.missing],
                "error": error,
            },
        )

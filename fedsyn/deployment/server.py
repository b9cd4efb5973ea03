"""A whole run over nodes, from the server: the rounds of the runner, over a `RemoteFleet`."""

import json
import secrets
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from fedsyn.core.payload import Payload, nbytes
from fedsyn.data import federated
from fedsyn.data.federated import LocalData
from fedsyn.deployment.exchange import Exchange, Transport
from fedsyn.deployment.members import Members
from fedsyn.deployment.messages import IDF, MOMENTS, Answered, Facts, Request
from fedsyn.deployment.remote import HEARD, RemoteFleet
from fedsyn.deployment.schema import schema
from fedsyn.deployment.validation import check
from fedsyn.errors import ConfigError, RunError
from fedsyn.federation import records, runner
from fedsyn.federation.config import Config, data_settings
from fedsyn.federation.devices import available, cpu_threads, settings
from fedsyn.federation.federation import Federation, federation
from fedsyn.profiling import stopwatch

NAME = "flower.json"  # what the nodes know a run by
SIZES = ("pairs", "holdout", "images_only", "texts_only")


def serve(
    config: Config, out: Path, transport: Transport, *, resume: bool = False
) -> dict[str, Any]:
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
    check_deployable(config)
    run = _run_name(out) if resume else secrets.token_hex(8)
    if not resume:
        records.create(out)
        records.write_json(out / NAME, {"run": run})
    (device, *_) = available(config.engine.devices)
    with settings(config, cpu_threads(config)):
        own = _own(config)
        exchange = Exchange(transport, config.flower.timeout)
        common: Facts = {"run": run, "config": config.model_dump(mode="json")}
        members = Members(exchange, own, common)
        status = _Status(out, config, members, exchange)
        status.write("waiting", 0)
        try:
            summary = _served(config, out, own, members, exchange, common, status, device, resume)
        except BaseException as error:
            status.write("failed", error=f"{error}" or type(error).__name__)
            raise
    status.write("done")
    return summary


def _served(
    config: Config,
    out: Path,
    own: LocalData,
    members: Members,
    exchange: Exchange,
    common: Facts,
    status: "_Status",
    device: torch.device,
    resume: bool,
) -> dict[str, Any]:
    started = time.perf_counter()
    if resume:
        done_before = runner.check_resumable(config, out)
        status.write("waiting", done_before)
    members.gather(config.flower.nodes, config.flower.wait)
    status.write("running")
    if resume:
        preprocessing, up, down = load_file(out / records.PREPROCESSING), 0, 0
    else:
        preprocessing, up, down = _preprocessing(own, members, exchange, common)
    data = federated.finish(own, preprocessing, up, down)
    fed = federation(config, data, device)
    heard = torch.zeros(len(fed.silos), dtype=torch.long)
    fleet = RemoteFleet(fed, schema(fed), members, exchange, common, preprocessing, heard, out)
    if resume:
        done, kept = runner.resumed(fed, out)
        fleet.heard = kept[HEARD]
    else:
        done = runner.begin(fed, out)
    rows = runner.prepare(fed, out, done, fleet, _who_has_what(fed, members))
    watch = stopwatch(device)
    runner.train(fed, done, rows, fleet, out, watch, status, checkpoint_seconds=0.0)
    return runner.finish(fed, done, rows, out, time.perf_counter() - started)


def check_deployable(config: Config) -> None:
    """Refuse what only one machine that has all pairs can do; raises `ConfigError`."""
    method = config.plugins.method
    if not method.deployable:
        raise ConfigError(f"method.name = {method.name!r} is a bound, not a federation")
    for extension, _ in config.active:
        if extension.pooled:
            raise ConfigError(
                f"{extension.name}, as configured, needs everybody's pairs, which no server has"
            )


def _own(config: Config) -> LocalData:
    """The server's test pairs, described."""
    asked = data_settings(config)
    if config.flower.test:
        return federated.test_file(asked, Path(config.flower.test))
    return federated.local_data(asked, clients=())


def _preprocessing(
    own: LocalData, members: Members, exchange: Exchange, common: Facts
) -> tuple[Payload, int, int]:
    """The preprocessing from the sums of all nodes, and what it costs: bytes up and down.

    Raises
    ------
    RunError
        If a node does not send its sums: what it holds would have no part in them.
    """
    taking_part = members.in_order()
    idf = federated.derive_idf(federated.add(member.frequencies for member in taking_part))
    request = Request(**common).message(**{IDF: idf})
    clients = {member.node: member.said.clients for member in taking_part}
    answers = exchange.ask("moments", dict.fromkeys(clients, request), Answered, clients)
    expected, sums = federated.moments(own, idf), []
    for node, _, sent in answers:
        with exchange.believing(node, clients[node]):
            sums.append(check("the moments", sent.group(MOMENTS), expected))
    if len(sums) < len(taking_part):
        raise RunError(f"the preprocessing is not complete: {exchange.missing[-1].why}")
    derived = federated.derive(own, federated.add(sums), idf)
    up = nbytes(expected) + nbytes(federated.frequencies(own))
    for member in taking_part:  # who is sent it in the first round
        member.accounted = True
    return derived, len(taking_part) * up, len(taking_part) * nbytes(derived)


def _run_name(out: Path) -> str:
    """The name of the run that goes on."""
    path = out / NAME
    try:
        return str(json.loads(path.read_text("utf-8"))["run"])
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{str(path)!r} does not name a run to resume: {error}") from None


def _who_has_what(fed: Federation, members: Members) -> dict[str, Any]:
    """The content of ``partition.json``, of the nodes that are there; labels stay with them."""
    silos = len(fed.silos)
    counted = {name: [0] * silos for name in SIZES}
    for member in members.in_order():
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


class _Status:
    """Writes ``status.json`` as the run goes on."""

    def __init__(self, out: Path, config: Config, members: Members, exchange: Exchange) -> None:
        self._out, self._config, self._members, self._exchange = out, config, members, exchange
        self._round = 0

    def phase(self, round_number: int, name: str) -> None:
        """Phases of a round are not written."""

    def row(self, row: records.Row) -> None:
        """Write that a round is done."""
        self.write("running", row["round"])

    def write(self, state: str, round_number: int | None = None, error: str | None = None) -> None:
        """Write the file anew, with how the run stands."""
        self._round = self._round if round_number is None else round_number
        records.write_json(
            self._out / records.STATUS,
            {
                "state": state,
                "round": self._round,
                "rounds": self._config.rounds,
                "nodes": [
                    {"node": str(one.node), "clients": list(one.said.clients)}
                    for one in self._members.in_order()
                ],
                "missing": [
                    {"round": one.round_number, **one.plain()} for one in self._exchange.missing
                ],
                "error": error,
            },
        )

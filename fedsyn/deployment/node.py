"""What a node does with a message: the same client functions as in a simulation, on its own silos.

A node keeps nothing in memory between messages, each of which may find a new process. Under
``state`` it has a folder a run, with the features of its pairs and with what its clients kept of
the last two rounds. Which of the two the next round starts from is the server's to say: a round
whose answer was lost has not been. So a message that is repeated gives the same answer, bit by bit.
"""

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from fedsyn import config as configuration
from fedsyn.config import Config, Count, EngineConfig, Section, Whole
from fedsyn.core.payload import Payload
from fedsyn.data import federated
from fedsyn.data.federated import Described, FederatedData
from fedsyn.data.pairs import Pairs
from fedsyn.data.silos import Silo
from fedsyn.deployment.parcels import Parcel, RefusedError, check, understood
from fedsyn.deployment.schema import Forms, rehearse
from fedsyn.deployment.words import (
    Answered,
    Asked,
    AskedToJudge,
    AskedToTrain,
    Introduced,
    Judged,
    Trained,
)
from fedsyn.errors import ConfigError, FedsynError
from fedsyn.federation import local, records, state
from fedsyn.federation.client import generates
from fedsyn.federation.devices import available, cpu_threads, devices, settings
from fedsyn.federation.evaluation import Judgement, held_out_losses
from fedsyn.federation.federation import Federation, federation
from fedsyn.federation.runner import digest
from fedsyn.federation.store import ClientRows
from fedsyn.synthesis import generators

logger = logging.getLogger(__name__)

FEATURES = "features.safetensors"
CACHE = "cache"  # of descriptors, for all runs
KEPT = re.compile(r"round-(\d+)\.safetensors")
PARTS = ("pairs", "holdout", "images", "texts", "test")  # of a silo
NAMES = "label_names"  # their UTF-8, a line each
NUMBERS = ("image_dim", "clients", "height", "width", "channels")


class Limits(Section):
    """What a node agrees to."""

    methods: tuple[str, ...] = ()  # empty: all
    objectives: tuple[str, ...] = ()
    max_bytes: Count = 256 << 20  # of a message
    max_rounds: Count = 1000
    min_pairs: Count = 2  # training rows that each client must have before the node answers
    min_cluster: Count = 3  # pairs that each prototype must stand for


class NodeConfig(Section):
    """What a node holds, and what it agrees to."""

    clients: tuple[Whole, ...] = ()  # ids of its silos, unique in the federation
    data: tuple[str, ...] = ()  # a file of each; empty: their shares of the run's own data set
    teacher: str = ""  # of a run that has one: the file or folder of this node's own copy
    state: str = "state"  # folder for what stays between rounds
    allow: Limits = Limits()
    engine: EngineConfig = EngineConfig()

    @classmethod
    def load(cls, path: Path) -> "NodeConfig":
        """Read a TOML file; relative paths in it start at its folder.

        Raises
        ------
        ConfigError
            If it is missing, not TOML, or not valid.
        """
        read: NodeConfig = configuration.read(path, cls)
        here = path.absolute().parent
        if read.data and len(read.data) != len(read.clients):
            raise ConfigError(
                f"{str(path)!r} has {len(read.data)} files in data for {len(read.clients)} clients"
            )
        if not read.clients or len(set(read.clients)) < len(read.clients):
            raise ConfigError(
                f"{str(path)!r} has clients = {list(read.clients)}; expected different ids"
            )
        files = tuple(str(here / file) for file in read.data)
        teacher = read.teacher and str(here / read.teacher)
        state = str(here / read.state)
        return read.model_copy(update={"data": files, "teacher": teacher, "state": state})


def answer(node: NodeConfig, kind: str, asked: Parcel) -> Parcel:
    """Do what is asked, or say in one sentence why not.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    """
    try:
        if asked.nbytes > node.allow.max_bytes:
            raise RefusedError(
                f"the message has {asked.nbytes} bytes; "
                f"this node allows max_bytes = {node.allow.max_bytes}"
            )
        work = KINDS[kind]
        message = understood(work.said, asked.facts)
        return work.do(node, _admitted(node, message), message, asked)
    except UnpreparedError as error:
        return Answered(refused=str(error), unprepared=True).parcel()
    except FedsynError as error:
        logger.error("refused: %s", error)
        return Answered(refused=str(error)).parcel()


class UnpreparedError(RefusedError):
    """The node has no features for this run."""


def _admitted(node: NodeConfig, message: Asked) -> Config:
    """The run's configuration, if this node's own allows it, with what is the node's own."""
    asked = configuration.parse(message.config)
    # (A server names no files of a real silo.)
    teacher = node.teacher if node.data else node.teacher or asked.teacher.path
    config = configuration.with_overrides(
        asked,
        engine=node.engine.model_dump(),
        data={"cache": str(Path(node.state) / CACHE)},
        teacher={"path": teacher},
    )
    for key, name, allowed in (
        ("method.name", config.method.name, node.allow.methods),
        ("objective.name", config.objective.name, node.allow.objectives),
    ):
        if allowed and name not in allowed:
            raise RefusedError(
                f"{key} = {name!r} is not among those that this node allows: {allowed}"
            )
    if config.run.rounds > node.allow.max_rounds:
        raise RefusedError(
            f"run.rounds = {config.run.rounds}; "
            f"this node allows max_rounds = {node.allow.max_rounds}"
        )
    fewest = config.synthesis.min_cluster
    if config.trains_generators and fewest < node.allow.min_cluster:
        raise RefusedError(
            f"synthesis.min_cluster = {fewest}; "
            f"this node allows no prototype of fewer than min_cluster = {node.allow.min_cluster}"
        )
    return config


# ---- Who it is, and statistics -------------------------------------------------------------------


def _introduce(node: NodeConfig, config: Config, message: Asked, asked: Parcel) -> Parcel:
    """The clients held here, and document frequencies of their texts."""
    described = _described(node, config)
    silos = [described.silos[client] for client in described.clients]
    said = Introduced(
        clients=described.clients,
        pairs=tuple(len(silo.pairs) for silo in silos),
        holdout=tuple(len(silo.holdout) for silo in silos),
        images_only=tuple(len(silo.images) for silo in silos),
        texts_only=tuple(len(silo.texts) for silo in silos),
        form=described.facts,
    )
    return said.parcel(frequencies=federated.frequencies(described))


def _moments(node: NodeConfig, config: Config, message: Asked, asked: Parcel) -> Parcel:
    """First and second moments of what is held here."""
    found = federated.moments(_described(node, config), asked.group("idf"))
    return Answered().parcel(moments=found)


def _described(node: NodeConfig, config: Config) -> Described:
    if node.data:
        files = dict(zip(node.clients, map(Path, node.data), strict=True))
        described = federated.describe_files(config, files)
    else:
        described = federated.describe(config, node.clients, test=False)
    _check_sizes(node, described.silos)
    return described


def _check_sizes(node: NodeConfig, silos: Sequence[Silo]) -> None:
    """Refuse to say anything about few pairs."""
    for client in node.clients:
        if len(silos[client].training) < node.allow.min_pairs:
            raise RefusedError(
                f"client {client} has {len(silos[client].training)} training rows; "
                f"this node allows no answers of fewer than min_pairs = {node.allow.min_pairs}"
            )


# ---- Rounds --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Run:
    """What a node has of a run."""

    fed: Federation
    folder: Path


def _run(node: NodeConfig, config: Config, message: Asked, asked: Parcel) -> _Run:
    """The run's folder and features, made where the preprocessing is sent along."""
    folder = Path(node.state) / message.run
    path = folder / FEATURES
    preprocessing = asked.group("preprocessing")
    (device, *_) = found = available(config.engine.devices)
    if preprocessing:
        described = _described(node, config)
        check("the preprocessing", preprocessing, federated.preprocessing_like(described))
        data = federated.finish(described, preprocessing)
        folder.mkdir(parents=True, exist_ok=True)
        records.write_tensors(path, _stored(data, node.clients))
    if not path.exists():
        raise UnpreparedError(f"this node has no features for run {message.run}")
    data = _restored(path)
    _check_sizes(node, data.silos)
    fed = federation(config, data, device, on_host=len(found) > 1)
    return _Run(fed, folder)


def _stored(data: FederatedData, clients: Sequence[int]) -> Payload:
    """Features and labels, and the rows of each client, as tensors."""
    rows = {
        f"{client}/{part}": torch.from_numpy(getattr(data.silos[client], part))
        for client in clients
        for part in PARTS
    }
    sizes = (data.image_dim, len(data.silos), *data.picture)
    numbers = {name: torch.tensor(size) for name, size in zip(NUMBERS, sizes, strict=True)}
    label = {} if data.label is None else {"label": data.label}
    more = {"features": data.features, "public": torch.from_numpy(data.public), **label}
    more[NAMES] = torch.tensor(list("\n".join(data.pairs.label_names).encode()), dtype=torch.uint8)
    return more | numbers | rows


def _restored(path: Path) -> FederatedData:
    try:
        with safe_open(path, framework="pt") as file:
            held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UnpreparedError(f"{str(path)!r} cannot be read: {error}") from None
    features, public, label = held.pop("features"), held.pop("public"), held.pop("label", None)
    image_dim, clients, height, width, channels = (int(held.pop(name)) for name in NUMBERS)
    label_names = tuple(bytes(held.pop(NAMES).tolist()).decode().splitlines())
    nothing = dict.fromkeys(PARTS, np.empty(0, np.int64))
    silos = [dict(nothing) for _ in range(clients)]
    for name, rows in held.items():
        client, part = name.split("/")
        silos[int(client)][part] = rows.numpy()
    image, text = features[:, :image_dim].numpy(), features[:, image_dim:].numpy()
    return FederatedData(
        pairs=Pairs("features", image, text, label_names=label_names),
        features=features,
        image_dim=image_dim,
        label=label,
        silos=tuple(Silo(**parts) for parts in silos),
        test=np.empty(0, np.int64),
        preprocessing={},
        bytes_up=0,
        bytes_down=0,
        public=public.numpy(),
        picture=(height, width, channels),
    )


def _train(node: NodeConfig, config: Config, message: AskedToTrain, asked: Parcel) -> Parcel:
    """A round of some of the clients held here."""
    if message.round > config.run.rounds:
        raise RefusedError(
            f"round {message.round} is asked for of run.rounds = {config.run.rounds}"
        )
    run = _run(node, config, message, asked)
    down = asked.group("down")
    forms = rehearse(run.fed)
    more = {name: value for name, value in down.items() if name != "model"}
    check("what the server sent", {k: v for k, v in down.items() if k == "model"}, forms.model)
    # (Of some methods it is sent from the second round on, and may be smaller than rehearsed.)
    expected = {name: value for name, value in forms.more.items() if name in more}
    check("what the server sent", more, expected, smaller=True)
    said, groups = Trained(), dict[str, Payload]()
    with settings(config, cpu_threads(config)):
        if message.ids:
            said, groups = _trained(node, run, forms, message, down, _shared(run, asked))
        if message.judges:
            judgement = held_out_losses(run.fed, [down["model"]], _held(node, message.judges))
            said = said.model_copy(update={"judged": _judged(judgement)})
    return said.parcel(**groups)


def _trained(
    node: NodeConfig,
    run: _Run,
    forms: Forms,
    message: AskedToTrain,
    down: Payload,
    shared: Payload,
) -> tuple[Trained, dict[str, Payload]]:
    """What the clients say and send."""
    fed, config, ids = run.fed, run.fed.config, _held(node, message.ids)
    clients = _kept(node, run, message.since)
    # One client's payload goes as it is: half the bytes of a sum in float64.
    hear: local.Hear = fed.method.hear if len(ids) > 1 else lambda heard, ids, payload, *_: payload
    with devices(config, available(config.engine.devices)) as everywhere:
        heard = local.train(
            fed, clients, everywhere, ids, message.round,
            down=lambda part: {k: v.expand(len(part), *v.shape[1:]) for k, v in down.items()},
            shared=shared, hear=hear,
        )  # fmt: skip
    _keep(run, clients, message.round, message.since)
    uploaded: Payload = {}
    introduced: Payload = {}
    beginners: list[int] = []
    if generates(config, message.round):
        own = config.synthesis
        uploaded = clients.take(ids, tuple(forms.upload))
        beginners = [client for client in ids if client not in message.introduced]
        if beginners:
            introduced = generators.introduction(clients.take(beginners), own)
    groups = {
        "heard": heard.payload,
        "upload": uploaded,
        "introduction": introduced,
        "models": {"model": torch.cat(heard.models)} if heard.models else {},
    }
    said = Trained(
        ids=heard.ids,
        pairs=tuple(heard.pairs.tolist()),
        sizes=tuple(heard.sizes.tolist()),
        losses={name: tuple(value.tolist()) for name, value in heard.losses.items()},
        introduced=tuple(beginners),
    )
    return said, groups


def _judge(node: NodeConfig, config: Config, message: AskedToJudge, asked: Parcel) -> Parcel:
    """The criterion of models on the held-out pairs of some of the clients held here."""
    run = _run(node, config, message, asked)
    models = asked.group("models")
    like = torch.empty(1, run.fed.problem.net.layout.size)
    check("what the server sent", models, dict.fromkeys(models, like))
    with settings(config, cpu_threads(config)):
        each = [models[name] for name in sorted(models)]
        judgement = held_out_losses(run.fed, each, _held(node, message.ids), message.initial)
    return _judged(judgement).parcel()


def _judged(judgement: Judgement) -> Judged:
    return Judged(ids=judgement.ids, losses=judgement.losses, pairs=judgement.pairs)


def _held(node: NodeConfig, ids: Sequence[int]) -> tuple[int, ...]:
    """These clients, if they are held here."""
    if strange := set(ids) - set(node.clients):
        raise RefusedError(f"clients {sorted(strange)} are not held here; {list(node.clients)} are")
    return tuple(sorted(ids))


def _shared(run: _Run, asked: Parcel) -> Payload:
    """Pairs that the server shares."""
    shared = asked.group("shared")
    if shared:
        config, width = run.fed.config, run.fed.data.features.shape[1]
        rows = min(len(shared.get("pairs", ())), config.synthesis.shared)
        check("what the server sent", shared, {"pairs": torch.empty(0, width)}, rows)
    return shared


# ---- What clients keep ---------------------------------------------------------------------------


def _kept(node: NodeConfig, run: _Run, since: int) -> ClientRows:
    """What the clients had kept after the round ``since``; nothing, if they took no part yet."""
    fed = run.fed
    budget = fed.config.engine.memory << 20
    ids = sorted(node.clients)
    clients = ClientRows(len(ids), run.folder, budget, fed.device, ids)
    rounds = [number for number in _rounds(run.folder) if number <= since]
    if rounds:
        state.load(_path(run.folder, max(rounds)), digest(fed.config), clients, fed.device)
    elif since:
        logger.warning("what clients kept before round %d is gone: they begin anew", since)
    return clients


def _keep(run: _Run, clients: ClientRows, round: int, since: int) -> None:
    """Keep what the clients keep after this round, and what it started from; nothing else."""
    path = _path(run.folder, round)
    done = state.State({}, clients, round=round)
    state.prepare(done, path, digest(run.fed.config))
    state.commit(done, path)
    start = max((number for number in _rounds(run.folder) if number <= since), default=0)
    for number in _rounds(run.folder):
        if number not in (start, round):
            _path(run.folder, number).unlink()


def _rounds(folder: Path) -> list[int]:
    found = (KEPT.fullmatch(path.name) for path in folder.iterdir())
    return [int(match[1]) for match in found if match]


def _path(folder: Path, round: int) -> Path:
    return folder / f"round-{round}.safetensors"


@dataclass(frozen=True)
class _Kind:
    """A kind of message: what is said in it, and what is done."""

    said: type[Asked]
    do: Callable[..., Parcel]


KINDS = {
    "introduce": _Kind(Asked, _introduce),
    "moments": _Kind(Asked, _moments),
    "train": _Kind(AskedToTrain, _train),
    "judge": _Kind(AskedToJudge, _judge),
}

"""What a node holds: pairs of its silos, a run's features, and what clients keep of its rounds."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from fedsyn.core.payload import Payload
from fedsyn.data import federated
from fedsyn.data.federated import FederatedData, LocalData
from fedsyn.data.pairs import Pairs
from fedsyn.data.silos import ELSEWHERE, NOTHING, Silo
from fedsyn.deployment.messages import PREPROCESSING, Message, Request
from fedsyn.deployment.node.settings import NodeConfig
from fedsyn.deployment.validation import RefusedError, check
from fedsyn.federation import checkpoint, records
from fedsyn.federation.config import Config, data_settings
from fedsyn.federation.devices import available
from fedsyn.federation.federation import Federation, federation
from fedsyn.federation.runner import digest
from fedsyn.federation.store import ClientStore

logger = logging.getLogger(__name__)

FEATURES = "features.safetensors"
KEPT = re.compile(r"round-(\d+)\.safetensors")
PARTS = tuple(part.name for part in fields(Silo))
NAMES = "label_names"  # their UTF-8, a line each
NUMBERS = ("image_dim", "clients", "height", "width", "channels", "as_given")
CLIENTS = "clients"  # the group of a file of kept rows


class UnpreparedError(RefusedError):
    """The node has no features for this run."""


def local_data(node: NodeConfig, config: Config) -> LocalData:
    """The pairs of the silos that are held here; refuses to look at too few."""
    asked = data_settings(config)
    if node.data:
        files = dict(zip(node.clients, map(Path, node.data), strict=True))
        held = federated.files_of_silos(asked, files)
    else:
        held = federated.local_data(asked, node.clients, test=False)
    _check_sizes(node, held.silos)
    return held


def _check_sizes(node: NodeConfig, silos: Sequence[Silo]) -> None:
    """Refuse to say anything about few pairs."""
    for client in node.clients:
        if len(silos[client].training) < node.allow.min_pairs:
            raise RefusedError(
                f"client {client} has {len(silos[client].training)} training rows; "
                f"this node allows no answers of fewer than min_pairs = {node.allow.min_pairs}"
            )


def held(node: NodeConfig, ids: Sequence[int]) -> tuple[int, ...]:
    """These clients, if they are held here."""
    if strange := set(ids) - set(node.clients):
        raise RefusedError(f"clients {sorted(strange)} are not held here; {list(node.clients)} are")
    return tuple(sorted(ids))


# ---- A run's features ----------------------------------------------------------------------------


@dataclass(frozen=True)
class RunHoldings:
    """What a node has of a run between messages."""

    fed: Federation
    folder: Path


def run_holdings(node: NodeConfig, config: Config, said: Request, asked: Message) -> RunHoldings:
    """The run's folder and features, made where the preprocessing is sent along."""
    folder = Path(node.state) / said.run
    path = folder / FEATURES
    preprocessing = asked.group(PREPROCESSING)
    (device, *_) = found = available(config.engine.devices)
    if preprocessing:
        mine = local_data(node, config)
        check("the preprocessing", preprocessing, federated.preprocessing_like(mine))
        data = federated.finish(mine, preprocessing)
        folder.mkdir(parents=True, exist_ok=True)
        records.write_tensors(path, _stored(data, node.clients))
    if not path.exists():
        raise UnpreparedError(f"this node has no features for run {said.run}")
    data = _restored(path)
    _check_sizes(node, data.silos)
    return RunHoldings(federation(config, data, device, on_host=len(found) > 1), folder)


def _stored(data: FederatedData, clients: Sequence[int]) -> Payload:
    """Features and labels, and the rows of each client, as tensors."""
    rows = {
        f"{client}/{part}": torch.from_numpy(getattr(data.silos[client], part))
        for client in clients
        for part in PARTS
    }
    sizes = (data.image_dim, len(data.silos), *data.picture, int(data.as_given))
    numbers = {name: torch.tensor(size) for name, size in zip(NUMBERS, sizes, strict=True)}
    label = {} if data.label is None else {"label": data.label}
    more = {"features": data.features, "public": torch.from_numpy(data.public), **label}
    more[NAMES] = torch.tensor(list("\n".join(data.pairs.label_names).encode()), dtype=torch.uint8)
    return more | numbers | rows


def _restored(path: Path) -> FederatedData:
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UnpreparedError(f"{str(path)!r} cannot be read: {error}") from None
    features, public, label = found.pop("features"), found.pop("public"), found.pop("label", None)
    numbers = [int(found.pop(name)) for name in NUMBERS]
    image_dim, clients, height, width, channels, as_given = numbers
    label_names = tuple(bytes(found.pop(NAMES).tolist()).decode().splitlines())
    silos = [ELSEWHERE] * clients
    for name, rows in found.items():
        client, part = name.split("/")
        silos[int(client)] = replace(silos[int(client)], **{part: rows.numpy()})
    image, text = features[:, :image_dim].numpy(), features[:, image_dim:].numpy()
    return FederatedData(
        pairs=Pairs("features", image, text, label_names=label_names),
        features=features,
        image_dim=image_dim,
        label=label,
        silos=tuple(silos),
        test=NOTHING,
        preprocessing={},
        bytes_up=0,
        bytes_down=0,
        public=public.numpy(),
        picture=(height, width, channels),
        as_given=bool(as_given),
    )


# ---- What clients keep ---------------------------------------------------------------------------


def kept(node: NodeConfig, run: RunHoldings, since: int) -> ClientStore:
    """What the clients had kept after the round ``since``; nothing, if they took no part yet."""
    fed, ids = run.fed, sorted(node.clients)
    budget = fed.config.engine.memory << 20
    clients = ClientStore(len(ids), run.folder / records.CLIENTS, budget, fed.device, ids)
    rounds = [number for number in _rounds(run.folder) if number <= since]
    if rounds:
        groups, _ = checkpoint.read(_path(run.folder, max(rounds)), digest(fed.config))
        clients.restore(groups[CLIENTS])
    elif since:
        logger.warning("what clients kept before round %d is gone: they begin anew", since)
    return clients


def keep(run: RunHoldings, clients: ClientStore, round_number: int, since: int) -> None:
    """Keep what the clients keep after this round, and what it started from; nothing else."""
    path = _path(run.folder, round_number)
    checkpoint.save(path, digest(run.fed.config), round_number, {CLIENTS: clients.tensors()})
    checkpoint.commit(path)
    clients.saved()
    start = max((number for number in _rounds(run.folder) if number <= since), default=0)
    for number in _rounds(run.folder):
        if number not in (start, round_number):
            _path(run.folder, number).unlink()


def _rounds(folder: Path) -> list[int]:
    found = (KEPT.fullmatch(path.name) for path in folder.iterdir())
    return [int(match[1]) for match in found if match]


def _path(folder: Path, round_number: int) -> Path:
    return folder / f"round-{round_number}.safetensors"

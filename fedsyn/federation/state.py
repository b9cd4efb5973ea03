"""The state of a run between rounds, and its checkpoint: one file, replaced atomically.

Random streams hold no state (`fedsyn.streams`), so the round number stands for all of them.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fedsyn.core.payload import Payload
from fedsyn.errors import RunError
from fedsyn.federation.store import ClientRows

GROUPS = ("server", "clients", "selected", "shared", "fleet", "selection")


@dataclass
class State:
    """Everything that a round reads and writes."""

    server: Payload
    clients: ClientRows
    selected: Payload = field(default_factory=dict)  # the models of the round kept so far
    shared: Payload = field(default_factory=dict)  # what clients are sent beside the method's
    fleet: Payload = field(default_factory=dict)  # what the fleet has to know of earlier rounds
    selection: Payload = field(
        default_factory=dict
    )  # what choosing clients has learnt, on the host
    round: int = 0  # rounds done


def prepare(state: State, path: Path, digest: str) -> None:
    """Write the checkpoint beside ``path``; `commit` moves it into place.

    ``digest`` identifies the configuration, so that a run is never resumed under another one.
    """
    groups = (
        state.server, state.clients.tensors(), state.selected, state.shared, state.fleet,
        state.selection,
    )  # fmt: skip
    tensors = {
        f"{group}/{name}": value
        for group, payload in zip(GROUPS, groups, strict=True)
        for name, value in payload.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
    facts = {"round": str(state.round), "digest": digest}
    save_file({name: value.contiguous() for name, value in tensors.items()}, partial, facts)
    with partial.open("rb+") as file:
        os.fsync(file.fileno())


def commit(state: State, path: Path) -> None:
    """Let what `prepare` wrote be the checkpoint, from one moment to the next."""
    os.replace(_partial(path), path)
    state.clients.saved()


def _partial(path: Path) -> Path:
    return path.with_suffix(".partial")


def load(path: Path, digest: str, clients: ClientRows, device: torch.device) -> State:
    """Read a checkpoint; what clients kept goes to ``clients``, the rest to ``device``.

    Raises
    ------
    RunError
        If it is missing, damaged, or of another configuration.
    """
    if not path.is_file():
        raise RunError(f"{str(path)!r} does not exist; there is no run to resume")
    groups: dict[str, dict[str, Tensor]] = {group: {} for group in GROUPS}
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            for name in sorted(file.keys()):
                group, _, key = name.partition("/")
                groups[group][key] = file.get_tensor(name)
        done = int(json.loads(facts["round"]))
        if facts["digest"] != digest:
            raise RunError(
                f"checkpoint {str(path)!r} belongs to another configuration; "
                "resume with the one in config.toml"
            )
        clients.restore(groups["clients"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise RunError(f"checkpoint {str(path)!r} cannot be read: {error}") from None
    server, selected, shared, fleet = (
        {name: value.to(device) for name, value in groups[group].items()}
        for group in ("server", "selected", "shared", "fleet")
    )
    return State(server, clients, selected, shared, fleet, groups["selection"], done)

"""The state of a run between rounds, and its checkpoint: one file, replaced atomically.

Random streams hold no state (`fedsyn.streams`), so the round number stands for all of them.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fedsyn.core.payload import Payload
from fedsyn.errors import RunError
from fedsyn.federation.received import Memory

# Before the name of a part, in that of its group.
EXTENSION, RECEIVED = "extension.", "received."


@dataclass
class State:
    """Everything that the server reads and writes in a round.

    Attributes
    ----------
    server : dict of str to Tensor
        What the method's server keeps; ``server["model"] [M, P]`` are the models.
    received : mapping of str to PartMemory
        What is remembered of earlier uploads, by part.
    extensions : mapping of str to dict
        What each extension's server part keeps.
    selection : dict of str to Tensor
        What choosing clients has learnt, on the host.
    selected : dict of str to Tensor
        The models of the round kept so far.
    round_number : int
        The last round that is done; the first, round 0, is the start.
    """

    server: Payload
    received: Memory
    extensions: dict[str, Payload] = field(default_factory=dict)
    selection: Payload = field(default_factory=dict)
    selected: Payload = field(default_factory=dict)
    round_number: int = -1

    def groups(self) -> dict[str, Payload]:
        """All of it as groups of tensors."""
        return {
            "server": self.server,
            "selection": self.selection,
            "selected": self.selected,
            **{f"{EXTENSION}{name}": kept for name, kept in self.extensions.items()},
            **{f"{RECEIVED}{name}": one.tensors() for name, one in self.received.items()},
        }

    def saved(self) -> None:
        """The checkpoint is in its place."""
        for one in self.received.values():
            if one.library is not None:
                one.library.saved()


def load(path: Path, digest: str, received: Memory, device: torch.device) -> tuple[State, Payload]:
    """The state of a run, and what its fleet has to know of earlier rounds.

    Parameters
    ----------
    path : Path
    digest : str
        Of the run's configuration.
    received : mapping of str to PartMemory
        Where what clients have uploaded goes; the rest goes to ``device``.
    device : torch.device

    Raises
    ------
    RunError
        If the checkpoint is missing, damaged, or of another configuration.
    """
    groups, done = read(path, digest)
    for name, one in received.items():
        one.restore(groups.get(f"{RECEIVED}{name}", {}))

    def there(group: str) -> Payload:
        return {name: value.to(device) for name, value in groups.get(group, {}).items()}

    state = State(
        there("server"),
        received,
        {
            name.removeprefix(EXTENSION): there(name)
            for name in groups
            if name.startswith(EXTENSION)
        },
        groups.get("selection", {}),
        there("selected"),
        done,
    )
    return state, groups.get("fleet", {})


def save(path: Path, digest: str, round_number: int, groups: Mapping[str, Payload]) -> None:
    """Write groups of tensors beside ``path``; `commit` moves them into place.

    ``digest`` identifies the configuration, so that a run is never resumed under another one.
    """
    tensors = {
        f"{group}/{name}": value.contiguous()
        for group, payload in groups.items()
        for name, value in payload.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
    save_file(tensors, partial, {"round": str(round_number), "digest": digest})
    with partial.open("rb+") as file:
        os.fsync(file.fileno())


def commit(path: Path) -> None:
    """Let what `save` wrote be the checkpoint, from one moment to the next."""
    os.replace(_partial(path), path)


def _partial(path: Path) -> Path:
    return path.with_suffix(".partial")


def check(path: Path, digest: str) -> int:
    """The round after which a checkpoint was written, without its tensors being read.

    Raises
    ------
    RunError
        If it is missing, damaged, or of another configuration.
    """
    if not path.is_file():
        raise RunError(f"{str(path)!r} does not exist; there is no run to resume")
    with _opened(path) as file:
        facts = file.metadata() or {}
        done = int(json.loads(facts["round"]))
        if facts["digest"] != digest:
            raise RunError(
                f"checkpoint {str(path)!r} belongs to another configuration; "
                "resume with the one in config.toml"
            )
    return done


def read(path: Path, digest: str) -> tuple[dict[str, Payload], int]:
    """The groups of tensors of a checkpoint, and its round; raises `RunError` as `check` does."""
    done = check(path, digest)
    groups: dict[str, dict[str, Tensor]] = {}
    with _opened(path) as file:
        for name in sorted(file.keys()):
            group, _, key = name.partition("/")
            groups.setdefault(group, {})[key] = file.get_tensor(name)
    return groups, done


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except RunError:
        raise
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise RunError(f"checkpoint {str(path)!r} cannot be read: {error}") from None

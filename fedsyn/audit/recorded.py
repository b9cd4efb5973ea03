"""What the server of a run received, from ``uploads/round-N.safetensors``.

Names there are ``who/part/kind/name``; ``who`` is a client, or several whose sums were added up
before they were sent: ``3`` or ``0+1+2``. See `fedsyn.core.wire` for the kinds.
"""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fedsyn.audit.attack import Key
from fedsyn.audit.totals import Arrived, Total
from fedsyn.core.wire import ONCE, OWN, OWN_WEIGHTS, SUMS, WEIGHTS, received
from fedsyn.errors import RunError
from fedsyn.federation.records import UPLOADS

BESIDE = {SUMS: WEIGHTS, OWN: OWN_WEIGHTS}  # the kind of a tensor's weights, by its own
Name = tuple[str, str, str]  # part, kind and name of a tensor


@dataclass(frozen=True)
class Message:
    """What came in one piece.

    Attributes
    ----------
    ids : tuple of int
        The clients that it is of.
    keys : mapping of (part, kind, name) to str
        Names of its tensors in the file.
    """

    ids: tuple[int, ...]
    keys: Mapping[Name, str]


@dataclass(frozen=True)
class Recorded:
    """The recorded uploads of a run.

    Attributes
    ----------
    files : mapping of int to Path
        By round, ascending.
    messages : mapping of int to tuple of Message
        What came in each of them, in client order.
    made : mapping of (part, name) to tuple of Total
        Sums that were sent before the first round and were not recorded, made again.
    """

    files: Mapping[int, Path]
    messages: Mapping[int, tuple[Message, ...]]
    made: Mapping[Key, Arrived] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Path) -> "Recorded":
        """Of the run in a directory.

        Raises
        ------
        RunError
            If it has none, or a file cannot be read.
        """
        found = {
            int(match[1]): path
            for path in (run / UPLOADS).glob("round-*.safetensors")
            if (match := re.fullmatch(r"round-(\d+)\.safetensors", path.name))
        }
        if not found:
            raise RunError(
                f"{str(run)!r} has no recorded uploads to audit; train it again with "
                "run.record_uploads=true"
            )
        files = dict(sorted(found.items()))
        return cls(files, {number: _messages(path) for number, path in files.items()})

    @property
    def ids(self) -> tuple[int, ...]:
        """The clients that were heard, ascending."""
        every = (one.ids for messages in self.messages.values() for one in messages)
        return tuple(sorted({client for ids in every for client in ids}))

    @property
    def senders(self) -> dict[int, tuple[int, ...]]:
        """Of each client that was heard those in whose message it came first."""
        found: dict[int, tuple[int, ...]] = {}
        for messages in self.messages.values():
            for one in messages:
                found |= {client: one.ids for client in one.ids if client not in found}
        return found

    @property
    def begins(self) -> bool:
        """Whether the first round is among them."""
        return 1 in self.files

    @property
    def names(self) -> tuple[Name, ...]:
        """All that was received but weights: part, kind without ``once-``, and name."""
        every = {(part, SUMS, name) for part, name in self.made} | {
            (part, kind.removeprefix(ONCE), name)
            for messages in self.messages.values()
            for one in messages
            for part, kind, name in one.keys
        }
        return tuple(sorted(name for name in every if name[1] in BESIDE))

    def size(self, name: Name) -> int:
        """How many numbers came under one of the `names`, for each client of a message."""
        part, kind, own = name
        if (part, own) in self.made:
            return self.made[part, own][0].value.numel()
        places = ((part, kind, own), (part, f"{ONCE}{kind}", own))
        found = (
            (self.files[number], one.keys[place], len(one.ids))
            for number, messages in self.messages.items()
            for one in messages
            for place in places
            if place in one.keys
        )
        path, key, clients = next(found)
        with _opened(path) as file:
            shape: list[int] = file.get_slice(key).get_shape()
        return math.prod(shape) // clients

    def totals(self, part: str, name: str) -> Iterator[Arrived]:
        """A sum in each round in which it was received.

        Raises
        ------
        RunError
            If a file does not hold it as it should.
        """
        if (part, name) in self.made:
            yield self.made[part, name]
        for number, path in self.files.items():
            with _opened(path) as file:
                found = [
                    total
                    for message in self.messages[number]
                    for total in _totals(file, number, message, part, name)
                ]
            if found:
                yield tuple(found)

    def own(self, part: str) -> dict[int, dict[str, Tensor]]:
        """The last of what each client has sent of its own: every tensor without a client axis.

        Raises
        ------
        RunError
            If a file does not hold it as it should.
        """
        known: dict[int, dict[str, Tensor]] = {}
        for number, path in self.files.items():
            with _opened(path) as file:
                for message in self.messages[number]:
                    mine = {key[1:]: key for key in message.keys if key[0] == part}
                    if not mine:
                        continue
                    new = [client for client in message.ids if client not in known]
                    known |= {client: {} for client in new}
                    for kind, name in mine:
                        if kind.removeprefix(ONCE) != OWN:
                            continue
                        ids = new if kind.startswith(ONCE) else message.ids
                        rows = file.get_tensor(message.keys[part, kind, name])
                        for client, row in zip(ids, rows, strict=True):
                            known[client][name] = received(row)
        return known


def _messages(path: Path) -> tuple[Message, ...]:
    found: dict[tuple[int, ...], dict[Name, str]] = {}
    with _opened(path) as file:
        for key in file.keys():  # noqa: SIM118 - it is no mapping
            who, *names = key.split("/", 3)
            ids = tuple(map(int, who.split("+")))
            message = found.setdefault(ids, {})
            if len(names) == 3:  # reports have no kind
                message[names[0], names[1], names[2]] = key
    return tuple(Message(ids, found[ids]) for ids in sorted(found))


def _totals(file: Any, number: int, message: Message, part: str, name: str) -> Iterator[Total]:
    for kind, beside in BESIDE.items():
        for once in ("", ONCE):
            key = message.keys.get((part, f"{once}{kind}", name))
            mass = message.keys.get((part, f"{once}{beside}", name))
            if key is None:
                continue
            value = received(file.get_tensor(key)).double()
            without = torch.ones(len(value) if kind == OWN else ())
            weight = without if mass is None else file.get_tensor(mass).double()
            if weight.dim() == 0:  # added up before it was sent
                yield Total(number, frozenset(message.ids), value, float(weight))
                continue
            ids = message.ids if len(value) == len(message.ids) else ()
            for client, x, w in zip(ids, value, weight.tolist(), strict=True):
                yield Total(number, frozenset([client]), w * x, w, own=kind == OWN)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A file of tensors; whatever is wrong in it is said of it."""
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{str(path)!r} is not what a run records, or is damaged: {error}") from None

"""What the server has received: of each part in this round, and what of it is remembered.

A `Reception` is the server's end of the wire, in one process as over nodes: what arrives is added
up or kept, counted and, with ``run.record_uploads``, recorded as it came.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from fedsyn.core.payload import Payload, named, nbytes, part_of
from fedsyn.core.wire import NOBODY, Intake, Library, Uploads, client_of, received
from fedsyn.errors import RunError
from fedsyn.federation.records import write_tensors
from fedsyn.federation.store import ClientStore

REPORT = "report"  # the part that says what clients have done
PAIRS, SIZES, LOSS = "pairs", "sizes", "loss."
HEARD, TOTALS, LIBRARY = "heard", "totals", "library"  # in a checkpoint


@dataclass
class PartMemory:
    """What the server remembers of one part.

    Attributes
    ----------
    heard : Tensor of shape [clients] bool
        Who has sent it.
    totals : dict of str to Tensor
        Sums of what is sent once, over all of them.
    library : ClientStore, optional
        The last of what each has sent of its own, where that is remembered.
    """

    heard: Tensor
    totals: Payload = field(default_factory=dict)
    library: ClientStore | None = None

    def tensors(self) -> Payload:
        """What a checkpoint holds of this memory."""
        held = {} if self.library is None else self.library.tensors()
        return {HEARD: self.heard, **named(TOTALS, self.totals), **named(LIBRARY, held)}

    def restore(self, tensors: Payload) -> None:
        """Go on from what `tensors` gave; raises `RunError` if it is not that."""
        try:
            self.heard = tensors[HEARD]
            self.totals = part_of(tensors, TOTALS)
            if self.library is not None:
                self.library.restore(part_of(tensors, LIBRARY))
        except KeyError as error:
            raise RunError(f"a checkpoint lacks {error} of what clients have sent") from None

    def read(self) -> Library:
        """The last of what every client has sent of its own."""
        store = self.library
        if store is None:
            return NOBODY

        def take(ids: Sequence[int], names: Sequence[str]) -> Payload:
            return {name: received(value) for name, value in store.take(ids, names).items()}

        return Library(tuple(store.known.tolist()), take)


Memory = dict[str, PartMemory]


@dataclass(frozen=True)
class Report:
    """What clients say of their round, beside what they upload.

    Attributes
    ----------
    pairs : Tensor of shape [C] long
        Training pairs that each holds.
    sizes : Tensor of shape [C] long
        Pairs that each has trained on.
    losses : mapping of str to Tensor of shape [C]
    """

    pairs: Tensor
    sizes: Tensor
    losses: Mapping[str, Tensor]

    def sent(self) -> Payload:
        """The report in the form in which it travels."""
        losses = {f"{LOSS}{name}": value.cpu() for name, value in self.losses.items()}
        return {PAIRS: self.pairs, SIZES: self.sizes, **losses}

    @classmethod
    def read(cls, sent: Sequence[Payload]) -> "Report":
        """Of all clients, in the order in which they were heard."""
        nothing = torch.empty(0, dtype=torch.long)
        names = sent[0] if sent else {PAIRS: nothing, SIZES: nothing}
        whole = {
            name: torch.cat([one[name] for one in sent]) if sent else nothing for name in names
        }
        losses = {k.removeprefix(LOSS): v for k, v in whole.items() if k.startswith(LOSS)}
        return cls(whole[PAIRS], whole[SIZES], losses)


# What travels of some clients in a round, by part: uploads, and a report.
Message = Mapping[str, Payload]


class Reception:
    """Takes in what clients send in one round.

    Parameters
    ----------
    memory : dict of str to PartMemory
        Brought up to date.
    record : Path, optional
        The file that what arrives is written to.
    """

    def __init__(self, memory: Memory, record: Path | None = None) -> None:
        self._memory, self._record = memory, record
        self._intakes = {
            part: Intake(own.totals, kept=own.library is not None) for part, own in memory.items()
        }
        self._reports: list[Payload] = []
        self._recorded: Payload = {}
        self.ids: list[int] = []
        self.bytes = 0

    def take(self, ids: Sequence[int], message: Message, together: bool = False) -> None:
        """What these clients have sent, each by itself or, ``together``, with sums added up."""
        self.ids.extend(ids)
        self.bytes += sum(map(nbytes, message.values()))
        if self._record is not None:
            self._keep_record(ids, message, together)
        self._reports.append(message[REPORT])
        for part, memory in self._memory.items():
            if part not in message:
                continue
            every, first = self._intakes[part].take(ids, message[part])
            new = self.new(part, ids)
            memory.heard.numpy()[list(ids)] = True
            if memory.library is None or not (every or first):
                continue
            begun = [client for client, is_new in zip(ids, new.tolist(), strict=True) if is_new]
            if begun:
                rows = {name: value[new.to(value.device)] for name, value in every.items()}
                memory.library.put(begun, rows | first)
            if every and len(begun) < len(ids):
                memory.library.put(ids, every)

    def new(self, part: str, ids: Sequence[int]) -> Tensor:
        """Those of these clients from whom nothing of a part has come yet, bool ``[C]``."""
        return torch.from_numpy(~self._memory[part].heard.numpy()[list(ids)])

    def _keep_record(self, ids: Sequence[int], message: Message, together: bool) -> None:
        """By client; what several have sent together, under all their ids."""
        for part, sent in message.items():
            new = self.new(part, ids) if part in self._memory else torch.zeros(len(ids)).bool()
            if together:
                senders = {"+".join(map(str, ids)): dict(sent)}
            else:
                senders = {
                    str(client): client_of(dict(sent), at, new) for at, client in enumerate(ids)
                }
            for who, rows in senders.items():
                for name, value in rows.items():
                    self._recorded[f"{who}/{part}/{name}"] = value.clone()

    def close(self) -> None:
        """Write the record, where there is one."""
        if self._record is not None:
            self._record.parent.mkdir(parents=True, exist_ok=True)
            write_tensors(self._record, self._recorded)

    def uploads(self) -> dict[str, Uploads]:
        """What each part has been sent."""
        return {
            part: self._intakes[part].uploads(memory.read())
            for part, memory in self._memory.items()
        }

    @property
    def report(self) -> Report:
        """What all clients say of their round."""
        return Report.read(self._reports)

"""Rows of tensors by client: in memory or, beyond a budget, in a file.

What clients keep between rounds is such a store, and what the server has received from each. A row
appears when its client first takes part. In the file every client has two places: a round writes to
the one that the last checkpoint does not refer to, so that a crash at any moment leaves the
checkpoint's rows as they were.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fedsyn.core.payload import Payload, named, part_of
from fedsyn.federation.rowfile import RowFile

NOWHERE = -1  # the place of a client without a row
ROWS = "rows"  # in a checkpoint


class ClientStore:
    """Rows of up to ``clients`` clients, by client id.

    Parameters
    ----------
    clients : int
    path : Path
        The file that is made, should the rows of all clients take more than ``budget`` bytes.
    budget : int
    device : torch.device
        Where rows are handed out, and held while in memory.
    ids : sequence of int, optional
        The clients' ids, ascending; by default the numbers below ``clients``.
    """

    def __init__(
        self,
        clients: int,
        path: Path,
        budget: int,
        device: torch.device,
        ids: Sequence[int] | None = None,
    ) -> None:
        self._path, self._budget, self._device = path, budget, device
        self._ids = None if ids is None else torch.tensor(ids, dtype=torch.long)
        self._place = torch.full((clients,), NOWHERE, dtype=torch.int8)
        self._saved = self._place.clone()  # the places that the last checkpoint refers to
        self._memory: Payload = {}  # [clients, ...]
        self._file: RowFile | None = None

    @property
    def known(self) -> Tensor:
        """Ids of the clients that have a row, ascending."""
        rows = (self._place != NOWHERE).nonzero().squeeze(-1)
        return rows if self._ids is None else self._ids[rows]

    @property
    def names(self) -> tuple[str, ...]:
        """What a row consists of; nothing before the first."""
        return tuple(self._memory) if self._file is None else tuple(self._file.kinds)

    def has(self, ids: Sequence[int]) -> Tensor:
        """Whether each of these clients has a row, bool ``[C]``."""
        return self._place[self._rows(ids)] != NOWHERE

    def take(self, ids: Sequence[int], names: Sequence[str] = ()) -> Payload:
        """Copies of the rows of these clients, stacked; of these names, or of all."""
        mine = self._rows(ids)
        if self._file is not None:
            file, places = self._file, self._place[mine].tolist()
            return {
                name: file.read(name, places, mine).to(self._device) for name in names or self.names
            }
        at = torch.tensor(mine, dtype=torch.long, device=self._device)
        return {name: self._memory[name].index_select(0, at) for name in names or self.names}

    def put(self, ids: Sequence[int], rows: Payload) -> None:
        """Keep the rows of these clients; what there is no name of in ``rows`` stays as it is."""
        if not self.names:
            self._allocate(rows)
        mine = self._rows(ids)
        if self._file is not None:
            self._write(self._file, mine, rows)
            return
        at = torch.tensor(mine, dtype=torch.long, device=self._device)
        for name, value in rows.items():
            held = self._memory[name]
            held.index_copy_(0, at, value.to(held))
        self._place[mine] = 0

    def _write(self, file: RowFile, mine: list[int], rows: Payload) -> None:
        before = self._place[mine]
        place = (self._saved[mine] == 0).to(torch.int8)
        for name, value in rows.items():
            file.write(name, place.tolist(), mine, value.cpu())
        moved = ((before != NOWHERE) & (before != place)).nonzero().squeeze(-1).tolist()
        for name in file.kinds.keys() - rows.keys() if moved else ():
            old = [mine[at] for at in moved]
            value = file.read(name, before[moved].tolist(), old)
            file.write(name, place[moved].tolist(), old, value)
        self._place[mine] = place

    def _rows(self, ids: Sequence[int]) -> list[int]:
        """The rows of these clients."""
        if self._ids is None:
            return list(ids)
        return torch.searchsorted(self._ids, torch.tensor(ids, dtype=torch.long)).tolist()

    def _allocate(self, rows: Payload) -> None:
        clients = len(self._place)
        size = sum(v[0].numel() * v.element_size() for v in rows.values())
        if clients * size > self._budget:
            kinds = {name: (v.dtype, (2, clients, *v.shape[1:])) for name, v in rows.items()}
            self._file = RowFile.create(self._path, kinds)
            return
        for name, value in rows.items():
            shape = (clients, *value.shape[1:])
            self._memory[name] = torch.zeros(shape, dtype=value.dtype, device=self._device)

    # ---- Checkpoints -------------------------------------------------------------------------

    def tensors(self) -> Payload:
        """What a checkpoint holds: the rows that are in memory, and where those in the file are."""
        if self._file is not None:
            self._file.flush()
        return {"place": self._place, **named(ROWS, self._memory)}

    def saved(self) -> None:
        """The checkpoint is in its place: the rows that it does not refer to may go."""
        self._saved = self._place.clone()

    def restore(self, tensors: Payload) -> None:
        """Go on from what `tensors` gave.

        Raises
        ------
        KeyError
            If it is not that.
        RunError
            If the file is missing or damaged.
        """
        self._place = tensors["place"]
        held = part_of(tensors, ROWS)
        self._memory = {name: value.to(self._device) for name, value in held.items()}
        if not self._memory and len(self.known):
            self._file = RowFile(self._path)
        self.saved()

"""What the server knows of where a client's pairs lie, by what synthesis sends.

Prototypes are each client's own, or the centres of clusters of all clients' pairs, which are found
by sums. Directions, in which pairs scatter about them, are a client's own, or those of a sum. Where
nothing is sent client by client, what the server makes of sums over all stands in its place: it is
all that there is of synthesis. An attack by a sum of one client alone is an attack on that sum.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fedsyn.audit.attack import BOTH, Key, Of, View
from fedsyn.audit.recorded import Recorded
from fedsyn.audit.totals import Total, together
from fedsyn.core.payload import Payload
from fedsyn.core.wire import Uploads
from fedsyn.data.moments import SECOND
from fedsyn.errors import RunError
from fedsyn.federation.local import MOMENTS
from fedsyn.synthesis import clusters
from fedsyn.synthesis.clusters import COUNTS, MEMBERS, NUMBERS, PROTOTYPES
from fedsyn.synthesis.directions import BASIS, SCATTER, pooled_basis


@dataclass(frozen=True)
class Prior:
    """Of one client.

    Attributes
    ----------
    prototypes : Tensor of shape [M, D]
    counts : Tensor of shape [M]
        Pairs behind each, positive.
    basis : Tensor of shape [r, D]
        Directions times standard deviations; clients that share them share the tensor.
    """

    prototypes: Tensor
    counts: Tensor
    basis: Tensor


@dataclass(frozen=True)
class Known:
    """What is known of clients from one source.

    Attributes
    ----------
    how : str
        What a table says of it, behind the name of an attack.
    of : {"own", "sum"}
    views : tuple of {"raw", "sums"}
    clients : mapping of int to Prior
    on : frozenset of (str, str)
        What was looked at.
    prototypes : bool
        Whether its prototypes are no other source's.
    """

    how: str
    of: Of
    views: tuple[View, ...]
    clients: Mapping[int, Prior]
    on: frozenset[Key]
    prototypes: bool = True


@dataclass(frozen=True)
class Source:
    """What was received of synthesis.

    Attributes
    ----------
    recorded : Recorded
    part : str
        What it was received as.
    config : SynthesisConfig
    width : int
        Numbers of a pair.
    seed : int
        The run's.
    fraction : float
        Share of the clients that do a round.
    """

    recorded: Recorded
    part: str
    config: Any
    width: int
    seed: int
    fraction: float

    @property
    def moments(self) -> Payload:
        """The moments of all clients' pairs, added up."""
        names = [name for part, _, name in self.recorded.names if part == MOMENTS]
        return {
            name: together(arrived).value
            for name in names
            for arrived in self.recorded.totals(MOMENTS, name)
        }

    def known(self) -> Iterator[Known]:
        """From each source that there is, what the server samples from first."""
        if self.config.clusters == "all":
            yield from self._of_all()
        else:
            yield from self._of_each()

    def own(self) -> dict[int, Payload]:
        """What clients have sent of their own, all of it."""
        return self.recorded.own(self.part)

    def _keys(self, *names: str) -> frozenset[Key]:
        return frozenset((self.part, name) for name in names)

    # ---- Each client's own -----------------------------------------------------------------------

    def _of_each(self) -> Iterator[Known]:
        own = {client: mine for client, mine in self.own().items() if _any(mine)}
        for client, mine in own.items():
            if mine[PROTOTYPES].shape != (len(mine[COUNTS]), self.width):
                raise RunError(
                    f"the recorded prototypes of client {client} are "
                    f"{list(mine[PROTOTYPES].shape)}, expected [{len(mine[COUNTS])}, {self.width}]"
                    ": the record is damaged, or of other data"
                )
        none = torch.zeros(1, self.width)
        bases = {client: mine[BASIS] for client, mine in own.items() if BASIS in mine}
        arrived = list(self.recorded.totals(self.part, SCATTER))
        rounds = [together(each) for each in arrived]
        single = [one for each in arrived for one in each if len(one.ids) == 1]
        pooled = self._bases(one for one in rounds if len(one.ids) > 1) | bases
        on = self._keys(PROTOTYPES, COUNTS, BASIS, SCATTER)
        plain = {client: _prior(mine, pooled.get(client, none)) for client, mine in own.items()}
        yield Known("", "own", BOTH, plain, on)
        lone = [one for one in rounds if len(one.ids) == 1]
        views: tuple[tuple[View, list[Total]], ...] = (("raw", single), ("sums", lone))
        for view, totals in views:
            found = self._bases(totals)
            priors = {client: replace(plain[client], basis=found[client])
                      for client in plain if client in found}  # fmt: skip
            yield Known(", own scatter", "sum", (view,), priors, on, prototypes=False)

    def _bases(self, totals: Iterable[Total]) -> dict[int, Tensor]:
        """The directions of sums of scatter, by the clients that they are of."""
        found: dict[int, Tensor] = {}
        for one in totals:
            weight = torch.tensor(one.weight, dtype=torch.float64)
            uploads = Uploads(tuple(sorted(one.ids)), {SCATTER: one.value}, {SCATTER: weight})
            basis = pooled_basis(uploads, {}, self.width, self.config.noise, self.seed).get(BASIS)
            if basis is not None:
                found |= dict.fromkeys(one.ids, basis)
        return found

    # ---- All clients' ----------------------------------------------------------------------------

    def _of_all(self) -> Iterator[Known]:
        moments = self.moments
        if not moments:
            return
        state = clusters.begin(moments, self.config, self.seed)
        members = list(self.recorded.totals(self.part, MEMBERS))
        numbers = list(self.recorded.totals(self.part, NUMBERS))
        for sums, counts in zip(members, numbers, strict=True):
            total, number = together(sums), together(counts)
            weight = torch.tensor(total.weight, dtype=torch.float64)
            uploads = Uploads(
                tuple(sorted(total.ids)), {MEMBERS: total.value, NUMBERS: number.value},
                {MEMBERS: weight, NUMBERS: weight},
            )  # fmt: skip
            state = clusters.update(state, uploads, self.config, self.fraction)
        whole = clusters.known(state)
        on = self._keys(MEMBERS, NUMBERS, COUNTS) | {(MOMENTS, SECOND)}
        own, priors = self.own(), {}
        for client in self.recorded.ids:
            mine = whole | {k: v for k, v in own.get(client, {}).items() if k == COUNTS}
            if _any(mine):
                priors[client] = _prior(mine, state[BASIS])
        yield Known("", "own", BOTH, priors, on)
        single: dict[int, Prior] = {}
        for sums, counts in zip(members, numbers, strict=True):
            for one, number in zip(sums, counts, strict=True):
                if len(one.ids) > 1 or not number.value.any():
                    continue
                (client,) = one.ids
                single[client] = _means(one.value, number.value, state[BASIS])
        yield Known(", own clusters", "sum", ("raw",), single, on)


def _any(mine: Payload) -> bool:
    return PROTOTYPES in mine and COUNTS in mine and bool((mine[COUNTS] > 0).any())


def _prior(mine: Payload, basis: Tensor) -> Prior:
    alive = mine[COUNTS] > 0
    return Prior(mine[PROTOTYPES][alive].double(), mine[COUNTS][alive].double(), basis)


def _means(members: Tensor, numbers: Tensor, basis: Tensor) -> Prior:
    alive = numbers > 0
    return Prior(members[alive] / numbers[alive, None], numbers[alive], basis)

"""What travels from clients to the server, and what may be done with it.

Everything that a client sends has a kind. A **sum** is only ever read added up over clients: it can
be added up on a node, masked, clipped and noised without whoever made it knowing. What is a
client's **own** the server looks at client by client. Either is sent in every round, or **once**,
in a client's first upload.

`send` gives an upload the form in which it travels, casts included; whoever counts bytes counts
that. On the server an `Intake` takes in what arrives, in client order, and makes `Uploads` of it:
all that the server reads. In a cohort everything is stacked ``[C, ...]``; sums are added up one
client after another in float64, so that they do not depend on how clients were stacked.

The method has an upload, and so has each extension: each is a *part* of what a client sends.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedsyn.core.payload import Payload, part_of

# Before the names of what travels: kind/name.
SUMS, WEIGHTS, OWN, OWN_WEIGHTS = "sums", "weights", "own", "own-weights"
ONCE = "once-"  # before a kind


@dataclass(frozen=True)
class Sum:
    """Σ w_k x_k over clients, before it is added up.

    Attributes
    ----------
    value : Tensor of shape [C, ...]
        x_k.
    weight : Tensor of shape [C]
        w_k, float64; finite and not negative.
    weighted : bool
        Whether the weight is by how much a client counts (``method.weighting``), which may be
        changed; if not, it says whether a client takes part in this sum.
    """

    value: Tensor
    weight: Tensor
    weighted: bool = True


@dataclass(frozen=True)
class Upload:
    """What the clients of a chunk send of one part in a round.

    Attributes
    ----------
    sums : mapping of str to Sum
        What is only ever read added up.
    own : mapping of str to Tensor of shape [C, ...]
        What the server looks at client by client.
    once : collection of str
        Names of either that a client sends in its first upload alone.
    half : collection of str
        Names of either that travel as float16.
    """

    sums: Mapping[str, Sum] = field(default_factory=dict)
    own: Payload = field(default_factory=dict)
    once: frozenset[str] = frozenset()
    half: frozenset[str] = frozenset()


def halved(value: Tensor) -> Tensor:
    """Floating-point numbers as float16, in their own type: as they are after such a travel."""
    return value.half().to(value) if value.is_floating_point() else value


def received(value: Tensor) -> Tensor:
    """A tensor as whoever reads it has it: half precision is a form of travel."""
    return value.float() if value.dtype == torch.float16 else value


def send(upload: Upload, new: Tensor, exposed: Collection[str] = ()) -> Payload:
    """An upload in the form in which it travels: flat, by names ``kind/name``.

    Parameters
    ----------
    upload : Upload
        Of C clients.
    new : Tensor of shape [C] bool
        Clients of whom the server has nothing yet: they alone send what is sent once.
    exposed : collection of str
        Sums that somebody reads client by client: they travel as what they then are, a client's
        own.

    Returns
    -------
    dict of str to Tensor
        Every tensor ``[C, ...]``; of what is sent once ``[number of new clients, ...]``, and
        nothing where there are none.
    """
    sent: Payload = {}

    def put(kind: str, name: str, value: Tensor) -> None:
        if name not in upload.once:
            sent[f"{kind}/{name}"] = value
        elif new.any():
            sent[f"{ONCE}{kind}/{name}"] = value[new.to(value.device)]

    for name, one in upload.sums.items():
        own = name in exposed
        put(OWN if own else SUMS, name, _cast(one.value, name, upload))
        put(OWN_WEIGHTS if own else WEIGHTS, name, one.weight)
    for name, value in upload.own.items():
        put(OWN, name, _cast(value, name, upload))
    return sent


def _cast(value: Tensor, name: str, upload: Upload) -> Tensor:
    return value.half() if name in upload.half and value.is_floating_point() else value


def client_of(sent: Payload, place: int, new: Tensor) -> Payload:
    """What one of the clients has sent, that at ``place``: every tensor ``[1, ...]``."""
    before = int(new[:place].sum())
    rows = {}
    for name, value in sent.items():
        if not name.startswith(ONCE):
            rows[name] = value[place : place + 1]
        elif new[place]:
            rows[name] = value[before : before + 1]
    return rows


class Joined:
    """One message of several clients, whose chunks come one after another.

    Their sums are added up, and lose the client axis: float64, as their weights. What is a client's
    own keeps a row for each.
    """

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Tensor, Tensor]] = {}
        self._rows: dict[str, list[Tensor]] = {}

    def take(self, sent: Payload) -> None:
        """What the clients of the next chunk have sent."""
        for name, value in sent.items():
            once, kind, plain = _parts(name)
            if kind == SUMS:
                weight = sent[f"{once}{WEIGHTS}/{plain}"]
                self._sums[name] = add_up(self._sums.get(name), value, weight)
            elif kind != WEIGHTS:
                self._rows.setdefault(name, []).append(value)

    @property
    def payload(self) -> Payload:
        """All that was taken, as one message."""
        joined = {name: torch.cat(rows) for name, rows in self._rows.items()}
        for name, (total, mass) in self._sums.items():
            once, _, plain = _parts(name)
            joined |= {name: total, f"{once}{WEIGHTS}/{plain}": mass}
        return joined


def form_of(sent: Payload, clients: int, new: int, together: bool) -> Payload:
    """Tensors without values (on torch's meta device) like what so many clients send.

    Parameters
    ----------
    sent : dict of str to Tensor
        What one client sends that is new: every tensor ``[1, ...]``.
    clients, new : int
        How many there are, and how many of them are new.
    together : bool
        Whether their sums are added up.
    """
    form: Payload = {}
    for name, value in sent.items():
        once, kind, _ = _parts(name)
        count, dtype = new if once else clients, value.dtype
        shape: tuple[int, ...] = (count, *value.shape[1:])
        if together and kind in (SUMS, WEIGHTS):
            shape, dtype = tuple(value.shape[1:]), torch.float64
        if count:
            form[name] = torch.empty(shape, dtype=dtype, device="meta")
    return form


def add_up(
    sums: tuple[Tensor, Tensor] | None, value: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Σ w x and Σ w, in float64: of these clients, one after another, and of those before.

    Parameters
    ----------
    sums : pair of Tensor, optional
        Of the clients before; changed in place.
    value : Tensor of shape [C, ...]
    weight : Tensor of shape [C]

    Raises
    ------
    ValueError
        If a weight is negative or not finite.
    """
    # (Plain numbers where they do: next to busy threads every small tensor waits for its turn.)
    shares = weight.tolist()
    if not all(math.isfinite(share) and share >= 0 for share in shares):
        raise ValueError(f"expected weights that are finite and >= 0, got {shares}")
    if sums is None:
        like = torch.zeros_like(value[0], dtype=torch.float64)
        sums = like, torch.zeros((), dtype=torch.float64)
    total, known = sums
    mass = float(known)
    for row, share in zip(value, shares, strict=True):
        if share:  # what a client without a say sends may be anything
            total.add_(row, alpha=share)
        mass += share
    return total, torch.tensor(mass, dtype=torch.float64)


def _parts(name: str) -> tuple[str, str, str]:
    """Whether it is sent once (the prefix, or nothing), its kind and its own name."""
    kind, _, plain = name.partition("/")
    once = ONCE if kind.startswith(ONCE) else ""
    return once, kind.removeprefix(ONCE), plain


@dataclass(frozen=True)
class Library:
    """The last of what every client has sent of its own."""

    ids: tuple[int, ...]
    take: Callable[[Sequence[int], Sequence[str]], Payload]  # stacked rows of clients, by name

    def only(self, ids: Collection[int]) -> "Library":
        """The library of these clients alone."""
        wanted = frozenset(ids)
        return Library(tuple(client for client in self.ids if client in wanted), self.take)


NOBODY = Library((), lambda ids, names: {})


@dataclass(frozen=True)
class _Kept(Mapping[str, Tensor]):
    """What clients have sent of their own in this round, read from a library when asked for."""

    library: Library
    ids: tuple[int, ...]
    names: tuple[str, ...]

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.names:
            raise KeyError(name)
        return self.library.take(self.ids, (name,))[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Uploads:
    """All that the server reads of one part in a round.

    Attributes
    ----------
    ids : tuple of int
        Clients that were heard in this round, ascending.
    sums : mapping of str to Tensor
        Σ w_k x_k over them, float64; of what is sent once, over all clients heard so far.
    weights : mapping of str to Tensor
        Σ w_k of each sum, float64.
    own : mapping of str to Tensor of shape [C, ...]
        What the clients ``ids`` have sent of their own in this round, in that order.
    library : Library
        The last of what every client has sent of its own, of an extension's part.
    """

    ids: tuple[int, ...] = ()
    sums: Payload = field(default_factory=dict)
    weights: Payload = field(default_factory=dict)
    own: Mapping[str, Tensor] = field(default_factory=dict)
    library: Library = NOBODY

    def weight(self, name: str) -> float:
        """Σ w_k of a sum; 0 where nobody was heard."""
        return float(self.weights[name]) if name in self.weights else 0.0

    def mean(self, name: str) -> Tensor:
        """Σ w_k x_k / Σ w_k in float64; the mean of identical tensors is that tensor.

        Raises
        ------
        ValueError
            If the weights add up to zero.
        """
        weight = self.weight(name)
        if weight == 0:
            raise ValueError(f"expected weights of {name!r} with a positive sum, got 0")
        return self.sums[name] / weight


class Intake:
    """Takes in what clients have sent of one part in a round, in client order.

    Memory does not grow with the number of clients but for what is their own, and not for that
    where the caller keeps it.

    Parameters
    ----------
    totals : dict of str to Tensor
        Sums of what is sent once, over all clients heard in earlier rounds, by ``sums/name`` and
        ``weights/name``; brought up to date.
    kept : bool
        Whether the caller puts what is the clients' own into a library.
    """

    def __init__(self, totals: Payload, kept: bool = False) -> None:
        self._totals, self._kept = totals, kept
        self._ids: list[int] = []
        self._sums: dict[str, tuple[Tensor, Tensor]] = {}
        self._own: dict[str, list[Tensor]] = {}

    def take(self, ids: Sequence[int], sent: Payload) -> tuple[Payload, Payload]:
        """What these clients have sent, sums client by client or added up.

        Returns what is their own ``[C, ...]``, and what of it was sent once, which has a row for
        each of those that were new.
        """
        self._ids.extend(ids)
        every: Payload = {}
        first: Payload = {}
        for name, value in sent.items():
            once, kind, plain = _parts(name)
            if kind == SUMS:
                self._add(plain, value, sent[f"{once}{WEIGHTS}/{plain}"], bool(once))
            elif kind == OWN:
                (first if once else every)[plain] = value
                weight = sent.get(f"{once}{OWN_WEIGHTS}/{plain}")
                if weight is not None:
                    self._add(plain, value, weight, bool(once))
        for name, value in every.items():
            rows = self._own.setdefault(name, [])
            if not self._kept:
                rows.append(value)
        return every, first

    def _add(self, name: str, value: Tensor, weight: Tensor, once: bool) -> None:
        known = self._sums.get(name)
        if once and f"{SUMS}/{name}" in self._totals:
            known = self._totals[f"{SUMS}/{name}"], self._totals[f"{WEIGHTS}/{name}"]
        if weight.dim():
            found = add_up(known, value, weight)
        elif known is None:
            found = value.clone(), weight.clone()  # others may hold what was sent
        else:
            found = known[0] + value, known[1] + weight
        if once:
            self._totals[f"{SUMS}/{name}"], self._totals[f"{WEIGHTS}/{name}"] = found
        else:
            self._sums[name] = found

    def uploads(self, library: Library = NOBODY) -> Uploads:
        """All that was taken in, as the server reads it; ``library`` is the caller's."""
        sums, weights = part_of(self._totals, SUMS), part_of(self._totals, WEIGHTS)
        sums |= {name: total for name, (total, _) in self._sums.items()}
        weights |= {name: mass for name, (_, mass) in self._sums.items()}
        ids = tuple(self._ids)
        own: Mapping[str, Tensor]
        if self._kept:
            own = _Kept(library, ids, tuple(self._own))
        else:
            own = {name: received(torch.cat(rows)) for name, rows in self._own.items()}
        return Uploads(ids, sums, weights, own, library)

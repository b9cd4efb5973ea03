"""Extensions: what is added to the rounds of any federated method.

An extension has a client's part, what that sends, the server's part, and what that sends back. In
a round, with a method M and an extension E:

server: sends what M and E broadcast
client: M trains, on the examples that E may have changed;  E does its part;  both send
server: M aggregates;  E looks at its uploads and at the aggregated model, which it may change
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from fedsyn.core.cohort import Cohort
from fedsyn.core.judgement import Judgement
from fedsyn.core.payload import Payload
from fedsyn.core.training import Training
from fedsyn.core.wire import Upload, Uploads
from fedsyn.settings.plugins import Plugin, Table, composed
from fedsyn.settings.sections import Section

Record = dict[str, Any]  # what is said of a round, by name: numbers and booleans


class Judge(Protocol):
    """Lets clients judge models."""

    def __call__(self, models: Sequence[Tensor], shares: Sequence[float] = ()) -> Judgement:
        """Models ``[1, P]`` by the round's clients; with ``shares`` mixtures of two of them."""


@dataclass(frozen=True)
class ClientView:
    """What an extension's client part is told, of a chunk of C clients.

    Attributes
    ----------
    problem : Problem
        Whose features hold at least the cohort's rows.
    cohort : Cohort
        The clients and their training rows.
    model : Tensor of shape [C, P]
        What each has received.
    config : Section
        The extension's options.
    training : Training
        How clients train locally.
    private : Tensor of shape [C, P], optional
        Models that the method's clients keep to themselves, as they are after its training.
    received : dict of str to Tensor
        What the extension has broadcast.
    """

    problem: Any
    cohort: Cohort
    model: Tensor
    config: Any
    training: Training
    private: Tensor | None
    received: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Examples:
    """What the method's clients train on.

    Attributes
    ----------
    problem : Problem
    cohort : Cohort
    images, texts : tuple of array
        Rows of each client that lost a half: of which only the picture, or only the text, is known.
        Empty where no extension asks for them.
    """

    problem: Any
    cohort: Cohort
    images: tuple[np.ndarray, ...] = ()
    texts: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True)
class ClientResult:
    """What an extension's client part has done: what is sent, what is kept, losses ``[C]``."""

    upload: Upload
    state: Payload
    losses: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Pool:
    """Rows to train on, made or fetched when they are asked for."""

    size: int
    take: Callable[[Tensor], Tensor]  # positions [n], on the host -> rows [n, D]


@dataclass(frozen=True)
class ServerView:
    """What an extension's server part is told.

    Attributes
    ----------
    problem : Problem
        The network and the objective; of its rows the public ones alone may be looked at.
    model : Tensor of shape [1, P]
        The aggregated model.
    uploads : Uploads
        The extension's.
    method : Uploads
        The method's; client by client only the sums that the extension ``reads``.
    state : dict of str to Tensor
        What the extension's server part has kept.
    config : Section
        The extension's options.
    seed, round_number : int
        Name the round's random streams.
    fraction : float
        Which share of the clients does a round.
    stack : int
        Most clients in one stacked computation.
    judge : Judge
    pooled : Pool, optional
        All clients' training pairs in one place, for an extension that is a bound.
    """

    problem: Any
    model: Tensor
    uploads: Uploads
    method: Uploads
    state: Payload
    config: Any
    seed: int
    round_number: int
    fraction: float
    stack: int
    judge: Judge
    pooled: Pool | None = None


@dataclass(frozen=True)
class ServerResult:
    """What an extension's server part has done.

    Attributes
    ----------
    model : Tensor of shape [1, P]
        What the round ends with.
    record : dict
        What is said of it in the round's row.
    state : dict of str to Tensor
        What the server part keeps, and `Extension.broadcast` sends from.
    judgement : Judgement, optional
        What clients think of that model, where they were asked: its last model is that one.
    """

    model: Tensor
    record: Record = field(default_factory=dict)
    state: Payload = field(default_factory=dict)
    judgement: Judgement | None = None


def _always(config: Any, round_number: int) -> bool:
    return True


def _never(config: Any) -> bool:
    return False


@dataclass(frozen=True, kw_only=True, eq=False)
class Extension(Plugin):
    """What is added to the rounds of a method, as a plug-in.

    Its options stand in a section of the configuration that has its name.

    Attributes
    ----------
    problem : type
        What it can be added to: a class of problems.
    config : type of Section
        Its options.
    families : tuple of Table
        Of plug-ins that are named in its section, and whose options stand there.
    mode : ``(config, chosen) -> Extension``
        The variant that it is when so configured, with the plug-ins ``chosen``, by family; itself
        where there is none.
    active : ``(config) -> bool``
        Whether it takes part in a run that is so configured.
    begin : ``(moments, config, seed) -> state``
        What the server part has kept before round 1, by the moments of all clients' pairs
        (`fedsyn.data.moments`), added up; where ``None`` nothing, and nobody is asked for them.
    client_state : ``(problem, model [P], cohort, config, private: bool) -> payload [C, ...]``
        What clients keep of it before their first round; ``private`` says whether the method's
        clients keep models to themselves.
    examples : ``(examples, received, config) -> Examples``
        What the method's clients train on, by what they have received of the extension.
    completes : ``(config) -> bool``
        Whether that looks at rows that lost a half.
    client : ``(view, state) -> ClientResult``
        The client's part, after the method's.
    takes_part : ``(config, round_number) -> bool``
        Whether clients have a part in a round.
    server : ``(view) -> ServerResult``
        The server's part, after the method's.
    broadcast : ``(state) -> payload``
        What all clients are sent alike in the next round.
    largest : ``(problem, config) -> payload``
        Tensors like those that are broadcast, at their largest; what they hold means nothing.
    reads : tuple of str
        Sums of the method that it reads client by client: they are not added up on the way.
    pooled : bool
        Whether it looks at all clients' pairs: a bound, that no federation could have.
    """

    problem: type = object
    config: type[Section] = Section
    families: tuple[Table[Any], ...] = ()
    mode: Callable[..., "Extension"] | None = None
    active: Callable[..., bool] = _never
    begin: Callable[..., Payload] | None = None
    client_state: Callable[..., Payload] | None = None
    examples: Callable[..., Examples] | None = None
    completes: Callable[..., bool] = _never
    client: Callable[..., ClientResult] | None = None
    takes_part: Callable[..., bool] = _always
    server: Callable[..., ServerResult] | None = None
    broadcast: Callable[..., Payload] | None = None
    largest: Callable[..., Payload] | None = None
    reads: tuple[str, ...] = ()
    pooled: bool = False

    @property
    def section(self) -> type[Section]:
        """Its section of a configuration, with the options of this package's plug-ins."""
        return composed(self.config, [plugin for table in self.families for plugin in table])

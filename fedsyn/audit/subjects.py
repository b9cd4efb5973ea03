"""Whom an audit asks about: clients with pairs that they trained on, and pairs that they did not.

**Members** are a client's training pairs. **Strangers** are pairs of the same client that nobody
has trained on: those it keeps out of training to judge models (of which the server learns means, no
more) and its test pairs. Both are of one distribution, so whatever tells them apart was learnt from
what was sent. A stranger that equals a member is none.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedsyn import streams
from fedsyn.data import federated
from fedsyn.data.pairs import Pairs
from fedsyn.data.reading import pairs_of
from fedsyn.errors import ConfigError, RunError
from fedsyn.federation import config as configuration
from fedsyn.federation import records
from fedsyn.federation.config import Config, data_settings
from fedsyn.federation.federation import Federation, federation
from fedsyn.privacy.power import Scores
from fedsyn.tasks.retrieval import RETRIEVAL, RetrievalProblem

FEWEST = 10  # members, and strangers, of a client that is asked about
MOST = 2000  # members, and strangers, of a client that are asked about; drawn from more
CLIENTS = 100  # that are asked about; drawn from more


@dataclass(frozen=True)
class Subject:
    """A client and the pairs that are asked about.

    Attributes
    ----------
    client : int
    rows : array of shape [n]
        Rows of the federation's data, members first.
    pairs : Tensor of shape [n, D]
        Their features.
    members : int
        How many of them are members.
    """

    client: int
    rows: np.ndarray
    pairs: Tensor
    members: int

    @property
    def strangers(self) -> int:
        """How many of the pairs are not members."""
        return len(self.pairs) - self.members

    @property
    def truth(self) -> Tensor:
        """Whether each is a member, bool ``[n]``."""
        return torch.arange(len(self.pairs)) < self.members

    def scores(self, values: Tensor) -> Scores:
        """Scores ``[n]`` of its pairs, by kind."""
        return Scores(values[: self.members], values[self.members :])


def configured(run: Path, **plugins: Any) -> Config:
    """The configuration of a run, from its directory.

    Raises
    ------
    RunError
        If the directory holds no run, or one of another task.
    """
    path = run / records.CONFIG
    if not path.is_file():
        raise RunError(f"{str(run)!r} is not the directory of a run: it has no {records.CONFIG}")
    try:
        config = configuration.load(path, **plugins)
    except ConfigError as error:
        raise RunError(f"{str(path)!r}: {error}") from None
    task = config.plugins.task
    if not issubclass(task.problem, RetrievalProblem):
        raise RunError(
            f"{str(run)!r} has learnt task.name = {task.name!r}; the audit is of runs that learn "
            f"retrieval of pairs ({RETRIEVAL.name!r})"
        )
    return config


def rebuilt(run: Path, config: Config, data: Pairs | Mapping[str, Any] | None) -> Federation:
    """The federation of a run: the same data, features and clients.

    Raises
    ------
    RunError
        If its data are others now.
    """
    pairs = None if data is None else pairs_of(data, config.data)
    held = federated.load(data_settings(config), run, pairs)
    _refuse_other_data(run, federated.who_has_what(held))
    return federation(config, held, torch.device("cpu"))


def _refuse_other_data(run: Path, found: records.Row) -> None:
    path = run / records.PARTITION
    try:
        before = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{str(path)!r} cannot be read: {error}") from None
    sizes = [(before.get(name), found[name]) for name in ("pairs", "holdout", "test")]
    if any(old != new for old, new in sizes):
        raise RunError(
            f"the data of {str(run)!r} are not divided as its {records.PARTITION} says: "
            "the file behind data.path has changed, or is another"
        )


def subjects(fed: Federation, heard: tuple[int, ...], seed: int) -> tuple[Subject, ...]:
    """The clients that were heard and have enough pairs of both kinds.

    Raises
    ------
    RunError
        If there are none.
    """
    asked = [client for client in heard if client < len(fed.silos)]
    if len(asked) > CLIENTS:
        order = streams.numpy_generator(seed, "audit.clients").permutation(asked)
        asked = sorted(order[:CLIENTS].tolist())
    found = tuple(_subjects(fed, asked, seed))
    if not found:
        raise RunError(
            f"no client that was heard has {FEWEST} training pairs and {FEWEST} others to compare "
            "them with; a larger data.test_fraction or data.holdout gives more of these"
        )
    return found


def _subjects(fed: Federation, asked: list[int], seed: int) -> Iterator[Subject]:
    for client in asked:
        silo, draw = fed.silos[client], streams.numpy_generator(seed, "audit.pairs", client=client)
        others = np.concatenate([silo.holdout, silo.test])
        kinds = [np.sort(draw.permutation(rows)[:MOST]) for rows in (fed.rows(client), others)]
        problem, places = fed.near(kinds)
        members, strangers = (problem.features[torch.from_numpy(at)].cpu() for at in places)
        there = {row.tobytes() for row in members.numpy()}
        strange = np.array([row.tobytes() not in there for row in strangers.numpy()], dtype=bool)
        if min(len(members), strange.sum()) >= FEWEST:
            pairs = torch.cat([members, strangers[torch.from_numpy(strange)]])
            rows = np.concatenate([kinds[0], kinds[1][strange]])
            yield Subject(client, rows, pairs, len(members))

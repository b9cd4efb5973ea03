"""Attacks on models: those that clients have sent, and their averages.

A pair is judged by its partner's cosine and log-odds (`fedsyn.privacy.likelihood`) under a client's
model in every round; what is a pair's own fault goes when the same under another model is taken
away: the one sent down, or the average of the other clients'. Scores of rounds are averaged.

What was sent down is not recorded. It is taken for the average of the round before, which synthesis
may have fine-tuned since; in the first round it is where the federation starts.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fedsyn.audit.attack import BOTH, Attack, Of, View
from fedsyn.audit.recorded import Recorded
from fedsyn.audit.subjects import Subject
from fedsyn.audit.totals import Arrived, Total, together
from fedsyn.errors import RunError
from fedsyn.federation.client import METHOD
from fedsyn.federation.federation import Federation
from fedsyn.federation.records import MODEL
from fedsyn.models.retrieval import RetrievalNet
from fedsyn.privacy import likelihood
from fedsyn.tasks.retrieval import RetrievalProblem

NAME = "model"  # of the sum that models are sent as
ROUNDS = 10  # that are looked at
AVERAGES = "averages"
ON = frozenset([(METHOD, NAME)])
MEASURES = {"cosine": likelihood.cosine, "log-odds": likelihood.log_odds}  # of a pair's partner
Measured = dict[str, Tensor]  # scores [n] by measure


@dataclass(frozen=True)
class Round:
    """The models of a round.

    Attributes
    ----------
    number : int
    arrived : tuple of Total
        As they were received: every value ``[P]``.
    average : Tensor of shape [P]
        Of all clients heard.
    down : Tensor of shape [P], optional
        What clients were sent, as far as it is known.
    """

    number: int
    arrived: Arrived
    average: Tensor
    down: Tensor | None

    @property
    def exposed(self) -> bool:
        """Whether somebody looks at them client by client: no sum, and masks would not hide it."""
        return any(one.own for one in self.arrived)

    def of(self, client: int) -> Total | None:
        """The sum that a client is in, if it has a say."""
        mine = (one for one in self.arrived if client in one.ids and one.weight > 0)
        return next(mine, None)

    def others(self, own: Total) -> Tensor | None:
        """The average of the clients that a sum is not of, where there are any."""
        rest = together(self.arrived).without(own)
        return rest.mean if rest.weight > 0 else None


@dataclass(frozen=True)
class Models:
    """The models of all rounds, read when they are looked at.

    Attributes
    ----------
    recorded : Recorded
    size : int
        Parameters of a model; what clients send that is of another size is none.
    start : Tensor of shape [P], optional
        What they were sent in the first round that was recorded.
    averaged : bool
        Whether there is an average of them: not of clients that go on each by itself.
    """

    recorded: Recorded
    size: int
    start: Tensor | None
    averaged: bool = True

    def numbers(self, most: int) -> list[int]:
        """Rounds that have any, from the first to the last; at most so many."""
        there = [
            number
            for number, messages in self.recorded.messages.items()
            if any(key[0] == METHOD and key[2] == NAME for one in messages for key in one.keys)
        ]
        places = np.linspace(0, len(there) - 1, min(most, len(there))).round().astype(int)
        return [there[place] for place in places]

    def rounds(self, numbers: Collection[int]) -> Iterator[Round]:
        """The rounds of these numbers, in order."""
        down = self.start
        for arrived in self.recorded.totals(METHOD, NAME):
            if arrived[0].value.shape != (self.size,):
                return
            average, number = together(arrived).mean, arrived[0].round_number
            if number in numbers:
                yield Round(number, arrived, average, down)
            down = average


def network(fed: Federation) -> RetrievalNet:
    """The network of a retrieval run."""
    return cast(RetrievalProblem, fed.problem).net


def measured(net: RetrievalNet, model: Tensor, pairs: Tensor) -> Measured:
    """All measures of pairs ``[n, D]`` under a model ``[P]``."""
    with torch.no_grad():
        image, text = (u[0] for u in net.embed(model.to(pairs)[None], pairs[None]))
    return {name: measure(image, text) for name, measure in MEASURES.items()}


def by_models(net: RetrievalNet, models: Models, subjects: Sequence[Subject]) -> Iterator[Attack]:
    """Models as they arrived and, of all clients, averaged."""
    found: dict[str, dict[int, list[Measured]]] = {}
    exposed = False
    for one in models.rounds(models.numbers(ROUNDS)):
        exposed |= one.exposed
        for subject in subjects:
            for what, values in _of_round(net, one, subject, models.averaged):
                found.setdefault(what, {}).setdefault(subject.client, []).append(values)
    for what, by_client in found.items():
        for name in MEASURES:
            scores = {
                client: torch.stack([values[name] for values in each]).mean(0)
                for client, each in by_client.items()
            }
            if what == AVERAGES:
                yield Attack(f"{name}, {what}", "model", BOTH, scores, ON)
            else:
                of, views = single(exposed)
                yield Attack(f"{name}, {what}", of, views, scores, ON)


def single(exposed: bool) -> tuple[Of, tuple[View, ...]]:
    """What an attack on a client's model is on, and who can make it."""
    return ("own", BOTH) if exposed else ("sum", ("raw",))


def _of_round(
    net: RetrievalNet, one: Round, subject: Subject, averaged: bool
) -> Iterator[tuple[str, Measured]]:
    if averaged:
        yield AVERAGES, measured(net, one.average, subject.pairs)
    own = one.of(subject.client)
    if own is None:
        return
    mine = measured(net, own.mean, subject.pairs)
    yield "uploads", mine
    for what, model in (("broadcast", one.down), ("others", one.others(own))):
        if averaged and model is not None:
            less = measured(net, model, subject.pairs)
            yield f"uploads less {what}", {name: mine[name] - less[name] for name in mine}


def by_kept_model(run: Path, fed: Federation, subjects: Sequence[Subject]) -> Iterator[Attack]:
    """The model that the run has kept, which everybody may get.

    Raises
    ------
    RunError
        If it cannot be read.
    """
    path, net = run / MODEL, network(fed)
    if not path.is_file():
        return
    try:
        model = net.layout.flatten(load_file(path))
    except KeyError:
        return  # every client has kept its own
    except (SafetensorError, OSError) as error:
        raise RunError(f"{str(path)!r} cannot be read: {error}") from None
    scores = {one.client: measured(net, model, one.pairs) for one in subjects}
    for name in MEASURES:
        by_client = {client: values[name] for client, values in scores.items()}
        yield Attack(f"{name}, kept model", "model", BOTH, by_client, frozenset())

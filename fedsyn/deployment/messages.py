"""What travels between server and nodes: arrays, and a few facts beside them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

import pydantic
from torch import Tensor

import fedsyn
from fedsyn.core.payload import Payload, named, nbytes, part_of
from fedsyn.deployment.validation import RefusedError
from fedsyn.settings.sections import Count, Field, Fraction, Section, Whole

Facts = dict[str, Any]
F = TypeVar("F", bound="MessageFacts")

RunName = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
Ids = tuple[Whole, ...]

# Groups of arrays.
DOWN, UP, VERDICT, MODELS = "down", "up", "verdict", "models"
PREPROCESSING, FREQUENCIES, MOMENTS, IDF = "preprocessing", "frequencies", "moments", "idf"


@dataclass(frozen=True)
class Message:
    """A request to a node, or its answer."""

    facts: Facts  # plain JSON
    arrays: Payload = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of arrays and facts."""
        return nbytes(self.arrays) + len(json.dumps(self.facts).encode())

    def group(self, name: str) -> Payload:
        """The arrays called ``name/...``."""
        return part_of(self.arrays, name)


class MessageFacts(Section):
    """Facts of a message: what is said beside the arrays. Both sides run the same version."""

    version: str = fedsyn.__version__

    def message(self, **groups: Mapping[str, Tensor]) -> Message:
        """With arrays of several groups, each called ``group/name``."""
        arrays: Payload = {}
        for group, payload in groups.items():
            arrays |= named(group, payload)
        return Message(self.model_dump(mode="json"), arrays)


def understood(kind: type[F], facts: Facts) -> F:
    """The facts as an object.

    Raises
    ------
    RefusedError
        If they are of another version of fedsyn, or not what was expected.
    """
    version = facts.get("version")
    if version != fedsyn.__version__:
        raise RefusedError(f"the other side runs fedsyn {version}; this is {fedsyn.__version__}")
    try:
        return kind.model_validate(facts)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise RefusedError(
            f"{kind.__name__} has {name} = {first['input']!r}: {first['msg']}"
        ) from None


class Request(MessageFacts):
    """Of a node, in every message: which run it is, and how it is configured."""

    run: RunName
    config: Facts  # a whole configuration; a node takes the section [engine] from its own


class TrainRequest(Request):
    """Train some of the node's clients for a round, from what is sent."""

    round_number: Count
    since: Whole  # the last round in which the server has heard this node; what came later is void
    ids: Ids
    known: dict[str, Ids]  # by part, clients of which the server has an upload
    validators: Ids = ()  # clients that also judge the model sent


class JudgeRequest(Request):
    """Judge the models sent on held-out pairs."""

    ids: Ids
    shares: tuple[Fraction, ...] = ()  # mixtures of two models in their place


class Answered(MessageFacts):
    """By a node, in every answer."""

    refused: str = ""  # why it does not do it
    unprepared: bool = False  # it has no features for this run, or has lost them


class Introduced(Answered):
    """Who a node is, and what its clients hold."""

    clients: Ids
    pairs: Ids  # of each client, by what it holds
    holdout: Ids
    images_only: Ids
    texts_only: Ids
    form: Facts  # of both modalities


class Trained(Answered):
    """Whose round it is that the arrays are of."""

    ids: Ids = ()


class Judged(Answered):
    """Whose verdict the arrays are: criteria ``losses [models, clients]`` of ``pairs`` each."""

    ids: Ids

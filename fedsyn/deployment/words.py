"""What is said beside the arrays, message by message."""

from typing import Annotated

from pydantic import Field

from fedsyn.config import Count, Whole
from fedsyn.deployment.parcels import Facts, Said

RunName = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
Ids = tuple[Whole, ...]


class Asked(Said):
    """Of a node, in every message: which run it is, and how it is configured."""

    run: RunName
    config: Facts  # a whole configuration; a node takes the section [engine] from its own


class AskedToTrain(Asked):
    """Train some of the node's clients for a round, from the model sent."""

    round: Count
    since: Whole  # the last round in which the server has heard this node; what came later is void
    ids: Ids
    introduced: Ids  # clients whose prototypes the server has
    judges: Ids = ()  # clients that also judge the model sent


class AskedToJudge(Asked):
    """Judge the models sent on held-out pairs."""

    ids: Ids
    initial: bool  # the initial model first, which is not sent


class Answered(Said):
    """By a node, in every answer."""

    refused: str = ""  # why it does not do it
    unprepared: bool = False  # it has no features for this run, or has lost them


class Introduced(Answered):
    """Who a node is."""

    clients: Ids
    pairs: Ids  # of each client, by what it holds
    holdout: Ids
    images_only: Ids
    texts_only: Ids
    form: Facts  # of both modalities


class Judged(Answered):
    """The criterion on each client's held-out pairs."""

    ids: Ids
    losses: tuple[tuple[float, ...], ...]  # [models, clients]
    pairs: Ids  # judged


class Trained(Answered):
    """What clients say of their round."""

    ids: Ids = ()
    pairs: Ids = ()
    sizes: Ids = ()
    losses: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    introduced: Ids = ()  # clients whose prototypes are sent along
    judged: Judged | None = None

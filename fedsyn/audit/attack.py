"""What the parts of an audit find: scores of an attack, by client."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Of = Literal["own", "sum", "model", "all"]
View = Literal["raw", "sums"]
Key = tuple[str, str]
BOTH: tuple[View, ...] = ("raw", "sums")


@dataclass(frozen=True)
class Attack:
    """An attack on the pairs of clients.

    Attributes
    ----------
    name : str
    of : {"own", "sum", "model", "all"}
        What it looks at: what clients have sent of their own, one sum, averaged models, everything.
    views : tuple of {"raw", "sums"}
        Who can: whoever sees uploads as they arrive, or also whoever sees sums added up over
        clients alone.
    scores : mapping of int to Tensor of shape [n]
        By client, of its `fedsyn.audit.subjects.Subject`'s pairs.
    on : frozenset of (str, str)
        The part and the name of what it looks at.
    distance : bool
        Whether scores are minus the distance to what was sent: at 0 that *is* the pair.
    """

    name: str
    of: Of
    views: tuple[View, ...]
    scores: Mapping[int, Tensor]
    on: frozenset[Key]
    distance: bool = False

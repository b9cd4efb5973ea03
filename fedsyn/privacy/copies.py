"""Copies: is a synthetic pair one that the client holds?

A sample is *near* a pair if it is nearer than the 1st percentile of the distances between two
members: nearer than a hundredth of the client's own pairs are to each other. It is *exact* where
nothing but rounding is between them. How many samples are near *strangers* says what nearness is
worth: as many members as strangers are asked then.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

PERCENTILE = 0.01
ROUNDING = 1e-5  # of the mean length of a pair


@dataclass(frozen=True)
class Copies:
    """How many samples of a client are copies, as shares of them.

    Attributes
    ----------
    samples : int
    exact : float
        Of a member.
    near : float
        Of any member.
    near_as_many : float
        Of some members, and
    near_strangers : float
        of as many strangers.
    """

    samples: int
    exact: float
    near: float
    near_as_many: float
    near_strangers: float


def copies(samples: Tensor, members: Tensor, strangers: Tensor) -> Copies:
    """Of samples ``[S, D]`` among at least two members ``[m, D]`` and some strangers ``[n, D]``."""
    samples, members, strangers = (part.double() for part in (samples, members, strangers))
    apart = torch.nn.functional.pdist(members)
    apart = apart[apart > 0]
    radius = apart.sort().values[int(PERCENTILE * (len(apart) - 1))] if len(apart) else 0.0
    to_members, to_strangers = torch.cdist(samples, members), torch.cdist(samples, strangers)
    few = min(len(members), len(strangers))

    def share(distance: Tensor, within: Tensor | float, columns: int = 0) -> float:
        width = distance.shape[1]
        kept = torch.linspace(0, width - 1, columns or width).round().long()
        return float((distance[:, kept].amin(-1) < within).double().mean())

    nothing = ROUNDING * float(members.norm(dim=-1).mean())
    return Copies(
        len(samples), share(to_members, nothing), share(to_members, radius),
        share(to_members, radius, few), share(to_strangers, radius, few),
    )  # fmt: skip

"""How well scores tell members from strangers: area under the ROC curve, and its foot.

A score is high where an attack says "member". Two numbers say how good it is:

AUC             P(score of a member > score of a stranger) + ½ P(equal); .5 is a coin
TPR at 1 % FPR  the largest share of members above a threshold that at most 1 % of strangers exceed
                (Carlini et al. 2022, "Membership Inference Attacks From First Principles")

AUC is the plain mean over clients of each client's own: whatever differs between clients does not
count as an attack. One per cent of a client's strangers is often less than one of them, so TPR is
of all clients' pairs together, after a client's scores are centred and scaled by its strangers
(median and interquartile range, each stranger by the others: a pair that is none of either must not
look like a member). That is at .01 by chance, and says too little where clients are unlike: beside
it stands the plain mean over clients of each one's own TPR, whose threshold no stranger of that
client exceeds where there are fewer than a hundred, and what it is by chance (1/(n + 1) then).

Intervals are 95 % percentile intervals of the bootstrap: members and strangers of each client are
drawn again with replacement. The clients, and what they have sent, stay as they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fedsyn import streams

FALSE_POSITIVES = 0.01
DRAWS = 500  # of the bootstrap
INTERVAL = (0.025, 0.975)
EACH = 200  # strangers, of whom each is left out of what it is calibrated by
ROUNDING = 1e-6  # of a number of strangers


class Scores(NamedTuple):
    """What an attack says of the pairs of one client.

    Attributes
    ----------
    members : Tensor of shape [m]
        Of pairs that the client has trained on; finite.
    strangers : Tensor of shape [n]
        Of pairs of the same client that nobody has trained on; finite.
    """

    members: Tensor
    strangers: Tensor

    def calibrated(self) -> "Scores":
        """The same, centred and scaled by the strangers, as they are to a pair that is not of them.

        Where half of them are equal their standard deviation takes the place of the interquartile
        range, and 1 where all are.
        """
        strangers, count = self.strangers.double(), len(self.strangers)
        middle, spread = _centre(strangers[None])
        members = (self.members.double() - middle) / spread
        if 2 <= count <= EACH:
            others = ~torch.eye(count, dtype=torch.bool)
            middle, spread = _centre(strangers.expand(count, -1)[others].view(count, -1))
        return Scores(members, (strangers - middle) / spread)


@dataclass(frozen=True)
class Power:
    """How strong an attack is, over clients.

    Attributes
    ----------
    auc, auc_low, auc_high : float
        Mean over clients, with its interval.
    auc_pooled : float
        Of all clients' calibrated scores together.
    tpr, tpr_low, tpr_high : float
        At `FALSE_POSITIVES`, of all clients' calibrated scores together, with its interval.
    tpr_mean, tpr_chance : float
        Mean over clients of each one's own, and what it would be by chance.
    members, strangers : int
        How many there are, over clients.
    """

    auc: float
    auc_low: float
    auc_high: float
    auc_pooled: float
    tpr: float
    tpr_low: float
    tpr_high: float
    tpr_mean: float
    tpr_chance: float
    members: int
    strangers: int


def auc(scores: Scores) -> float:
    """The area under the ROC curve; ties count half."""
    below, upto = _places(scores)
    return float((below + upto).double().mean()) / (2 * len(scores.strangers))


def tpr(scores: Scores, false_positives: float = FALSE_POSITIVES) -> float:
    """The largest true-positive rate at no more than this share of false positives."""
    passed, last = _above(scores), int(false_positives * len(scores.strangers) + ROUNDING)
    return float((passed <= last).double().mean())


def power(clients: Mapping[int, Scores], seed: int = 0) -> Power:
    """Over clients.

    Parameters
    ----------
    clients : mapping of int to Scores
        By client, at least one.
    seed : int
        Of the bootstrap's draws, which belong to a client, whoever else is there.
    """
    ids = sorted(clients)
    apart = [clients[client] for client in ids]
    together = _joined([one.calibrated() for one in apart])
    draws = [_drawn(one, seed, client) for client, one in zip(ids, apart, strict=True)]
    areas = torch.stack([_areas(one, *drawn) for one, drawn in zip(apart, draws, strict=True)])
    auc_low, auc_high = _interval(areas.mean(0))
    weights = (torch.cat(parts, -1) for parts in zip(*draws, strict=True))
    tpr_low, tpr_high = _interval(_rates(together, *weights))
    return Power(
        sum(map(auc, apart)) / len(apart), auc_low, auc_high, auc(together),
        tpr(together), tpr_low, tpr_high, sum(map(tpr, apart)) / len(apart),
        sum(map(_chance, apart)) / len(apart), len(together.members), len(together.strangers),
    )  # fmt: skip


def _centre(values: Tensor) -> tuple[Tensor, Tensor]:
    """Median and interquartile range of rows ``[r, n]``: ``[r]`` each, the latter positive."""
    low, middle, high = torch.quantile(values, values.new_tensor([0.25, 0.5, 0.75]), dim=-1)
    spread, deviation = high - low, values.std(-1, correction=0)
    return middle, torch.where(
        spread > 0, spread, torch.where(deviation > 0, deviation, torch.ones_like(deviation))
    )


def _chance(scores: Scores) -> float:
    """What `tpr` is on average where members are as strangers are, and no two scores equal."""
    count = len(scores.strangers)
    return (int(FALSE_POSITIVES * count + ROUNDING) + 1) / (count + 1)


def _joined(parts: Sequence[Scores]) -> Scores:
    members, strangers = (torch.cat(each) for each in zip(*parts, strict=True))
    return Scores(members, strangers)


def _places(scores: Scores) -> tuple[Tensor, Tensor]:
    """How many strangers are below each member, and how many are not above it."""
    order, members = scores.strangers.sort().values, scores.members.contiguous()
    return torch.searchsorted(order, members), torch.searchsorted(order, members, right=True)


def _above(scores: Scores) -> Tensor:
    """How many strangers are not below each member: at most k where it exceeds the k+1st."""
    return len(scores.strangers) - _places(scores)[0]


# ---- The bootstrap -------------------------------------------------------------------------------


def _drawn(scores: Scores, seed: int, client: int) -> tuple[Tensor, Tensor]:
    """How often each member, and each stranger, is drawn: ``[draws, m]`` and ``[draws, n]``."""
    stream = streams.generator(seed, "audit.bootstrap", client=client)

    def counts(size: int) -> Tensor:
        at = torch.randint(size, (DRAWS, size), generator=stream)
        return torch.zeros(DRAWS, size).scatter_add_(1, at, torch.ones(DRAWS, size))

    return counts(len(scores.members)), counts(len(scores.strangers))


def _areas(scores: Scores, members: Tensor, strangers: Tensor) -> Tensor:
    """The AUC of every draw ``[draws]``."""
    below, upto = _places(scores)
    mass = strangers[:, scores.strangers.argsort()].double().cumsum(-1)
    mass = torch.nn.functional.pad(mass, (1, 0))
    half = (mass[:, below] + mass[:, upto]) / 2
    return (half * members).sum(-1) / (len(scores.strangers) * len(scores.members))


def _rates(scores: Scores, members: Tensor, strangers: Tensor) -> Tensor:
    """The true-positive rate of every draw ``[draws]``."""
    order = scores.strangers.argsort(descending=True)
    passed = strangers[:, order].cumsum(-1)  # by how many strangers a threshold is passed
    last = (passed <= FALSE_POSITIVES * len(order) + ROUNDING).sum(-1, keepdim=True)
    found = _above(scores)[None] <= last
    return (found * members).sum(-1) / len(scores.members)


def _interval(values: Tensor) -> tuple[float, float]:
    low, high = torch.quantile(values.double(), torch.tensor(INTERVAL).double()).tolist()
    return low, high

"""Sums of features, and of their products, among what was received.

A statistic here is Σ x, or a matrix Σ x xᵀ: full, or its upper triangle; of pairs, of pictures or
of texts. The pairs of a client that has fewer than a pair has features span its own. What is behind
principal components is sent before the first round and is not recorded: it is made again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import isqrt

import numpy as np
import torch
from torch import Tensor

from fedsyn.audit.attack import Key, View
from fedsyn.audit.recorded import Recorded
from fedsyn.audit.totals import Arrived, Total, together
from fedsyn.core.wire import SUMS
from fedsyn.data.moments import pair_moments
from fedsyn.data.preprocessing import add
from fedsyn.federation.federation import Federation
from fedsyn.federation.local import MOMENTS
from fedsyn.privacy import attacks

SIDES = ("image", "text")
BEFORE = "features"  # the part that is not recorded


@dataclass(frozen=True)
class Statistic:
    """One that was received, perhaps several times.

    Attributes
    ----------
    part, name : str
        Where it was received, and as what.
    columns : slice
        The features that it is of.
    received : tuple of tuple of Total
        By round, message by message; every value ``[d]`` or a matrix ``[d, d]``.
    """

    part: str
    name: str
    columns: slice
    received: tuple[Arrived, ...]

    @property
    def label(self) -> str:
        """What a table of attacks calls it."""
        return f"{self.part}/{self.name}"

    @property
    def first(self) -> bool:
        """Whether they are first moments."""
        return self.received[0][0].value.dim() == 1

    @property
    def keys(self) -> frozenset[Key]:
        """What attacks on it look at."""
        return frozenset([(self.part, self.name)])

    def known(self, view: View) -> list[Total]:
        """The sums that can be seen: as they arrived, or added up over the clients of a round."""
        if view == "raw":
            return [one for arrived in self.received for one in arrived]
        return [together(arrived) for arrived in self.received]


def least(known: Sequence[Total], client: int) -> Total | None:
    """Of the sums that a client is in, that with the fewest others; none where it has no say."""
    mine = [one for one in known if client in one.ids and one.weight > 0]
    return min(mine, key=lambda one: len(one.ids), default=None)


def statistics(
    recorded: Recorded, fed: Federation, pairs: Tensor, without: str
) -> Iterator[Statistic]:
    """Those among the sums that were received, but for the part ``without``.

    Parameters
    ----------
    recorded : Recorded
    fed : Federation
    pairs : Tensor of shape [n, D]
        Some, by which it is told whether a matrix is of pictures or of texts where both are of one
        width and its name does not say it.
    """
    image, width = fed.data.image_dim, fed.data.features.shape[1]
    for part, kind, name in recorded.names:
        if kind != SUMS or part == without:
            continue
        found: list[Arrived] = []
        for arrived in recorded.totals(part, name):
            moments = [moments_of(one.value, {width, image, width - image}) for one in arrived]
            if any(moment is None for moment in moments):
                break
            found.append(
                tuple(
                    replace(one, value=moment)
                    for one, moment in zip(arrived, moments, strict=True)
                    if moment is not None
                )
            )
        if found:
            total = together(found[0]).value
            yield Statistic(part, name, _columns(total, image, name, pairs), tuple(found))


def moments_of(value: Tensor, widths: set[int]) -> Tensor | None:
    """First moments ``[d]`` or a matrix ``[d, d]`` of one of these widths, if it is one."""
    if value.dim() == 1 and len(value) in widths:
        return value
    if value.dim() == 2 and value.shape[0] == value.shape[1] and len(value) in widths:
        return value if torch.allclose(value, value.T) else None
    if value.dim() != 1:
        return None
    width = (isqrt(8 * len(value) + 1) - 1) // 2
    if width not in widths or width * (width + 1) // 2 != len(value):
        return None
    whole = value.new_zeros(width, width)
    row, column = torch.triu_indices(width, width)
    whole[row, column] = whole[column, row] = value
    return whole


def score(moments: Tensor, pairs: Tensor) -> Tensor:
    """How likely pairs ``[n, d]`` are in first or second moments."""
    attack = attacks.alignment if moments.dim() == 1 else attacks.leverage
    return attack(pairs, moments)


def _columns(moments: Tensor, image: int, name: str, pairs: Tensor) -> slice:
    width = pairs.shape[1]
    if len(moments) == width:
        return slice(0, width)
    places = dict(zip(SIDES, (slice(0, image), slice(image, width)), strict=True))
    fitting = [at for at in places.values() if at.stop - at.start == len(moments)]
    named = [at for side, at in places.items() if side in name and at in fitting]
    return (named or sorted(fitting, key=lambda at: -float(score(moments, pairs[:, at]).mean())))[0]


def with_moments(recorded: Recorded, fed: Federation) -> Recorded:
    """With the moments of pairs that were sent for a start, where they are not recorded.

    As they are of nodes: added up over the clients of one message.
    """
    begun = any(extension.begin is not None for extension, _ in fed.plan.extensions)
    asked = begun or (fed.plan.method.starts and fed.problem.asks_moments)
    if not asked or any(part == MOMENTS for part, _, _ in recorded.names):
        return recorded
    nodes = set(recorded.senders.values())
    nodes |= {(client,) for client in range(len(fed.silos)) if client not in recorded.senders}
    made: dict[Key, list[Total]] = {}
    for ids in sorted(nodes):
        rows = [fed.silos[client].pairs for client in ids]
        for name, value in add(pair_moments(fed.problem.features, rows)).items():
            made.setdefault((MOMENTS, name), []).append(Total(0, frozenset(ids), value, 1.0))
    return replace(recorded, made={key: tuple(totals) for key, totals in made.items()})


def behind_features(fed: Federation) -> Iterator[Statistic]:
    """Second moments that clients send for principal components, as the features have them.

    What is sent are moments of descriptors; the server, which has the components, knows as much of
    the features. Of features that are given as they are variances alone are sent.
    """
    image, width = fed.data.image_dim, fed.data.features.shape[1]
    for side, at in zip(SIDES, (slice(0, image), slice(image, width)), strict=True):
        if f"{side}.components" not in fed.data.preprocessing:
            continue
        arrived = []
        for client, silo in enumerate(fed.silos):
            rows = np.concatenate([silo.pairs, silo.images if side == "image" else silo.texts])
            half = fed.data.features[torch.from_numpy(rows), at].double()
            arrived.append(Total(0, frozenset([client]), half.T @ half, float(len(rows))))
        yield Statistic(BEFORE, side, at, (tuple(arrived),))

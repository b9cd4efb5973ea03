"""Which of a generator's weights are kept: those whose pairs are nearest to pairs it never saw.

    d = 2 E‖x − y‖ − E‖x − x'‖ − E‖y − y'‖      (energy distance, Székely & Rizzo 2013)

between pairs x, made as the server will make them, and the y that a client has kept from its
generator and its critic. x and y are embeddings of both halves side by side: among hundreds of
standardised features what matters for retrieval drowns, and whatever is not exactly Gaussian noise
looks worse than that. The weights of the start are a candidate like those of any later step, so
with a warm start nothing is kept that is worse than the closed form by this measure. Every
candidate is judged by the same noise.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fedsyn.core.cohort import Cohort

MADE = 256  # pairs that a candidate is judged by
FEWEST = 2  # pairs on either side: a distance needs two of a kind, and so does a critic


def split(cohort: Cohort, share: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Rows of each client that its generator trains on, and rows kept from it, both ascending.

    The same in every round. A client with too few for both sides keeps none.
    """
    seen, kept = [], []
    streams = replace(cohort, round_number=0).streams("adversary-judged")
    for rows, stream in zip(cohort.rows, streams, strict=True):
        count = max(round(share * len(rows)), FEWEST)
        if not share or len(rows) < count + FEWEST:
            count = 0
        order = torch.randperm(len(rows), generator=stream).numpy()
        kept.append(rows[np.sort(order[:count])])
        seen.append(rows[np.sort(order[count:])])
    return seen, kept


def moved(
    points: Tensor,  # [n, D], those that are seen first
    owner: Tensor,  # [n] long, the prototype of each
    seen: int,
    number: int,
) -> Tensor:  # [number, D]
    """How far the mean of each prototype's pairs moves without those kept; 0 where none is left.

    The start is told of prototypes: without this it would know the pairs that it is judged by.
    """

    def means(points: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
        member = one_hot(owner, number).T.double()
        count = member.sum(-1, keepdim=True)
        return member @ points.double() / count, count

    (without, left), (whole, _) = means(points[:seen], owner[:seen]), means(points, owner)
    return (without - whole).where(left > 0, 0.0).to(points)


class Judge:
    """Pairs that clients keep from their generators, and what candidates are made of.

    Parameters
    ----------
    pairs : Tensor [C, n, E]
        What is kept, as it is compared.
    valid : Tensor [C, n] bool
        Which of these rows there are.
    cohort : Cohort
        Whose clients' streams the noise is drawn from.
    counts : Tensor [C, M]
        Pairs behind each prototype, by which they are asked for.
    noise : int
        Numbers that a pair is made of.
    """

    def __init__(
        self, pairs: Tensor, valid: Tensor, cohort: Cohort, counts: Tensor, noise: int
    ) -> None:
        self._pairs, self._valid = pairs, valid
        self._within = _within(pairs, valid)
        drawn, kinds = [], []
        streams = replace(cohort, round_number=0).streams("adversary-judged-noise")
        for mine, stream in zip(counts.cpu().double(), streams, strict=True):
            drawn.append(torch.randn(MADE, noise, generator=stream))
            kinds.append(torch.multinomial(mine, MADE, True, generator=stream))
        self.noise = torch.stack(drawn).to(pairs.device)  # [C, MADE, noise]
        self.kinds = torch.stack(kinds).to(pairs.device)  # [C, MADE] prototypes

    def distance(self, made: Tensor) -> Tensor:  # [C, MADE, E] -> [C]
        """The energy distance of each client's pairs, without bias; NaN where none is kept."""
        across = torch.cdist(made, self._pairs).mean(-2) * self._valid
        whole = self._valid.new_ones(made.shape[:2])
        mean = across.sum(-1) / self._valid.sum(-1)
        return 2 * mean - _within(made, whole) - self._within


class Best:
    """The best of each client's candidates so far, in the place of ``rows [C, P]``."""

    def __init__(self, rows: Tensor, judge: Judge, make: Callable[[Tensor], Tensor]) -> None:
        self._rows, self._judge, self._make = rows, judge, make
        self.distance = judge.distance(make(rows))  # [C], of the best

    def offer(self, rows: Tensor) -> None:
        """Keep a client's row where its pairs are nearer than those of the one that is kept."""
        found = self._judge.distance(self._make(rows))
        nearer = found < self.distance
        self._rows[nearer] = rows[nearer]
        self.distance = torch.where(nearer, found, self.distance)


def _within(pairs: Tensor, valid: Tensor) -> Tensor:  # [C, n, D], [C, n] -> [C]
    """E‖y − y'‖ over different rows."""
    both = valid[:, :, None] & valid[:, None, :]
    count = valid.sum(-1)
    total = (torch.cdist(pairs, pairs) * both).sum((-2, -1))
    return total / (count * (count - 1))

"""What steps of adversarial training look at: real pairs, what is told of them, noise."""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.profiling import phase
from fedsyn.synthesis import prototypes
from fedsyn.synthesis.generators.options import WGANOptions
from fedsyn.synthesis.generators.stopping import moved, split
from fedsyn.synthesis.settings import SynthesisConfig

PREPARED = 16  # steps whose draws are held at a time


class Draw(NamedTuple):
    """What one step of every client looks at."""

    real: Tensor  # [C, B, D] pairs
    prototype: Tensor  # [C, B, D] what the generator is told of them
    noise: Tensor  # [C, B, noise]
    mix: Tensor  # [C, B, 1], how far from real to fake the penalty is taken
    kept: Tensor  # [C, B, H] factors of the critic's hidden values


class Drawing:
    """The pairs and streams of clients.

    Parameters
    ----------
    features : Tensor [N, D]
    cohort : Cohort
    state : dict of str to Tensor
        With ``prototypes [C, M, D]`` and ``counts [C, M]``.
    config : SynthesisConfig
    purpose : str
        Names the streams.

    Attributes
    ----------
    cohort : Cohort
        With the rows that are trained on.
    kept : list of array
        Rows of each client that are kept aside.
    """

    def __init__(
        self,
        features: Tensor,
        cohort: Cohort,
        state: Payload,
        config: SynthesisConfig,
        purpose: str,
    ) -> None:
        self._features, self._config = features, config
        self._options = config.of(WGANOptions)
        self._prototypes, self._counts = state["prototypes"], state["counts"]
        seen, self.kept = split(cohort, self._options.judged_share)
        self.cohort = replace(cohort, rows=tuple(seen))
        self._streams = cohort.streams(purpose)
        self._masks = cohort.streams(f"{purpose}-dropout")
        self._owners = [self._owner(at, rows) for at, rows in enumerate(seen)]
        self._anchors = self._told()

    def steps(self, number: int, dropped: int) -> Iterator[Draw]:
        """What so many steps look at, with masks of ``dropped`` hidden values."""
        batch, clusters = self._options.batch, self._counts.shape[1]
        for first in range(0, number, PREPARED):
            count = min(PREPARED, number - first)
            with phase("gather"):
                index, owner, noise, mix = [], [], [], []
                mine = zip(self.cohort.rows, self._owners, self._streams, strict=True)
                for client, (rows, owners, stream) in enumerate(mine):
                    chosen = torch.randint(len(rows), (count, batch), generator=stream)
                    index.append(torch.from_numpy(rows)[chosen])
                    owner.append(owners[chosen] + client * clusters)
                    noise.append(torch.randn(count, batch, self._config.noise, generator=stream))
                    mix.append(torch.rand(count, batch, 1, generator=stream))
                device = self._features.device
                drawn = [torch.stack(parts, 1).to(device) for parts in (index, owner, noise, mix)]
            for at, kind, made, mixed in zip(*drawn, strict=True):
                real, prototype = self._features[at], self._anchors[kind]
                yield Draw(real, prototype, made, mixed, self._mask(dropped))

    def told(self, kinds: Tensor) -> Tensor:  # [C, B] long -> [C, B, D]
        """What generators are told of these prototypes."""
        clients, clusters = self._counts.shape
        first = torch.arange(clients, device=kinds.device)[:, None] * clusters
        return self._anchors[kinds + first]

    def _mask(self, dropped: int) -> Tensor:
        """What hidden values of a step are multiplied by."""
        kept, shape = 1 - self._options.critic_dropout, (self._options.batch, dropped)
        if not dropped:
            return self._features.new_empty(len(self._masks), *shape)
        drawn = torch.stack([torch.rand(shape, generator=stream) for stream in self._masks])
        return ((drawn < kept) / kept).to(self._features)

    def _owner(self, client: int, rows: np.ndarray) -> Tensor:
        """The prototype of each of a client's pairs ``[n]``."""
        own = slice(client, client + 1)
        points = self._features[torch.from_numpy(rows)][None]
        return prototypes.assign(points, self._prototypes[own], self._counts[own] > 0)[0]

    def _told(self) -> Tensor:
        """What is told of each prototype ``[C · M, D]``: nothing of pairs that are kept aside."""
        centres, counts = self._prototypes, self._counts
        if self._options.judged_share:
            counts = torch.stack(
                [mine.bincount(minlength=counts.shape[1]) for mine in self._owners]
            )
            if self._config.clusters == "own":
                centres = centres + torch.stack([self._moved(at) for at in range(len(counts))])
        return prototypes.anchors(centres, counts, self._config.condition).flatten(0, 1)

    def _moved(self, client: int) -> Tensor:
        """How far each of a client's prototypes ``[M, D]`` moves without the pairs kept aside."""
        seen, kept = self.cohort.rows[client], self.kept[client]
        owner = torch.cat([self._owners[client], self._owner(client, kept)])
        points = self._features[torch.from_numpy(np.concatenate([seen, kept]))]
        return moved(points, owner, len(seen), self._counts.shape[1])

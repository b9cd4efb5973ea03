"""Clients that have a network of their own, wide and deep as they like, for the modality they hold.

Who holds pairs learns the task; who holds pictures or texts alone learns their labels. What they
have in common is the size of a representation.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from fedsyn.core.cohort import Cohort
from fedsyn.core.training import Loss
from fedsyn.errors import DataError
from fedsyn.methods.base import MethodConfig
from fedsyn.methods.creamfl.classifier import Classifier
from fedsyn.methods.creamfl.losses import IMAGE, MODALITIES, CreamFLOptions, by_label
from fedsyn.tasks.pairs import PairProblem


class Architecture(Protocol):
    """One architecture, for one or both modalities."""

    @property
    def size(self) -> int:
        """Parameters of the model that it trains."""

    def init(self, generator: torch.Generator) -> Tensor:
        """A fresh model ``[P]``; encoders begin alike, whichever modalities go with them."""

    def loss(self, cohort: Cohort, config: MethodConfig) -> Loss:
        """The loss of the clients' own rows."""

    def represent(self, params: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """Unit representations ``[C, B, d]``, by modality, of concatenated features."""


@dataclass(frozen=True)
class OfPairs:
    """A network for the task itself, in the place of the problem's."""

    problem: PairProblem

    @property
    def size(self) -> int:
        """Parameters of the problem's network."""
        return self.problem.net.layout.size

    def init(self, generator: torch.Generator) -> Tensor:
        """A fresh model as the task begins with."""
        return self.problem.net.init(generator)

    def loss(self, cohort: Cohort, config: MethodConfig) -> Loss:
        """The loss of the task, unchanged."""
        return self.problem.loss(cohort, config, "own")

    def represent(self, params: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """Representations of pictures and of texts."""
        return dict(zip(MODALITIES, self.problem.net.embed(params, rows), strict=True))


@dataclass(frozen=True)
class OfOne:
    """A classifier of one modality."""

    problem: PairProblem
    modality: str

    @property
    def net(self) -> Classifier:
        """Encodes as the problem's network does that modality."""
        encoder = getattr(self.problem.net, self.modality)
        return Classifier(encoder, self.problem.classes)

    @property
    def size(self) -> int:
        """Parameters of the classifier."""
        return self.net.layout.size

    def init(self, generator: torch.Generator) -> Tensor:
        """The encoder as the task begins, and classes of its own."""
        whole, net = self.problem.net, self.net
        begun = whole.layout.views(whole.init(generator)[None])
        encoder = {name: begun[name][0] for name in net.encoder.shapes}
        return net.layout.flatten({**encoder, **net.vectors(generator)})

    def loss(self, cohort: Cohort, config: MethodConfig) -> Loss:
        """By the rows' labels.

        Raises
        ------
        DataError
            If there are none.
        """
        net, features, label = self.net, self.problem.features, self.problem.category
        if label is None:
            raise DataError(
                f"method.name = {config.name!r}: clients that hold one modality learn by labels, "
                "and the data have none"
            )
        own = config.of(CreamFLOptions)

        def loss(
            params: Tensor, clients: Tensor, index: Tensor, valid: Tensor, step: Tensor
        ) -> Tensor:
            z = net.represent(params, self._half(features[index]))
            weight = net.weight(params)
            return by_label(z, weight, label[index], valid, own.margin, own.orthogonality)

        return loss

    def represent(self, params: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """Representations of the modality that there is."""
        return {self.modality: self.net.represent(params, self._half(rows))}

    def _half(self, rows: Tensor) -> Tensor:
        width = self.net.encoder.widths[0]
        return rows[..., :width] if self.modality == IMAGE else rows[..., -width:]


def learners(problem: PairProblem, cohort: Cohort) -> list[tuple[Architecture, list[int]]]:
    """The architectures among a cohort's clients, each with the positions of those who have it.

    Clients have ``problem.variants`` in turn. What one holds is what its first row has; a client
    without rows counts as one with pairs.
    """
    found: dict[tuple[str, int], list[int]] = {}
    for position, (client, rows) in enumerate(zip(cohort.ids, cohort.rows, strict=True)):
        held = [True, True]
        if problem.present is not None and len(rows):
            held = problem.present[rows[0]].tolist()
        kind = "" if all(held) else MODALITIES[held.index(True)]
        found.setdefault((kind, client % len(problem.variants)), []).append(position)
    return [(_learner(problem, *key), positions) for key, positions in found.items()]


def most_parameters(problem: PairProblem) -> int:
    """Parameters of the largest of the clients' networks."""
    kinds, variants = ("", *MODALITIES), range(len(problem.variants))
    every = [_learner(problem, kind, variant) for kind in kinds for variant in variants]
    return max(one.size for one in every)


def _learner(problem: PairProblem, kind: str, variant: int) -> Architecture:
    own = replace(problem, net=problem.variants[variant])
    return OfOne(own, kind) if kind else OfPairs(own)

"""What tasks on pairs have in common: two encoders into one space, and labels of single halves."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

from fedsyn.models.mlp import MLP
from fedsyn.models.settings import ModelConfig
from fedsyn.tasks.base import Net, Problem

N = TypeVar("N")


class PairNet(Net, Protocol):
    """A network with an encoder of each modality."""

    @property
    def image(self) -> MLP:
        """The MLP that encodes pictures."""

    @property
    def text(self) -> MLP:
        """The MLP that encodes texts."""

    def embed(self, params: Tensor, pair: Tensor) -> tuple[Tensor, Tensor]:
        """Unit representations ``[C, B, d]`` of both halves of concatenated features."""


@dataclass(frozen=True, kw_only=True)
class PairProblem(Problem):
    """A task on pairs, which clients may learn with networks of their own.

    Attributes
    ----------
    variants : tuple of PairNet
        What clients may have in the place of ``net``, in turn: as it, but for the hidden layers.
    category : Tensor [N] long, optional
        One label a row, -1 for none, by which clients with one modality learn.
    classes : int
        How many labels there are.
    """

    net: PairNet
    variants: tuple[PairNet, ...] = ()
    category: Tensor | None = None
    classes: int = 0

    ALIGNED: ClassVar[tuple[str, ...]] = (*Problem.ALIGNED, "category")

    def represent(self, model: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Both representations ``[n, d]`` of rows ``[n]`` by a model ``[P]``."""
        pairs = self.features[rows.to(self.features.device)].to(model.device)
        with torch.no_grad():
            image, text = self.net.embed(model[None], pairs[None])
        return image[0], text[0]


def variants(config: ModelConfig, build: Callable[[ModelConfig], N]) -> tuple[N, ...]:
    """The networks of ``model.variants``; none: the one that ``[model]`` describes."""
    kinds = config.variants or (config.hidden,)
    return tuple(build(config.changed(hidden=hidden)) for hidden in kinds)

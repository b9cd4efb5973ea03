"""A network for rows of one modality: an encoder and a linear classifier of what it makes."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fedsyn import ops
from fedsyn.models.layout import Layout
from fedsyn.models.mlp import MLP

WEIGHT = "classes.weight"


@dataclass(frozen=True)
class Classifier:
    """An MLP to unit representations, compared with one vector a class."""

    encoder: MLP
    classes: int

    @property
    def layout(self) -> Layout:
        """Where each parameter lies in the flat row."""
        return Layout({**self.encoder.shapes, WEIGHT: (self.classes, self.encoder.widths[-1])})

    def vectors(self, generator: torch.Generator) -> dict[str, Tensor]:
        """The classes' vectors to begin with, uniform as a linear layer's rows."""
        shape = self.layout.shapes[WEIGHT]
        return {WEIGHT: (2 * torch.rand(shape, generator=generator) - 1) / math.sqrt(shape[-1])}

    def represent(self, params: Tensor, x: Tensor) -> Tensor:
        """Unit representations ``[C, B, d]`` of features ``[C, B, in]``."""
        own = params[:, : self.encoder.layout.size]
        return ops.mlp(x, own, (self.encoder.widths,), head="unit")

    def weight(self, params: Tensor) -> Tensor:
        """The classes' vectors ``[C, classes, d]``."""
        return self.layout.views(params)[WEIGHT]

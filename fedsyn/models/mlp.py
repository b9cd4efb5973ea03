"""A multilayer perceptron whose weights carry a client axis: one batched product a layer."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from fedsyn import ops
from fedsyn.models.layout import Layout


@dataclass(frozen=True)
class MLP:
    """Linear layers of the given widths with (leaky) ReLUs between them.

    ``prefix`` names its parameters (``{prefix}.{layer}.weight [in, out]``, ``.bias [1, out]``);
    ``slope`` is the ReLU's for negative inputs.
    """

    prefix: str
    widths: tuple[int, ...]
    slope: float = 0.0

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the parameters of one client."""
        shapes: dict[str, tuple[int, ...]] = {}
        for layer, (fan_in, fan_out) in enumerate(pairwise(self.widths)):
            shapes[f"{self.prefix}.{layer}.weight"] = (fan_in, fan_out)
            shapes[f"{self.prefix}.{layer}.bias"] = (1, fan_out)
        return shapes

    @property
    def layout(self) -> Layout:
        """Where each parameter lies in the flat row."""
        return Layout(self.shapes)

    def init(self, generator: torch.Generator) -> dict[str, Tensor]:
        """One client's parameters, uniform in ±1/√fan_in (torch's default for linear layers)."""
        named = {}
        for layer, (fan_in, fan_out) in enumerate(pairwise(self.widths)):
            bound = 1 / math.sqrt(fan_in)
            for part, shape in (("weight", (fan_in, fan_out)), ("bias", (1, fan_out))):
                draw = torch.rand(shape, generator=generator)
                named[f"{self.prefix}.{layer}.{part}"] = (2 * draw - 1) * bound
        return named

    def layers(self, params: Mapping[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The weights ``[C, in, out]`` and biases ``[C, 1, out]`` from input to output."""
        depth = range(len(self.widths) - 1)
        return (
            [params[f"{self.prefix}.{layer}.weight"] for layer in depth],
            [params[f"{self.prefix}.{layer}.bias"] for layer in depth],
        )

    def __call__(self, params: Tensor, x: Tensor) -> Tensor:
        """Apply rows of parameters ``[C, P]`` to ``x [C, B, in]``; returns ``[C, B, out]``."""
        return ops.mlp(x, params, (self.widths,), self.slope)

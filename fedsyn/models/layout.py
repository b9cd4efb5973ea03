"""How a model's named parameters lie in one flat row, so that C clients are one matrix ``[C, P]``.

Everything that treats a model as a whole (optimisers, aggregation, payloads, checkpoints) works on
that matrix; everything that looks inside works on named views of it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Names and shapes of parameters, in the order in which they lie in the row."""

    shapes: Mapping[str, tuple[int, ...]]

    @property
    def size(self) -> int:
        """How many parameters one client has."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def columns(self, flat: Tensor) -> dict[str, Tensor]:
        """The columns ``[C, size]`` of ``flat [C, P]`` by name; gradients flow back to ``flat``."""
        parts = flat.split([math.prod(shape) for shape in self.shapes.values()], dim=-1)
        return dict(zip(self.shapes, parts, strict=True))

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Named views ``[C, *shape]`` of ``flat [C, P]``; gradients flow back to ``flat``."""
        return {
            name: part.unflatten(-1, self.shapes[name]) for name, part in self.columns(flat).items()
        }

    def flatten(self, named: Mapping[str, Tensor]) -> Tensor:
        """One row ``[P]`` from one client's named parameters, the inverse of `views`."""
        return torch.cat([named[name].reshape(-1) for name in self.shapes])

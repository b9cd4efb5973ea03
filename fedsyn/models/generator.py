"""The network of a paired generator, and its critic.

A generator makes image and text features jointly, conditioned on one of its client's prototypes:

    x = P_y + z·B + MLP([z, P_y]),   z ~ N(0, I)

``B [noise, d]`` are the client's pooled within-cluster principal directions, scaled by their
standard deviations: with the MLP's last layer at zero, ``x`` is the closed-form per-cluster
Gaussian model. Without a warm start ``B`` is zero and the MLP starts at random.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedsyn import ops
from fedsyn.models.layout import Layout
from fedsyn.models.mlp import MLP

SLOPE = 0.2


@dataclass(frozen=True)
class GeneratorNet:
    """Trainable part of the generator: the correction MLP."""

    noise: int
    pair_dim: int
    hidden: tuple[int, ...]

    @property
    def mlp(self) -> MLP:
        """From noise and prototype to a correction of the pair."""
        widths = (self.noise + self.pair_dim, *self.hidden, self.pair_dim)
        return MLP("generator", widths, SLOPE)

    @property
    def layout(self) -> Layout:
        """Where each trainable parameter lies in the flat row."""
        return self.mlp.layout

    def init(self, generator: torch.Generator, warm: bool) -> Tensor:
        """A fresh flat row ``[P]``; ``warm`` puts the last layer at zero."""
        named = self.mlp.init(generator)
        if warm:
            last = len(self.mlp.widths) - 2
            for part in ("weight", "bias"):
                named[f"generator.{last}.{part}"].zero_()
        return self.layout.flatten(named)

    def __call__(
        self,
        params: Tensor | None,  # [C, P]; None: the Gaussian alone
        noise: Tensor,  # [C, B, noise]
        prototype: Tensor,  # [C, B, pair_dim], the prototype of each row
        directions: Tensor,  # [C, (noise + 1) · pair_dim], from `directions`
    ) -> Tensor:  # [C, B, pair_dim]
        """Synthetic pairs of concatenated features; each depends on its row of the inputs alone."""
        pair = prototype + ops.mlp(noise, directions, ((self.noise, self.pair_dim),))
        if params is None:
            return pair
        return pair + self.mlp(params, torch.cat([noise, prototype], -1))


def directions(basis: Tensor) -> Tensor:
    """The client's directions ``B [C, noise, pair_dim]`` as a linear layer without a bias."""
    return torch.nn.functional.pad(basis, (0, 0, 0, 1)).flatten(1)


def critic(pair_dim: int, hidden: tuple[int, ...]) -> MLP:
    """The critic of concatenated pairs: one score a row, piecewise linear in its input."""
    return MLP("critic", (pair_dim, *hidden, 1), SLOPE)

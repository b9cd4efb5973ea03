"""The network of a paired generator, and its critic.

A generator makes image and text features jointly, by default of one of its client's prototypes:

    x = P_y + z·B + MLP([z, P_y]),   z ~ N(0, I)

``B [noise, d]`` are within-cluster principal directions, scaled by their standard deviations: with
the MLP's last layer at zero, ``x`` is the closed-form Gaussian around ``P_y``. Without ``B`` the
MLP starts at random (a cold start); a bounded generator is ``x = bound · tanh(MLP)`` alone.
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
    """Trainable part of the generator, and what it is added to.

    Attributes
    ----------
    noise : int
        Numbers that a pair is made of.
    pair_dim : int
        Numbers of a pair.
    hidden : tuple of int
        Widths of the MLP's hidden layers.
    conditional : bool
        Whether the MLP sees the prototype. One that does not is smaller by as many inputs.
    spread : bool
        Whether z·B is added.
    bound : float, optional
        Largest magnitude of an output: neither the prototype nor z·B is added then.
    """

    noise: int
    pair_dim: int
    hidden: tuple[int, ...]
    conditional: bool = True
    spread: bool = True
    bound: float | None = None

    @property
    def mlp(self) -> MLP:
        """From noise, and the prototype where it is seen, to a pair or its correction."""
        inputs = self.noise + self.pair_dim * self.conditional
        return MLP("generator", (inputs, *self.hidden, self.pair_dim), SLOPE)

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
        params: Tensor | None,  # [C, P]; None: what the MLP is added to
        noise: Tensor,  # [C, B, noise]
        prototype: Tensor,  # [C, B, pair_dim], the prototype of each row
        directions: Tensor,  # [C, (noise + 1) · pair_dim], from `directions`
    ) -> Tensor:  # [C, B, pair_dim]
        """Synthetic pairs of concatenated features; each depends on its row of the inputs alone."""
        pair = prototype
        if self.spread:
            pair = pair + ops.mlp(noise, directions, ((self.noise, self.pair_dim),))
        if params is None:
            return pair
        made = self.mlp(params, torch.cat([noise, prototype], -1) if self.conditional else noise)
        return pair + made if self.bound is None else self.bound * made.tanh()


def directions(basis: Tensor) -> Tensor:
    """The directions ``B [C, noise, pair_dim]`` as a linear layer without a bias."""
    return torch.nn.functional.pad(basis, (0, 0, 0, 1)).flatten(1)


def critic(pair_dim: int, hidden: tuple[int, ...]) -> MLP:
    """The critic of concatenated pairs: one score a row, piecewise linear in its input."""
    return MLP("critic", (pair_dim, *hidden, 1), SLOPE)

"""Critics of generated pairs, in the published forms, and the gradient of their loss.

    D(x)    = ψ(φ(x))                    plain
    D(x, y) = ψ(φ(x)) + ⟨V y, φ(x)⟩      projection: y is the prototype that the pair is one of
    L       = E D(fake) − E D(real) + λ E (‖∇D(between)‖₂ − 1)²

φ are linear layers with LeakyReLUs, ψ is linear. Layers may be normalised before their LeakyReLU
(LayerNorm, which couples no rows: Gulrajani et al. 2017, arXiv 1704.00028, section 4), or weights
divided by their spectral norm, which a power iteration follows (Miyato et al. 2018, arXiv
1802.05957, algorithm 1), V too. The projection is that of Miyato & Koyama 2018 (arXiv 1802.05637),
whose y is a class. Where dropout is asked for, real, fake and in-between rows lose the same values.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, leaky_relu, normalize

from fedsyn import ops
from fedsyn.models.generator import SLOPE, critic
from fedsyn.models.layout import Layout
from fedsyn.models.mlp import MLP


class Scored(NamedTuple):
    """What a critic's step looks at."""

    real: Tensor  # [C, B, D]
    fake: Tensor  # [C, B, D]
    between: Tensor | None  # [C, B, D], where the penalty is taken
    prototype: Tensor  # [C, B, D] of all three
    kept: Tensor  # [C, B, H] factors of hidden values, 0 or 1/(1 − p); H = 0: no dropout


@dataclass(frozen=True)
class Critic:
    """A critic whose parameters are rows ``[C, P]``.

    Attributes
    ----------
    pair_dim : int
        Numbers of a pair.
    hidden : tuple of int
        Widths of its layers.
    form : {"plain", "projection"}
    norm : {"none", "layer", "spectral"}
    dropout : float
        Share of hidden values left out in training.
    """

    pair_dim: int
    hidden: tuple[int, ...]
    form: Literal["plain", "projection"] = "plain"
    norm: Literal["none", "layer", "spectral"] = "none"
    dropout: float = 0.0

    @property
    def mlp(self) -> MLP:
        """ψ ∘ φ without normalisation."""
        return critic(self.pair_dim, self.hidden)

    @property
    def layout(self) -> Layout:
        """Where each parameter lies in the flat row."""
        shapes = self.mlp.shapes
        if self.norm == "layer":
            for layer, width in enumerate(self.hidden):
                shapes |= {f"norm.{layer}.gain": (1, width), f"norm.{layer}.offset": (1, width)}
        if self.form == "projection":
            shapes["projection.weight"] = (self.pair_dim, (self.pair_dim, *self.hidden)[-1])
        return Layout(shapes)

    @property
    def dropped(self) -> int:
        """How many hidden values of a pair dropout is drawn for."""
        return sum(self.hidden) if self.dropout else 0

    @property
    def _compiled(self) -> bool:
        """Whether the critic is one that `fedsyn.ops.critic_step` knows."""
        return self.form == "plain" and self.norm == "none" and not self.dropout

    @property
    def _weights(self) -> Layout:
        """Where the output side of each weight lies in the row that power iteration keeps."""
        shapes = self.layout.shapes.items()
        return Layout({name: (of[1],) for name, of in shapes if name.endswith(".weight")})

    def init(self, generator: torch.Generator) -> Tensor:
        """A fresh flat row ``[P]``; V is uniform in ±1/√D, as a layer without a bias."""
        named = self.mlp.init(generator)
        for name, shape in self.layout.shapes.items():
            if name.startswith("norm."):
                named[name] = torch.full(shape, float(name.endswith("gain")))
            elif name.startswith("projection."):
                draw = torch.rand(shape, generator=generator)
                named[name] = (2 * draw - 1) / shape[0] ** 0.5
        return self.layout.flatten(named)

    def init_power(self, generator: torch.Generator) -> Tensor:
        """What power iteration starts with: a unit row ``[U]`` a weight; empty if there is none."""
        if self.norm != "spectral":
            return torch.zeros(0)
        shapes = self._weights.shapes.values()
        return torch.cat([normalize(torch.randn(of, generator=generator), dim=0) for of in shapes])

    def score(
        self,
        params: Tensor,  # [C, P]
        power: Tensor,  # [C, U], from `init_power` and `turned`
        pairs: Tensor,  # [C, B, D]
        prototype: Tensor,  # [C, B, D]
        kept: Tensor,  # [C, B, H]
    ) -> Tensor:  # [C, B]
        """D of each pair; twice differentiable but where the critic is compiled."""
        if self._compiled:
            return self.mlp(params, pairs).squeeze(-1)
        named = self.layout.views(params)
        if self.norm == "spectral":
            named |= self._normalized(named, power)
        factors = kept.split(self.hidden, -1) if self.dropout else ()
        hidden = pairs
        for layer, width in enumerate(self.hidden):
            hidden = self._linear(named, layer, hidden)
            if self.norm == "layer":
                gain, offset = (named[f"norm.{layer}.{part}"] for part in ("gain", "offset"))
                hidden = torch.addcmul(offset, layer_norm(hidden, (width,)), gain)
            hidden = leaky_relu(hidden, SLOPE)
            if self.dropout:
                hidden = hidden * factors[layer]
        found = self._linear(named, len(self.hidden), hidden).squeeze(-1)
        if self.form == "projection":
            found = found + ((prototype @ named["projection.weight"]) * hidden).sum(-1)
        return found

    def step(
        self, params: Tensor, power: Tensor, rows: Scored, penalty: float
    ) -> tuple[Tensor, Tensor]:  # [C], [C, P]
        """The loss L and its gradient; ``penalty`` is λ."""
        if self._compiled:
            layers = self.mlp.layers(self.mlp.layout.views(params))
            found = ops.critic_step(rows.real, rows.fake, rows.between, *layers, SLOPE, penalty)
            return found.loss, found.gradient
        leaf = params.detach().requires_grad_()
        real, fake = (
            self.score(leaf, power, pairs, rows.prototype, rows.kept).mean(-1)
            for pairs in (rows.real, rows.fake)
        )
        loss = fake - real
        if rows.between is not None:
            between = rows.between.detach().requires_grad_()
            scores = self.score(leaf, power, between, rows.prototype, rows.kept)
            (slope,) = torch.autograd.grad(scores.sum(), between, create_graph=True)
            length = torch.linalg.vector_norm(slope, dim=-1)
            loss = loss + penalty * (length - 1).square().mean(-1)
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        return loss.detach(), gradient

    def turned(self, params: Tensor, power: Tensor) -> Tensor:  # [C, P], [C, U] -> [C, U]
        """The rows of power iteration one turn later: u ← Wᵀ W u / ‖Wᵀ W u‖."""
        if self.norm != "spectral":
            return power
        named, rows = self.layout.views(params), self._weights.views(power)
        turned = []
        for name, row in rows.items():
            inner = normalize(named[name] @ row[..., None], dim=-2)
            turned.append(normalize((named[name].mT @ inner).squeeze(-1), dim=-1))
        return torch.cat(turned, -1)

    def _normalized(self, named: dict[str, Tensor], power: Tensor) -> dict[str, Tensor]:
        """W / σ of every weight, σ = vᵀ W u with v = W u / ‖W u‖ and u held constant."""
        found = {}
        for name, row in self._weights.views(power).items():
            weight, outer = named[name], row[..., None]
            inner = normalize(weight.detach() @ outer, dim=-2)
            found[name] = weight / (inner.mT @ weight @ outer)
        return found

    def _linear(self, named: dict[str, Tensor], layer: int, rows: Tensor) -> Tensor:
        weight, bias = (named[f"critic.{layer}.{part}"] for part in ("weight", "bias"))
        return torch.baddbmm(bias, rows, weight)

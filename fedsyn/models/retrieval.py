"""The retrieval network: a tower a modality into one space.

    u = head(x A + MLP(x))

With a linear term A the network can start where a linear map does (`fedsyn.models.start`): its
MLP's last layer is zero then. A network that starts at random is the MLP alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fedsyn import ops
from fedsyn.models.layout import Layout
from fedsyn.models.mlp import MLP
from fedsyn.models.settings import ModelConfig
from fedsyn.models.start import LinearStart


@dataclass(frozen=True)
class RetrievalNet:
    """Two stacked towers whose outputs are compared by their scalar product.

    Attributes
    ----------
    image, text : MLP
    bits : int
        0 gives unit-norm embeddings; above, the relaxed hash codes tanh(u)/‖tanh(u)‖ whose signs
        are the code.
    extra : mapping of str to Tensor
        Parameters that the objective trains with the network, name to initial value.
    linear : {"none", "trained", "frozen"}
        Whether towers have a linear term, and whether that is trained.
    """

    image: MLP
    text: MLP
    bits: int
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    linear: Literal["none", "trained", "frozen"] = "none"

    @property
    def layout(self) -> Layout:
        """Where each parameter lies in the flat row."""
        extra = {name: tuple(value.shape) for name, value in self.extra.items()}
        towers = [{**one.shapes, **self._linear_shape(one)} for one in (self.image, self.text)]
        return Layout({**towers[0], **towers[1], **extra})

    def _linear_shape(self, tower: MLP) -> dict[str, tuple[int, ...]]:
        if self.linear == "none":
            return {}
        return {f"{tower.prefix}.linear": (tower.widths[0], tower.widths[-1])}

    def init(self, generator: torch.Generator) -> Tensor:
        """A fresh model as one flat row ``[P]``."""
        named = {**self.image.init(generator), **self.text.init(generator), **self.extra}
        for tower in (self.image, self.text):
            named |= {name: torch.zeros(at) for name, at in self._linear_shape(tower).items()}
        return self.layout.flatten(named)

    def started(self, model: Tensor, start: LinearStart) -> Tensor:
        """A fresh model ``[P]`` that embeds as linear maps do; its hidden layers stay as they are.

        A tower without hidden layers is such a map itself.
        """
        named = {name: value.clone() for name, value in self.layout.views(model).items()}
        for tower, (weight, bias) in ((self.image, start.image), (self.text, start.text)):
            last = len(tower.widths) - 2
            if self.linear == "none":
                named[f"{tower.prefix}.{last}.weight"] = weight.to(model)
            else:
                named[f"{tower.prefix}.linear"] = weight.to(model)
                named[f"{tower.prefix}.{last}.weight"].zero_()
            named[f"{tower.prefix}.{last}.bias"] = bias.to(model)
        return self.layout.flatten(named)

    def embed(self, params: Tensor, pair: Tensor) -> tuple[Tensor, Tensor]:
        """Both embeddings ``[C, B, dim]`` of concatenated pairs ``[C, B, d_v + d_t]``.

        ``params [C, P]`` are models as flat rows.
        """
        own = params[:, : self.layout.size - self._extra_size] if self.extra else params
        if self.linear == "frozen" and own.requires_grad:
            own = self._with_linear_held(own)
        found = ops.mlp(pair, own, self.towers, head=self.head, skip=self.linear != "none")
        image, text = found.chunk(2, -1)
        return image, text

    def _with_linear_held(self, own: Tensor) -> Tensor:
        """The towers' parameters, through whose linear terms no gradient flows."""
        sizes = chain.from_iterable(
            (one.layout.size, one.widths[0] * one.widths[-1]) for one in (self.image, self.text)
        )
        layers = own.split(list(sizes), -1)
        return torch.cat([layers[0], layers[1].detach(), layers[2], layers[3].detach()], -1)

    @property
    def code(self) -> int:
        """How many numbers an embedding has."""
        return self.image.widths[-1]

    @property
    def towers(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The widths of both MLPs' layers."""
        return self.image.widths, self.text.widths

    @property
    def head(self) -> Literal["unit", "tanh_unit"]:
        """What becomes of their outputs."""
        return "tanh_unit" if self.bits else "unit"

    def extras(self, params: Tensor) -> dict[str, Tensor]:
        """Views ``[C, ...]`` of the parameters that belong to the objective."""
        if not self.extra:
            return {}
        views = self.layout.views(params)
        return {name: views[name] for name in self.extra}

    @property
    def _extra_size(self) -> int:
        return sum(value.numel() for value in self.extra.values())


def fuse(image: Tensor, text: Tensor) -> Tensor:
    """The fused embedding of a pair: the normalised mean of its two embeddings."""
    return normalize(image + text, dim=-1)


def build(
    config: ModelConfig,
    image_dim: int,
    text_dim: int,
    extra: Mapping[str, Tensor],
    out: int = 0,
    linear: bool = False,
) -> RetrievalNet:
    """The network that the configuration describes, for features of the given sizes.

    Parameters
    ----------
    config : ModelConfig
    image_dim, text_dim : int
    extra : mapping of str to Tensor
        The objective's parameters.
    out : int
        Size of an embedding; 0: as configured.
    linear : bool
        Whether the MLPs stand beside a linear term. Without hidden layers they are one.
    """
    out = out or config.bits or config.embedding
    return RetrievalNet(
        image=MLP("image", (image_dim, *config.hidden, out)),
        text=MLP("text", (text_dim, *config.hidden, out)),
        bits=config.bits,
        extra=extra,
        linear=config.linear if linear and config.hidden else "none",
    )

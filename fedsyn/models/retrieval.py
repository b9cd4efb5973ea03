"""The retrieval network: an image MLP and a text MLP into one space."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fedsyn import ops
from fedsyn.models.layout import Layout
from fedsyn.models.mlp import MLP
from fedsyn.models.settings import ModelConfig


@dataclass(frozen=True)
class RetrievalNet:
    """Two stacked MLPs whose outputs are compared by their scalar product.

    ``bits`` = 0 gives unit-norm embeddings of size ``dim``; ``bits`` > 0 gives the relaxed hash
    codes tanh(u)/‖tanh(u)‖ whose signs are the code. ``extra`` are parameters that the objective
    trains with the network (name to initial value).
    """

    image: MLP
    text: MLP
    bits: int
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def layout(self) -> Layout:
        """Where each parameter lies in the flat row."""
        extra = {name: tuple(value.shape) for name, value in self.extra.items()}
        return Layout({**self.image.shapes, **self.text.shapes, **extra})

    def init(self, generator: torch.Generator) -> Tensor:
        """A fresh model as one flat row ``[P]``."""
        named = {**self.image.init(generator), **self.text.init(generator), **self.extra}
        return self.layout.flatten(named)

    def embed(self, params: Tensor, pair: Tensor) -> tuple[Tensor, Tensor]:
        """Both embeddings ``[C, B, dim]`` of concatenated pairs ``[C, B, d_v + d_t]``.

        ``params [C, P]`` are models as flat rows.
        """
        own = params[:, : self.layout.size - self._extra_size] if self.extra else params
        image, text = ops.mlp(pair, own, self.towers, head=self.head).chunk(2, -1)
        return image, text

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
    config: ModelConfig, image_dim: int, text_dim: int, extra: Mapping[str, Tensor]
) -> RetrievalNet:
    """The network that the configuration describes, for features of the given sizes."""
    out = config.bits or config.dim
    return RetrievalNet(
        image=MLP("image", (image_dim, *config.hidden, out)),
        text=MLP("text", (text_dim, *config.hidden, out)),
        bits=config.bits,
        extra=extra,
    )

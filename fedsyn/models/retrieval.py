"""The retrieval network: an image MLP and a text MLP into one space."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fedsyn.config import ModelConfig
from fedsyn.models.layout import Layout
from fedsyn.models.mlp import MLP


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

    def embed_image(self, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Embeddings ``[C, B, dim]`` of image features ``[C, B, d_v]``."""
        return self._head(self.image(params, x))

    def embed_text(self, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Embeddings ``[C, B, dim]`` of text features ``[C, B, d_t]``."""
        return self._head(self.text(params, x))

    def embed(self, params: Mapping[str, Tensor], pair: Tensor) -> tuple[Tensor, Tensor]:
        """Both embeddings of concatenated pairs ``[C, B, d_v + d_t]``."""
        image, text = pair.split([self.image.widths[0], self.text.widths[0]], dim=-1)
        return self.embed_image(params, image), self.embed_text(params, text)

    def _head(self, hidden: Tensor) -> Tensor:
        return normalize(torch.tanh(hidden) if self.bits else hidden, dim=-1)


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

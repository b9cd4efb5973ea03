"""The network that self-supervision trains: an encoder, and a projection that is thrown away."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from fedsyn import ops
from fedsyn.models.layout import Layout
from fedsyn.models.mlp import MLP
from fedsyn.models.resnet import ResNet
from fedsyn.models.settings import ModelConfig

EPSILON = 1e-5  # of a variance


@dataclass(frozen=True)
class RepresentationNet:
    """Pictures to features, and these to unit rows that objectives compare.

    ``head`` projects features (Chen et al. 2020, arXiv 2002.05709, section 4.2); ``predictor``,
    which only some objectives have, follows it (Grill et al. 2020, arXiv 2006.07733, section 3.1).
    Their hidden layers have batch normalisation, whose shift is the layer's bias: without a learnt
    scale, and without running statistics that clients would have to agree on, for neither head is
    ever applied to a single picture.
    """

    encoder: ResNet
    head: MLP
    predictor: MLP | None = None

    @property
    def layout(self) -> Layout:
        """Where each parameter lies in the flat row."""
        return Layout({name: shape for part in self._parts for name, shape in part.shapes.items()})

    def init(self, generator: torch.Generator) -> Tensor:
        """A fresh model as one flat row ``[P]``."""
        named = {name: v for part in self._parts for name, v in part.init(generator).items()}
        return self.layout.flatten(named)

    def encode(self, params: Tensor, x: Tensor) -> Tensor:
        """Features ``[C, B, width]`` of pixels ``x [C, B, H·W·channels]``, by ``params [C, P]``."""
        return self.encoder(params[:, : self.encoder.layout.size], x)

    def project(self, params: Tensor, features: Tensor, valid: Tensor) -> Tensor:
        """Unit rows ``[C, B, dim]`` of features, which objectives compare.

        Rows that are not ``valid [C, B]`` come out as anything and change no other.
        """
        return _through(self.head, self._split(params)[0], features, valid, "unit")

    def predict(self, params: Tensor, features: Tensor, valid: Tensor) -> Tensor:
        """Unit rows ``[C, B, dim]`` that predict another model's projection of features.

        Raises
        ------
        ValueError
            If the network has no predictor.
        """
        if self.predictor is None:
            raise ValueError("expected a network with a predictor, got one without")
        head, predictor = self._split(params)
        projected = _through(self.head, head, features, valid, "linear")
        return _through(self.predictor, predictor, projected, valid, "unit")

    def _split(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """The parameters of the head, and those of the predictor."""
        rest = params[:, self.encoder.layout.size :]
        head, predictor = rest.tensor_split([self.head.layout.size], -1)
        return head, predictor

    @property
    def _parts(self) -> tuple[ResNet | MLP, ...]:
        parts = (self.encoder, self.head)
        return parts if self.predictor is None else (*parts, self.predictor)


def _through(
    mlp: MLP,
    params: Tensor,  # [C, P], its own
    x: Tensor,  # [C, B, in]
    valid: Tensor,  # [C, B] bool
    head: Literal["linear", "unit"],
) -> Tensor:  # [C, B, out]
    """A perceptron whose hidden units are normalised over the valid rows of the batch."""
    layers = list(pairwise(mlp.widths))
    sizes = [(fan_in + 1) * fan_out for fan_in, fan_out in layers]
    *hidden, last = zip(layers, params.split(sizes, -1), strict=True)
    taken = valid[..., None]
    number = taken.sum(1, keepdim=True).clamp(min=1)
    for widths, own in hidden:
        x = ops.mlp(x, own, (widths,))
        x = x - x.masked_fill(~taken, 0).sum(1, keepdim=True) / number  # and so without the bias
        variance = x.masked_fill(~taken, 0).square().sum(1, keepdim=True) / number
        bias = own[:, None, -widths[1] :]
        x = (x * (variance + EPSILON).rsqrt() + bias).relu()
    return ops.mlp(x, last[1], (last[0],), head=head)


def build(config: ModelConfig, picture: tuple[int, int, int], predicts: bool) -> RepresentationNet:
    """The network that the configuration describes, for pictures of height, width, channels."""
    encoder = ResNet("encoder", picture, config.channels, config.blocks, config.stride)
    predictor = MLP("predictor", (config.embedding, *config.hidden, config.embedding))
    return RepresentationNet(
        encoder=encoder,
        head=MLP("head", (encoder.width, *config.hidden, config.embedding)),
        predictor=predictor if predicts else None,
    )

"""The classifier of pairs: two encoders, their projectors and classifiers, and a fusion head.

of the image, and of the text:  a = ReLU(backbone(features)),  z = own(a),  x = cross(a)
modality classifier: logits of z or of x
fusion head: logits of [z_image, z_text] = (W_image z_image + b/2) + (W_text z_text + b/2),
where in place of a missing half's z stands the other half's x, or 0 in a net without it
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from fedsyn.errors import ConfigError
from fedsyn.models.layout import Layout
from fedsyn.models.mlp import MLP
from fedsyn.models.settings import ModelConfig

MODALITIES = ("image", "text")  # their order wherever there are two of something

Both = tuple[Tensor, Tensor]  # of the image, and of the text
Parts = Mapping[str, Tensor]  # [C, P_module] of each module by name


class Reading(NamedTuple):
    """What a net makes of a batch on the way to its logits."""

    parts: Parts
    own: Both  # [C, B, dim], anything where the half is missing
    cross: Both | None  # likewise, of a net that has it
    fused: Both  # [C, B, dim], what the fusion head is given

    def crossed(self) -> Both:
        """The cross projections; raises ValueError if the net has no projectors for them."""
        return crossed(self.cross)


def crossed(cross: Both | None) -> Both:
    """The cross projections; raises ValueError if the net has no projectors for them."""
    if cross is None:
        raise ValueError("expected a net with cross projectors, got one without")
    return cross


@dataclass(frozen=True)
class FusionNet:
    """Stacked classifiers of concatenated image and text features.

    ``cross`` adds the second projector of each modality, for methods that train it.
    """

    image: int  # image features, which come first
    text: int  # text features
    hidden: tuple[int, ...]  # widths of the backbones, a ReLU after each
    dim: int  # size of a projection
    classes: int
    cross: bool = False

    @cached_property
    def modules(self) -> dict[str, MLP]:
        """Everything trainable by name, in the order in which it lies in the flat row."""
        projectors = ("own", "cross") if self.cross else ("own",)
        widths: dict[str, tuple[int, ...]] = {}
        for modality, features in zip(MODALITIES, (self.image, self.text), strict=True):
            widths[f"{modality}.backbone"] = (features, *self.hidden)
            widths |= {f"{modality}.{name}": (self.hidden[-1], self.dim) for name in projectors}
            widths[f"{modality}.classifier"] = (self.dim, self.classes)
        widths["fusion"] = (2 * self.dim, self.classes)
        return {name: MLP(name, own) for name, own in widths.items()}

    @property
    def further(self) -> dict[str, tuple[int, ...]]:
        """Shapes ``(1, dim)`` of parameters of no module, which lie behind theirs; here none."""
        return {}

    @cached_property
    def layout(self) -> Layout:
        """Where each parameter lies in the flat row."""
        shapes = (*(module.shapes for module in self.modules.values()), self.further)
        return Layout({name: shape for own in shapes for name, shape in own.items()})

    def init(self, generator: torch.Generator) -> Tensor:
        """A fresh model as one flat row ``[P]``; what is not ``cross`` is the same without it."""
        named: dict[str, Tensor] = {}
        for name in sorted(self.modules, key=lambda name: name.endswith(".cross")):
            named |= self.modules[name].init(generator)
        for name, shape in self.further.items():
            named[name] = torch.randn(shape, generator=generator) / math.sqrt(self.dim)
        return self.layout.flatten(named)

    def split(self, params: Tensor) -> dict[str, Tensor]:
        """The columns of ``params [..., P]`` that belong to each module, and the further ones."""
        sizes = {name: module.layout.size for name, module in self.modules.items()}
        sizes |= {name: math.prod(shape) for name, shape in self.further.items()}
        return dict(zip(sizes, params.split(list(sizes.values()), -1), strict=True))

    def sides(self, params: Tensor) -> dict[str, Tensor]:
        """The columns of ``params [..., P]`` of the image, of the text and of the fusion head."""
        parts = self.split(params)
        return {
            side: torch.cat([part for name, part in parts.items() if name.startswith(side)], -1)
            for side in (*MODALITIES, "fusion")
        }

    def read(self, params: Tensor, features: Tensor, present: Tensor) -> Reading:
        """Both halves of ``features [C, B, D]``, of which those ``present [C, B, 2]`` are there."""
        parts = self.split(params)
        image, text = self._each(parts, "backbone", features.split([self.image, self.text], -1))
        encoded = (torch.relu(image), torch.relu(text))
        own = self._each(parts, "own", encoded)
        cross = self._each(parts, "cross", encoded) if self.cross else None
        return Reading(parts, own, cross, self.fuse(parts, own, cross, present))

    def fuse(self, parts: Parts, own: Both, cross: Both | None, present: Tensor) -> Both:
        """What the fusion head is given ``[C, B, dim]`` of projections, by what is there."""
        from_image, from_text = cross or (own[0].new_zeros(()),) * 2
        has_image, has_text = present.unsqueeze(-1).unbind(-2)
        return torch.where(has_image, own[0], from_text), torch.where(has_text, own[1], from_image)

    def classify(self, parts: Parts, projected: Both) -> Both:  # [C, B, classes]
        """Logits of each modality's classifier."""
        return self._each(parts, "classifier", projected)

    def halves(self, parts: Parts, projected: Both) -> Both:  # [C, B, classes]
        """The fusion head's logits of each half alone; they add up to those of the pair."""
        weight, bias = self.modules["fusion"].layout.views(parts["fusion"]).values()
        image, text = (
            torch.baddbmm(bias / 2, half, own)
            for half, own in zip(projected, weight.split(self.dim, 1), strict=True)
        )
        return image, text

    def _each(self, parts: Parts, module: str, inputs: Both) -> Both:
        image, text = (
            self.modules[f"{modality}.{module}"](parts[f"{modality}.{module}"], half)
            for modality, half in zip(MODALITIES, inputs, strict=True)
        )
        return image, text


def build(
    config: ModelConfig,
    image_dim: int,
    text_dim: int,
    classes: int,
) -> FusionNet:
    """The classifier that the configuration describes, for features of the given sizes.

    Raises
    ------
    ConfigError
        If ``model.hidden`` is empty: a backbone has at least one layer.
    """
    if not config.hidden:
        raise ConfigError("model.hidden = [] leaves no backbone; expected at least one width")
    return FusionNet(image_dim, text_dim, config.hidden, config.embedding, classes)

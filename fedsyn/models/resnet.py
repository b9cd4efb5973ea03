"""A small residual network for pictures, whose parameters carry a client axis.

The network of He et al. 2016 (arXiv 1512.03385, section 4.2) for small pictures: a 3x3 convolution,
then stages of basic blocks, each stage after the first at half the resolution, and the mean over
positions. A block whose shape changes has a 1x1 convolution on its shortcut.

Every convolution is followed by group normalisation (Wu & He 2018, arXiv 1803.08494) in place of
batch normalisation, whose statistics are of each client's own classes: averaged over skewed clients
they fit nobody's (Hsieh et al. 2020, arXiv 1910.00189).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import conv2d, group_norm

from fedsyn.models.layout import Layout


@dataclass(frozen=True)
class ResNet:
    """Pictures to features of size ``width``.

    ``prefix`` names its parameters: of each convolution ``{prefix}.{name}.weight [out, in, k, k]``
    and its normalisation's ``.scale [out]`` and ``.shift [out]``.

    Raises
    ------
    ValueError
        If a stage's channels do not divide into ``groups``.
    """

    prefix: str
    picture: tuple[int, int, int]  # height, width, channels
    channels: tuple[int, ...] = (16, 32, 64)  # of each stage
    blocks: int = 1  # a stage
    stride: int = 1  # of the first convolution
    groups: int = 8  # of the normalisation

    def __post_init__(self) -> None:
        odd = [count for count in self.channels if count % self.groups]
        if odd:
            raise ValueError(f"expected channels in {self.groups} equal groups, got {odd[0]}")

    @property
    def width(self) -> int:
        """How many features a picture has."""
        return self.channels[-1]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the parameters of one client."""
        before = self.channels[0]
        convolutions = {"stem": (before, self.picture[2], 3, 3)}
        for name, out, stride in self._plan():
            convolutions[f"{name}.0"] = (out, before, 3, 3)
            convolutions[f"{name}.1"] = (out, out, 3, 3)
            if out != before or stride > 1:
                convolutions[f"{name}.shortcut"] = (out, before, 1, 1)
            before = out
        shapes: dict[str, tuple[int, ...]] = {}
        for name, weight in convolutions.items():
            shapes[f"{self.prefix}.{name}.weight"] = weight
            shapes[f"{self.prefix}.{name}.scale"] = weight[:1]
            shapes[f"{self.prefix}.{name}.shift"] = weight[:1]
        return shapes

    @property
    def layout(self) -> Layout:
        """Where each parameter lies in the flat row."""
        return Layout(self.shapes)

    def init(self, generator: torch.Generator) -> dict[str, Tensor]:
        """One client's parameters: normal of variance 2 / fan_out (He et al. 2015), scales 1."""
        named = {}
        for name, shape in self.shapes.items():
            if name.endswith("weight"):
                fan_out = shape[0] * math.prod(shape[2:])
                named[name] = torch.randn(shape, generator=generator) * math.sqrt(2 / fan_out)
            else:
                named[name] = torch.full(shape, float(name.endswith("scale")))
        return named

    def __call__(self, params: Tensor, x: Tensor) -> Tensor:
        """Features ``[C, B, width]`` of pixels ``x [C, B, H·W·channels]`` by ``params [C, P]``.

        Pixels lie channels last and are about in [-1, 1].
        """
        # Client by client: a grouped convolution of all clients takes 1.4 times as long on a CPU,
        # and picks its algorithm by their number, so that a client's numbers depend on the others.
        features = [
            self._block(named, -1, self._body(named, pixels)).mean((2, 3))
            for named, pixels in zip(self._clients(params), x, strict=True)
        ]
        return torch.stack(features)

    def body(self, params: Tensor, x: Tensor) -> Tensor:
        """Maps ``[C, B, channels, h, w]`` that the last block gets."""
        both = zip(self._clients(params), x, strict=True)
        return torch.stack([self._body(named, pixels) for named, pixels in both])

    def last(self, params: Tensor, maps: Tensor, share: float = 1.0) -> Tensor:
        """Maps ``[C, B, share · width, h, w]`` of the last block, of its first channels alone.

        ``share`` is of whole groups of the normalisation.
        """
        both = zip(self._clients(params), maps, strict=True)
        return torch.stack([self._block(named, -1, own, share) for named, own in both])

    def _clients(self, params: Tensor) -> list[dict[str, Tensor]]:
        layout = self.layout
        return [layout.views(row) for row in params]

    def _body(self, named: Mapping[str, Tensor], x: Tensor) -> Tensor:
        maps = x.unflatten(-1, self.picture).permute(0, 3, 1, 2)
        maps = self._convolve(named, "stem", maps, self.channels[0], self.stride).relu()
        for number in range(len(self._plan()) - 1):
            maps = self._block(named, number, maps)
        return maps

    def _block(
        self, named: Mapping[str, Tensor], number: int, maps: Tensor, share: float = 1.0
    ) -> Tensor:
        name, out, stride = self._plan()[number]
        width = round(share * out)
        inner = self._convolve(named, f"{name}.0", maps, width, stride).relu()
        inner = self._convolve(named, f"{name}.1", inner, width)
        if f"{self.prefix}.{name}.shortcut.weight" in named:
            maps = self._convolve(named, f"{name}.shortcut", maps, width, stride)
        return (maps[:, :width] + inner).relu()

    def _convolve(
        self, named: Mapping[str, Tensor], name: str, x: Tensor, width: int, stride: int = 1
    ) -> Tensor:
        """The first ``width`` channels of a convolution, normalised."""
        weight, scale, shift = (
            named[f"{self.prefix}.{name}.{part}"] for part in ("weight", "scale", "shift")
        )
        groups = self.groups * width // len(weight)  # as large as those of all channels
        weight = weight[:width, : x.shape[1]]
        x = conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        return group_norm(x, groups, scale[:width], shift[:width])

    def _plan(self) -> list[tuple[str, int, int]]:
        """Name, channels and stride of each block."""
        return [
            (f"{stage}.{block}", out, 2 if stage and not block else 1)
            for stage, out in enumerate(self.channels)
            for block in range(self.blocks)
        ]

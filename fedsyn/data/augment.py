"""Random views of pictures: crops, mirrors, light, colour and sharpness.

The augmentations of SimCLR (Chen et al. 2020, arXiv 2002.05709, appendix A), in a fixed order, as a
function of uniform numbers: who draws them decides whose they are. A draw has the same length
whatever is configured and whatever a picture is, so that streams do not depend on either.
"""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, pad

from fedsyn import streams
from fedsyn.data.features import LUMA
from fedsyn.settings.sections import Field, Fraction, Section


class AugmentConfig(Section):
    """How random views of pictures are made."""

    crop: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.4, description="least share of the area that is kept"
    )
    flip: Fraction = Field(
        0.0, description="share mirrored left to right; a mirrored letter is another letter"
    )
    brightness: Fraction = Field(0.4, description="strength of changes of brightness")
    contrast: Fraction = Field(0.4, description="strength of changes of contrast")
    saturation: Fraction = Field(
        0.4, description="strength of changes of saturation, of coloured pictures"
    )
    grey: Fraction = Field(0.2, description="share of coloured pictures that lose their colours")
    blur: Fraction = Field(0.0, description="share that is blurred")


# The uniform numbers that a view takes.
NUMBERS = (
    "area", "ratio", "x", "y", "mirror", "light", "contrast", "colour", "grey", "soft", "sigma",
)  # fmt: skip
EPSILON = torch.finfo(torch.float32).tiny  # of a random number whose logarithm is taken
RATIO = 4 / 3  # most that a crop is stretched
SIGMA = 0.1, 2.0  # of the blur, in pixels


def draw(generators: Sequence[torch.Generator], *shape: int) -> Tensor:
    """The numbers of views ``[C, *shape, 11]``, row ``c`` from client ``c``'s own generator."""
    return streams.uniform(generators, *shape, len(NUMBERS))


def augment(
    pictures: Tensor,  # [..., H, W, channels] in [-1, 1]
    numbers: Tensor,  # [..., 11] in [0, 1), of `draw`
    config: AugmentConfig,
) -> Tensor:  # [..., H, W, channels] in [-1, 1]
    """A view of each picture; grey pictures have one channel, coloured ones three.

    Raises
    ------
    ValueError
        If the leading axes differ, or there are other than one or three channels.
    """
    lead, shape = pictures.shape[:-3], pictures.shape[-3:]
    if numbers.shape != (*lead, len(NUMBERS)) or shape[-1] not in (1, 3):
        raise ValueError(
            f"pictures are {tuple(pictures.shape)} and numbers {tuple(numbers.shape)}; expected "
            f"[..., H, W, 1 or 3] and [..., {len(NUMBERS)}]"
        )
    maps = (pictures.reshape(-1, *shape).movedim(-1, 1) + 1) / 2  # [n, channels, H, W] in [0, 1]
    area, ratio, x, y, mirror, light, contrast, colour, grey, soft, sigma = (
        numbers.reshape(-1, len(NUMBERS)).to(maps).movedim(-1, 0)
    )
    maps = _cropped(maps, area, ratio, x, y, mirror < config.flip, config.crop)
    maps = (maps * _factor(light, config.brightness)).clamp(0, 1)
    mean = _luma(maps).mean((1, 2, 3), keepdim=True)
    maps = _between(mean, maps, _factor(contrast, config.contrast))
    maps = _between(_luma(maps), maps, _factor(colour, config.saturation))
    maps = torch.where(_wide(grey < config.grey), _luma(maps), maps)
    maps = torch.where(_wide(soft < config.blur), _blurred(maps, sigma), maps)
    return (maps * 2 - 1).movedim(1, -1).reshape(pictures.shape)


def hide(
    pictures: Tensor,  # [C, B, D], of each client the first few exist
    sizes: Sequence[int],  # how many, of each client
    generators: Sequence[torch.Generator],  # one a client
    mixed: int,
    signs: bool,
) -> Tensor:  # [C, B, D]
    """Each picture mixed with ``mixed - 1`` others of its client, and its pixels' signs at random.

    The weights are uniform on the simplex. After InstaHide (Huang et al. 2020, arXiv 2010.02772),
    which also bounds the largest weight.
    """
    hidden = pictures.clone()
    for client, (size, generator) in enumerate(zip(sizes, generators, strict=True)):
        held = pictures[client, :size]
        weight = -torch.rand(mixed, size, generator=generator).clamp(min=EPSILON).log()
        weight = (weight / weight.sum(0)).to(held)
        own = weight[0, :, None] * held
        for share in weight[1:]:
            other = torch.randperm(size, generator=generator).to(held.device)
            own = own + share[:, None] * held[other]
        if signs:
            own = own * (2 * torch.randint(2, own.shape, generator=generator) - 1).to(held)
        hidden[client, :size] = own
    return hidden


def _cropped(
    maps: Tensor,
    area: Tensor,
    ratio: Tensor,
    x: Tensor,
    y: Tensor,
    mirrored: Tensor,
    least: float,
) -> Tensor:
    """A random part of each picture at the picture's size, bilinearly."""
    share = least + (1 - least) * area
    stretch = torch.exp((2 * ratio - 1) * math.log(RATIO) / 2) if least < 1 else 1.0
    wide, high = ((share.sqrt() * s).clamp(max=1) for s in (stretch, 1 / stretch))
    across, down = (2 * x - 1) * (1 - wide), (2 * y - 1) * (1 - high)
    nothing = torch.zeros_like(share)
    corners = torch.stack(
        [
            torch.stack([torch.where(mirrored, -wide, wide), nothing, across], -1),
            torch.stack([nothing, high, down], -1),
        ],
        -2,
    )
    grid = affine_grid(corners, list(maps.shape), align_corners=False)
    # The outermost half pixel lies beyond the outermost centres.
    return grid_sample(maps, grid, padding_mode="border", align_corners=False)


def _factor(number: Tensor, strength: float) -> Tensor:
    return _wide(1 + strength * (2 * number - 1))


def _between(start: Tensor, maps: Tensor, factor: Tensor) -> Tensor:
    return (start + factor * (maps - start)).clamp(0, 1)


def _luma(maps: Tensor) -> Tensor:  # [n, 1, H, W]
    if maps.shape[1] == 1:
        return maps
    weights = torch.from_numpy(LUMA).to(maps)
    return (maps * weights[:, None, None]).sum(1, keepdim=True)


def _blurred(maps: Tensor, sigma: Tensor) -> Tensor:
    """A Gaussian of three taps a direction, of each picture's own width."""
    low, high = SIGMA
    side = torch.exp(-0.5 / (low + (high - low) * sigma).square())[:, None, None, None]
    for axis, margin in ((3, (1, 1, 0, 0)), (2, (0, 0, 1, 1))):
        more = pad(maps, margin, mode="replicate")
        size = maps.shape[axis]
        before, after = more.narrow(axis, 0, size), more.narrow(axis, 2, size)
        maps = (maps + side * (before + after)) / (1 + 2 * side)
    return maps


def _wide(values: Tensor) -> Tensor:  # [n] -> [n, 1, 1, 1]
    return values[:, None, None, None]

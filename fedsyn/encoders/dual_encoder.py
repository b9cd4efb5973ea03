"""Dual encoders of this package: a retrieval network with its preprocessing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fedsyn.data.preprocessing import transform_image, transform_text
from fedsyn.data.sections import DataConfig
from fedsyn.encoders.base import Teacher, TeacherConfig
from fedsyn.errors import ConfigError
from fedsyn.models.mlp import MLP
from fedsyn.models.retrieval import RetrievalNet, build
from fedsyn.models.settings import ModelConfig
from fedsyn.settings.loading import read_tree, validated


@dataclass(frozen=True)
class DualEncoder:
    """A trained retrieval network as an encoder."""

    net: RetrievalNet
    model: Tensor  # [P]
    preprocessing: Mapping[str, Tensor]
    scale: float

    def pictures(self, pixels: np.ndarray) -> Tensor:
        """Unit rows ``[n, d]`` of uint8 pixels ``[n, H, W]`` or ``[n, H, W, 3]``."""
        image = transform_image(pixels, self.preprocessing)
        return self._embed(image, image.new_zeros(len(image), self.net.text.widths[0]))[0]

    def texts(self, strings: Sequence[str]) -> Tensor:
        """Unit rows ``[n, d]`` of strings."""
        text = transform_text(strings, self.preprocessing)
        return self._embed(text.new_zeros(len(text), self.net.image.widths[0]), text)[1]

    def _embed(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        both = self.net.embed(self.model[None], torch.cat([image, text], -1)[None])
        return both[0][0], both[1][0]


def network(config: ModelConfig, preprocessing: Mapping[str, Tensor]) -> RetrievalNet:
    """The network as configured, for features of the preprocessing."""
    image, text = (len(preprocessing[f"{side}.scale"]) for side in ("image", "text"))
    return build(config, image, text, {})


def network_of(named: Mapping[str, Tensor], bits: int) -> RetrievalNet:
    """The network that these parameters are of: a method may have changed what is configured."""
    towers = []
    for side in ("image", "text"):
        weights: list[Tensor] = []
        while (weight := named.get(f"{side}.{len(weights)}.weight")) is not None:
            weights.append(weight)
        widths = (len(weights[0]), *(weight.shape[1] for weight in weights))
        towers.append(MLP(side, widths))
    image, text = towers
    return RetrievalNet(image, text, bits, linear="trained" if "image.linear" in named else "none")


def load(config: TeacherConfig, data: DataConfig, dim: int) -> DualEncoder:
    """The model that ``fedsyn run`` left in the directory ``teacher.path``.

    Its scale is the inverse temperature that it was trained at.

    Raises
    ------
    ConfigError
        If it is not the directory of a finished run of retrieval with one model, pictures and
        strings.
    """
    folder = Path(config.path)
    try:
        named = load_file(folder / "model.safetensors")
        preprocessing = load_file(folder / "preprocessing.safetensors")
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"teacher.path = {str(folder)!r} is not the directory of a finished run: {error}"
        ) from None
    run = read_tree(folder / "config.toml")
    if not {"image.size", "text.idf"} <= preprocessing.keys() or "image.0.weight" not in named:
        raise ConfigError(
            f"teacher.path = {str(folder)!r} is a run that has no single model of pictures and "
            "strings"
        )
    net = network_of(named, validated(ModelConfig, run.get("model", {})).bits)
    scale = 1 / float(run.get("objective", {}).get("temperature", 1.0))
    if "log_scale" in named:
        scale = math.exp(float(named["log_scale"]))
    return DualEncoder(net, net.layout.flatten(named), preprocessing, scale)


RUN = Teacher(name="run", load=load)

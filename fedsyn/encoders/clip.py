"""CLIP (Radford et al. 2021, arXiv 2103.00020), by open_clip or transformers: the extra ``clip``.

Models are files that the user has; nothing is downloaded.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # what torch says of a file that is not its own
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from fedsyn.data.sections import DataConfig
from fedsyn.encoders.base import Teacher, TeacherConfig
from fedsyn.errors import ConfigError
from fedsyn.settings.plugins import FLAT
from fedsyn.settings.sections import Field, Section

BLOCK = 64  # pictures encoded at a time


class OpenClipOptions(Section):
    """Options of a teacher by open_clip."""

    architecture: str = Field("ViT-B-32", description="architecture, of open_clip")


@dataclass(frozen=True)
class OpenClip:
    """A model of open_clip as an encoder."""

    model: Any
    preprocess: Any  # a PIL picture to a tensor
    tokenizer: Any

    @property
    def scale(self) -> float:
        """What the model has learnt: 100 for those of the paper."""
        return float(self.model.logit_scale.detach().exp())

    @torch.no_grad()
    def pictures(self, pixels: np.ndarray) -> Tensor:
        """Unit rows ``[n, d]`` of uint8 pixels ``[n, H, W]`` or ``[n, H, W, 3]``."""
        blocks = (torch.stack([self.preprocess(p) for p in block]) for block in _blocks(pixels))
        return normalize(torch.cat([self.model.encode_image(block) for block in blocks]), dim=-1)

    @torch.no_grad()
    def texts(self, strings: Sequence[str]) -> Tensor:
        """Unit rows ``[n, d]`` of strings."""
        return normalize(self.model.encode_text(self.tokenizer(list(strings))), dim=-1)


@dataclass(frozen=True)
class TransformersClip:
    """A model of transformers as an encoder."""

    model: Any
    processor: Any  # PIL pictures, or strings, to tensors by name

    @property
    def scale(self) -> float:
        """What the model has learnt: 100 for those of the paper."""
        return float(self.model.logit_scale.detach().exp())

    @torch.no_grad()
    def pictures(self, pixels: np.ndarray) -> Tensor:
        """Unit rows ``[n, d]`` of uint8 pixels ``[n, H, W]`` or ``[n, H, W, 3]``."""
        inputs = (self.processor(images=block, return_tensors="pt") for block in _blocks(pixels))
        found = [self.model.vision_model(**each).pooler_output for each in inputs]
        return normalize(self.model.visual_projection(torch.cat(found)), dim=-1)

    @torch.no_grad()
    def texts(self, strings: Sequence[str]) -> Tensor:
        """Unit rows ``[n, d]`` of strings."""
        inputs = self.processor(text=list(strings), return_tensors="pt", padding=True)
        found = self.model.text_model(**inputs).pooler_output
        return normalize(self.model.text_projection(found), dim=-1)


def _blocks(pixels: np.ndarray) -> Iterable[list[Any]]:
    """PIL pictures in colour, some at a time."""
    from PIL import Image

    for start in range(0, len(pixels), BLOCK):
        block = pixels[start : start + BLOCK]
        yield [Image.fromarray(picture).convert("RGB") for picture in block]


def load_open_clip(config: TeacherConfig, data: DataConfig, dim: int) -> OpenClip:
    """The weights in the file ``teacher.path`` of the model ``teacher.architecture``.

    Raises
    ------
    ConfigError
        If open_clip is not installed, or cannot load them.
    """
    try:
        import open_clip
    except ImportError as error:
        raise _missing(config, error) from None
    architecture = config.of(OpenClipOptions).architecture
    _check_there(config)
    try:
        model, _, preprocess = open_clip.create_model_and_transforms(
            architecture, pretrained=config.path
        )
        return OpenClip(model.eval(), preprocess, open_clip.get_tokenizer(architecture))
    except (OSError, RuntimeError, ValueError, UnpicklingError) as error:
        raise _unreadable(config, error) from None


def load_transformers(config: TeacherConfig, data: DataConfig, dim: int) -> TransformersClip:
    """The model and its processor in the folder ``teacher.path``.

    Raises
    ------
    ConfigError
        If transformers is not installed, or cannot load them.
    """
    try:
        from transformers import CLIPModel, CLIPProcessor
    except ImportError as error:
        raise _missing(config, error) from None
    _check_there(config)
    try:
        model = CLIPModel.from_pretrained(config.path, local_files_only=True)
        processor = CLIPProcessor.from_pretrained(config.path, local_files_only=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise _unreadable(config, error) from None
    return TransformersClip(model.eval(), processor)


def _check_there(config: TeacherConfig) -> None:
    # (A name that is no file would be looked for on the network.)
    if not config.path or not Path(config.path).exists():
        raise ConfigError(
            f"teacher.path = {config.path!r} does not exist; expected the model of "
            f"teacher.name = {config.name!r}"
        )


def _missing(config: TeacherConfig, error: ImportError) -> ConfigError:
    return ConfigError(
        f"teacher.name = {config.name!r} needs the extra 'clip' (pip install "
        f"'fedsyn[clip]'): {error}"
    )


def _unreadable(config: TeacherConfig, error: Exception) -> ConfigError:
    return ConfigError(f"teacher.path = {config.path!r} cannot be loaded by {config.name}: {error}")


OPEN_CLIP = Teacher(name="open_clip", options={FLAT: OpenClipOptions}, load=load_open_clip)
TRANSFORMERS = Teacher(name="transformers", load=load_transformers)

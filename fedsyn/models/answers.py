"""A network that answers questions about pictures: two encoders, and a head on what they make."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fedsyn.models.layout import Layout
from fedsyn.models.mlp import MLP
from fedsyn.models.retrieval import RetrievalNet
from fedsyn.models.retrieval import build as build_encoders
from fedsyn.models.settings import ModelConfig


@dataclass(frozen=True)
class AnswerNet:
    """One MLP a modality into a common space, and one from both representations to the answers.

    The head sees v ⊙ q, v and q of the unit rows v of the picture and q of the question, scaled to
    entries of size one.
    """

    encoders: RetrievalNet
    head: MLP

    @property
    def image(self) -> MLP:
        """The MLP that encodes pictures."""
        return self.encoders.image

    @property
    def text(self) -> MLP:
        """The MLP that encodes questions."""
        return self.encoders.text

    @property
    def layout(self) -> Layout:
        """Where each parameter lies in the flat row."""
        return Layout({**self.encoders.layout.shapes, **self.head.shapes})

    def init(self, generator: torch.Generator) -> Tensor:
        """A fresh model as one flat row ``[P]``."""
        head = self.head.layout.flatten(self.head.init(generator))
        return torch.cat([self.encoders.init(generator), head])

    def embed(self, params: Tensor, pair: Tensor) -> tuple[Tensor, Tensor]:
        """Both representations ``[C, B, d]`` of concatenated features ``[C, B, d_v + d_t]``."""
        return self.encoders.embed(params[:, : self._encoders_size], pair)

    def __call__(self, params: Tensor, pair: Tensor) -> Tensor:
        """Logits ``[C, B, answers]`` of concatenated features."""
        image, text = (math.sqrt(self.encoders.code) * z for z in self.embed(params, pair))
        seen = torch.cat([image * text, image, text], -1)
        return self.head(params[:, self._encoders_size :], seen)

    @property
    def _encoders_size(self) -> int:
        return self.encoders.layout.size


def build(config: ModelConfig, image_dim: int, text_dim: int, answers: int) -> AnswerNet:
    """The network that the configuration describes, for features of the given sizes."""
    encoders = build_encoders(config, image_dim, text_dim, {})
    widths = (3 * encoders.code, *config.hidden, answers)
    return AnswerNet(encoders, MLP("answer", widths))

"""The picture classifier: a residual network, an embedding and a linear classifier, stacked."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedsyn.models.layout import Layout
from fedsyn.models.mlp import MLP
from fedsyn.models.resnet import ResNet


@dataclass(frozen=True)
class PictureClassifier:
    """Logits of ``classes`` by a linear classifier of embeddings of size ``dim``.

    The embedding is linear too, so that its size can be a teacher's. The classifier's parameters
    are the end of the flat row: all before them are the extractor.
    """

    encoder: ResNet
    dim: int
    classes: int

    @property
    def embedding(self) -> MLP:
        """From the encoder's features to the embedding."""
        return MLP("embedding", (self.encoder.width, self.dim))

    @property
    def classifier(self) -> MLP:
        """From the embedding to logits."""
        return MLP("classifier", (self.dim, self.classes))

    @property
    def layout(self) -> Layout:
        """Where each parameter lies in the flat row."""
        return Layout({**self.encoder.shapes, **self.embedding.shapes, **self.classifier.shapes})

    def init(self, generator: torch.Generator) -> Tensor:
        """A fresh model as one flat row ``[P]``."""
        parts = (self.encoder, self.embedding, self.classifier)
        named = {name: value for part in parts for name, value in part.init(generator).items()}
        return self.layout.flatten(named)

    def split(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """Views of the extractor ``[C, P - Q]`` and the classifier ``[C, Q]`` of ``[C, P]``."""
        last = self.classifier.layout.size
        return params[..., :-last], params[..., -last:]

    def embed(self, params: Tensor, x: Tensor) -> Tensor:
        """Embeddings ``[C, B, dim]`` of pixels ``x [C, B, H·W·channels]``."""
        (extractor, _), first = self.split(params), self.encoder.layout.size
        return self.embedding(extractor[:, first:], self.encoder(extractor[:, :first], x))

    def __call__(self, params: Tensor, x: Tensor) -> Tensor:
        """Logits ``[C, B, classes]`` of pixels ``x [C, B, H·W·channels]``."""
        return self.classifier(self.split(params)[1], self.embed(params, x))

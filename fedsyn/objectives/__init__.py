"""What one client minimises without labels; one explicit table of names."""

from collections.abc import Callable, Mapping
from typing import Protocol

from torch import Tensor

from fedsyn.config import ObjectiveConfig
from fedsyn.objectives.info_nce import InfoNCE


class Objective(Protocol):
    """A loss of paired embeddings, batched over clients."""

    def parameters(self) -> dict[str, Tensor]:
        """Parameters that are trained with the network: name to initial value."""

    def __call__(
        self, params: Mapping[str, Tensor], image: Tensor, text: Tensor, valid: Tensor | None
    ) -> Tensor:
        """Loss ``[C]`` of embeddings ``[C, B, D]``; rows not ``valid [C, B]`` take no part."""


OBJECTIVES: Mapping[str, Callable[[ObjectiveConfig], Objective]] = {
    "info_nce": lambda config: InfoNCE(config.temperature, config.learnable),
}


def build(config: ObjectiveConfig) -> Objective:
    """The objective that the configuration names."""
    return OBJECTIVES[config.name](config)

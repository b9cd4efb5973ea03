"""What an objective is as a plug-in: what builds it, for each kind of problem that it is of.

There are four protocols: of image–text pairs without labels (`fedsyn.objectives.pairs.base`), of
two random views of a picture (`fedsyn.objectives.views.base`), of logits of labelled rows, and of
labelled pairs whose halves may be missing (`fedsyn.objectives.classes.halves`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fedsyn.data.augment import AugmentConfig
from fedsyn.objectives.classes.halves import HalvesObjective
from fedsyn.objectives.pairs.base import PairObjective, Sizes
from fedsyn.objectives.views.base import ViewObjective
from fedsyn.settings.plugins import Plugin
from fedsyn.settings.sections import Field, Section


class ObjectiveConfig(Section):
    """What a client minimises, and its options."""

    name: str = Field("", description="the objective; '' is the task's default")
    augment: AugmentConfig = Field(
        AugmentConfig(), description="random views of pictures, where they are looked at so"
    )


# loss(logits [C, B, L], label [C, B], valid [C, B], weight [C, B] = 1) -> [C]
ClassLoss = Callable[..., Tensor]


def _never(config: Any) -> bool:
    return False


@dataclass(frozen=True, kw_only=True, eq=False)
class Objective(Plugin):
    """What a client minimises, as a plug-in: of each protocol what builds it, where it is of that.

    Attributes
    ----------
    pairs : ``(config, sizes) -> PairObjective``
    views : ``(config) -> ViewObjective``
    classes : ``(config) -> loss``
        A loss of logits, see `ClassLoss`.
    halves : ``(config) -> HalvesObjective``
    draws : ``(config) -> bool``
        Whether a step draws random numbers of its own, which no recording of it could repeat.
    """

    pairs: Callable[[ObjectiveConfig, Sizes], PairObjective] | None = None
    views: Callable[[ObjectiveConfig], ViewObjective] | None = None
    classes: Callable[[ObjectiveConfig], ClassLoss] | None = None
    halves: Callable[[ObjectiveConfig], HalvesObjective] | None = None
    draws: Callable[[ObjectiveConfig], bool] = _never

"""Cross-entropy of labels, the objective of whoever classifies."""

from fedsyn.objectives.base import Objective
from fedsyn.objectives.classes.halves import HalvesObjective, HalvesOptions
from fedsyn.objectives.classes.losses import cross_entropy
from fedsyn.settings.plugins import FLAT

CROSS_ENTROPY = Objective(
    name="cross_entropy",
    options={FLAT: HalvesOptions},
    classes=lambda config: cross_entropy,
    halves=lambda config: HalvesObjective(config.of(HalvesOptions).modality),
)

"""What one client minimises without labels; one explicit table of names."""

from collections.abc import Callable, Mapping

from fedsyn.config import ObjectiveConfig
from fedsyn.objectives.pairs.alignment_uniformity import AlignmentUniformity
from fedsyn.objectives.pairs.base import Objective, Sizes
from fedsyn.objectives.pairs.cirh import CIRH
from fedsyn.objectives.pairs.dgcpn import DGCPN
from fedsyn.objectives.pairs.djsrh import DJSRH
from fedsyn.objectives.pairs.info_nce import InfoNCE
from fedsyn.objectives.pairs.jdsh import JDSH
from fedsyn.objectives.pairs.pcme import PCME
from fedsyn.objectives.pairs.ucch import UCCH

OBJECTIVES: Mapping[str, Callable[[ObjectiveConfig, Sizes], Objective]] = {
    "info_nce": lambda config, sizes: InfoNCE(config.temperature, config.learnable),
    "alignment_uniformity": lambda config, sizes: AlignmentUniformity(),
    "pcme": lambda config, sizes: PCME(config.pcme),
    "ucch": lambda config, sizes: UCCH(config.ucch, sizes),
    "djsrh": lambda config, sizes: DJSRH(config.djsrh, sizes),
    "jdsh": lambda config, sizes: JDSH(config.jdsh, sizes),
    "dgcpn": lambda config, sizes: DGCPN(config.dgcpn, sizes),
    "cirh": lambda config, sizes: CIRH(config.cirh, sizes),
}


def build(config: ObjectiveConfig, sizes: Sizes) -> Objective:
    """The objective that the configuration names."""
    return OBJECTIVES[config.name](config, sizes)

"""What one client minimises; one table, a line an objective, the default first."""

from fedsyn.objectives.base import Objective
from fedsyn.settings.plugins import Table

OBJECTIVES = Table(
    "objective",
    "objective.name",
    Objective,
    "fedsyn.objectives.pairs.info_nce:INFO_NCE",
    "fedsyn.objectives.pairs.alignment_uniformity:ALIGNMENT_UNIFORMITY",
    "fedsyn.objectives.pairs.pcme:PCME",
    "fedsyn.objectives.pairs.ucch:UCCH",
    "fedsyn.objectives.pairs.djsrh:DJSRH",
    "fedsyn.objectives.pairs.jdsh:JDSH",
    "fedsyn.objectives.pairs.dgcpn:DGCPN",
    "fedsyn.objectives.pairs.cirh:CIRH",
    "fedsyn.objectives.views.simclr:SIMCLR",
    "fedsyn.objectives.views.moco:MOCO",
    "fedsyn.objectives.views.byol:BYOL",
    "fedsyn.objectives.classes.cross_entropy:CROSS_ENTROPY",
    "fedsyn.objectives.classes.ogm_ge:OGM_GE",
    "fedsyn.objectives.classes.opm:OPM",
)

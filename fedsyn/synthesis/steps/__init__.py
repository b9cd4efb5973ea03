"""Server steps of synthesis; one table, a line a step, the default first."""

from fedsyn.settings.plugins import Table
from fedsyn.synthesis.steps.base import ServerStep

SERVER_STEPS = Table(
    "server step",
    "synthesis.server",
    ServerStep,
    "fedsyn.synthesis.steps.fine_tuning:FINE_TUNING",
    "fedsyn.synthesis.steps.fedftg:FEDFTG",
)

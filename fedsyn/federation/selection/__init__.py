"""Client selection; one table, a line a selection, the default first."""

from fedsyn.federation.selection.base import Selection
from fedsyn.settings.plugins import Table

SELECTIONS = Table(
    "selection",
    "run.selection",
    Selection,
    "fedsyn.federation.selection.random:RANDOM",
    "fedsyn.federation.selection.flash:FLASH",
)

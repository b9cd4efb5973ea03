"""Generators of paired features; one table, a line a generator, the default first."""

from fedsyn.settings.plugins import Table
from fedsyn.synthesis.generators.base import Generator

GENERATORS = Table(
    "generator",
    "synthesis.generator",
    Generator,
    "fedsyn.synthesis.generators.gaussian:GAUSSIAN",
    "fedsyn.synthesis.generators.wgan:WGAN_GP",
    "fedsyn.synthesis.generators.wgan:WGAN",
)

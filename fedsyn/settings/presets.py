"""Presets: named trees of keys that stand between the defaults and what a user gives.

Each is a TOML file in ``fedsyn/presets`` with the keys in which it differs from the defaults.
"""

import tomllib
from importlib.resources import files
from typing import Any

from fedsyn.errors import ConfigError

FOLDER, ENDING = "presets", ".toml"


def names() -> list[str]:
    """The presets that there are, in alphabetical order."""
    there = (entry.name for entry in files("fedsyn").joinpath(FOLDER).iterdir())
    return sorted(name.removesuffix(ENDING) for name in there if name.endswith(ENDING))


def read(name: str) -> dict[str, Any]:
    """The tree of a preset.

    Raises
    ------
    ConfigError
        If there is none of this name.
    """
    if name not in names():
        known = ", ".join(map(repr, names()))
        raise ConfigError(f"preset {name!r} is not known; expected one of {known}")
    text = files("fedsyn").joinpath(FOLDER, name + ENDING).read_text("utf-8")
    return tomllib.loads(text)

"""Every key of a configuration: its default, what it is for, and what it can be.

    python -m fedsyn.federation.catalogue

writes the list that `fedsyn.settings.catalogue` reads.
"""

import json
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import fedsyn.settings
from fedsyn.federation.config import Config, parse
from fedsyn.settings.catalogue import FILE, KEYS, PLUGINS, RENAMED
from fedsyn.settings.loading import renamed
from fedsyn.settings.sections import Section


@dataclass(frozen=True)
class Key:
    """A key of a configuration.

    Attributes
    ----------
    path : str
        ``section.key``.
    value : object
        As it is in a configuration.
    description : str
    choices : tuple of str
        What it can be, where that is a list of names.
    """

    path: str
    value: Any
    description: str
    choices: tuple[str, ...] = ()


def keys(config: Config) -> Iterator[Key]:
    """The keys of a configuration, in its order, those of its plug-ins from outside included."""
    names = {table.key: table.names for table, _ in config.plugins.named()}
    yield from _keys(config, "", names)


def _keys(section: Section, prefix: str, names: dict[str, tuple[str, ...]]) -> Iterator[Key]:
    inner: dict[str, Section] = {}  # after the keys of its own, as TOML wants it
    for name, field in type(section).model_fields.items():
        value, path = getattr(section, name), f"{prefix}{name}"
        if isinstance(value, Section):
            inner[path] = value
        else:
            choices = names.get(path) or _literals(field.annotation)
            yield Key(path, value, field.description or "", choices)
    for path, below in inner.items():
        yield from _keys(below, f"{path}.", names)


def _literals(annotation: Any) -> tuple[str, ...]:
    """The values of a `Literal`, also within a tuple."""
    if typing.get_origin(annotation) is Literal:
        return tuple(str(value) for value in typing.get_args(annotation) if value != "")
    for inner in typing.get_args(annotation):
        if found := _literals(inner):
            return found
    return ()


def written() -> str:
    """The content of the file, as JSON."""
    config = parse({})
    plugins = {table.key: list(table.names) for table, _ in config.plugins.named()}
    found = {
        KEYS: [key.path for key in keys(config)],
        PLUGINS: plugins,
        RENAMED: dict(renamed(config)),
    }
    return json.dumps(found, indent=1) + "\n"


if __name__ == "__main__":
    (Path(fedsyn.settings.__path__[0]) / FILE).write_text(written(), encoding="utf-8")

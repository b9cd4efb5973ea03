"""Plug-ins: one object each, in a table a family, or from outside by a name that can be imported.

A plug-in carries its name, its options, what it sets differently from the fields' own defaults, and
its functions. A family's `Table` lists those of this package, one line each; any other is named by
``package.module:NAME``, or by an entry point of the table's group that another package declares.
"""

import difflib
import importlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar, cast

import pydantic

from fedsyn.errors import ConfigError
from fedsyn.settings.sections import S, Section

Tree = Mapping[str, Any]  # of a configuration: sections, keys and values as TOML has them

NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
FLAT = ""  # options under this name stand in the family's own section


@dataclass(frozen=True, kw_only=True, eq=False)
class Plugin:
    """What is common to all plug-ins.

    Attributes
    ----------
    name : str
        Lower-case letters, digits, ``-`` and ``_``.
    options : mapping of str to type of Section
        Its options, by the name of their section below the family's (``fedprox`` for
        ``[method.fedprox]``); those under ``""`` stand in the family's section itself.
    defaults : mapping
        What it sets differently from the fields' own defaults: a tree of sections and keys.

    Raises
    ------
    ValueError, TypeError
        If the name is not such a name, or options are not sections.
    """

    name: str
    options: Mapping[str, type[Section]] = field(default_factory=dict)
    defaults: Tree = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(
                f"a {type(self).__name__.lower()} is named {self.name!r}; expected lower-case "
                "letters, digits, '-' and '_'"
            )
        for place, kind in self.options.items():
            if not (isinstance(kind, type) and issubclass(kind, Section)):
                raise TypeError(
                    f"options {place!r} of {self.name!r} are {kind!r}; expected a class of Section"
                )


P = TypeVar("P", bound=Plugin)


class Table(Generic[P]):
    """The plug-ins of a family.

    Parameters
    ----------
    family : str
        What one is called: ``method``. Entry points of the group ``fedsyn.<family>s`` join them.
    key : str
        The key of a configuration that names one: ``method.name``.
    kind : type
        What they are.
    entries : str
        ``module:NAME`` of those of this package, the default first.
    """

    def __init__(self, family: str, key: str, kind: type[P], *entries: str) -> None:
        self.family, self.key, self.kind, self.entries = family, key, kind, entries

    @property
    def group(self) -> str:
        """The group of entry points."""
        return f"fedsyn.{self.family.replace(' ', '_')}s"

    @property
    def default(self) -> P:
        """The first."""
        return self.own[0]

    @property
    def own(self) -> tuple[P, ...]:
        """Those of this package, in the table's order."""
        return tuple(_loaded(self.kind, entry) for entry in self.entries)

    @property
    def names(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(plugin.name for plugin in self.own)

    def __iter__(self) -> Iterator[P]:
        return iter(self.own)

    def find(self, name: str) -> P:
        """The plug-in of a name: of the table, of an entry point, or ``package.module:NAME``.

        Raises
        ------
        ConfigError
            If there is none, or it is no plug-in of this family.
        """
        for plugin in self.own:
            if plugin.name == name:
                return plugin
        if ":" in name:
            return self._imported(name)
        for entry in entry_points(group=self.group):
            if entry.name == name:
                return self._checked(name, entry.load())
        near = difflib.get_close_matches(name, self.names, n=1)
        hint = f"; the nearest is {near[0]!r}" if near else ""
        raise ConfigError(
            f"{self.key} = {name!r} is not known{hint}; expected one of "
            f"{', '.join(map(repr, self.names))}, or 'package.module:NAME'"
        )

    def of(self, chosen: Mapping[str, Plugin]) -> P:
        """The plug-in of this family among those of a run, by family."""
        return self._checked(chosen[self.family].name, chosen[self.family])

    def is_own(self, plugin: P) -> bool:
        """Whether a plug-in is one of this package's."""
        return any(plugin is one for one in self.own)

    def _imported(self, name: str) -> P:
        try:
            found = _attribute(name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(f"{self.key} = {name!r} cannot be imported: {error}") from None
        return self._checked(name, found)

    def checked(self, plugin: object) -> P:
        """A plug-in that was passed as an object; raises `ConfigError` if it is of no such kind."""
        return self._checked(getattr(plugin, "name", repr(plugin)), plugin)

    def _checked(self, name: str, found: object) -> P:
        if not isinstance(found, self.kind):
            raise ConfigError(
                f"{self.key} = {name!r} is a {type(found).__name__}; expected a "
                f"{self.kind.__name__}"
            )
        return found


def _loaded(kind: type[P], entry: str) -> P:
    found = _attribute(entry)
    if not isinstance(found, kind):
        raise TypeError(f"{entry} is a {type(found).__name__}; expected a {kind.__name__}")
    return found


@cache
def _attribute(entry: str) -> object:
    module, _, attribute = entry.partition(":")
    found: object = getattr(importlib.import_module(module), attribute)
    return found


def name_of(plugin: Plugin, table: "Table[Any]") -> str:
    """By what a configuration can name a plug-in: its name, or where it can be imported from.

    One that cannot be imported (it was made in a script, or in a function) has its name alone:
    whoever goes on with such a run has to pass it again.
    """
    if table.is_own(plugin):
        return plugin.name
    for entry in entry_points(group=table.group):
        if entry.name == plugin.name and entry.load() is plugin:
            return str(plugin.name)
    for module in list(sys.modules.values()):
        name = str(getattr(module, "__name__", "__main__"))
        if name == "__main__" or not hasattr(module, "__dict__"):
            continue
        for attribute, value in list(vars(module).items()):
            if value is plugin:
                return f"{name}:{attribute}"
    return plugin.name


def composed(base: type[S], plugins: Iterable[Plugin]) -> type[S]:
    """A section class with the options of these plug-ins, each once, in their order.

    Raises
    ------
    ConfigError
        If two of them want different options in one place.
    """
    flat: dict[type[Section], None] = {}
    below: dict[str, type[Section]] = {}
    for plugin in plugins:
        for place, kind in plugin.options.items():
            if place == FLAT:
                flat[kind] = None
            elif below.setdefault(place, kind) is not kind or place in base.model_fields:
                raise ConfigError(
                    f"options {place!r} of {plugin.name!r} stand where others do; choose another "
                    "name for their section"
                )
    return cast(type[S], _class(base, tuple(flat), tuple(below.items())))


@cache
def _class(
    base: type[Section],
    flat: tuple[type[Section], ...],
    below: tuple[tuple[str, type[Section]], ...],
) -> type[Section]:
    fields: dict[str, Any] = {
        name: (kind, pydantic.Field(kind(), description=_first_line(kind))) for name, kind in below
    }
    return cast(
        type[Section],
        pydantic.create_model(
            base.__name__, __base__=(*flat, base), __doc__=base.__doc__, **fields
        ),
    )


def _first_line(kind: type) -> str:
    return (kind.__doc__ or "").strip().partition("\n")[0]

"""Plug-ins: one object each, in a table a family, or from outside by a name that can be imported.

A plug-in carries its name, its options, what it sets differently from the fields' own defaults, and
its functions. A family's `Table` lists those of this package, one line each; any other is named by
``package.module:NAME``, or by an entry point of the table's group that another package declares.
"""

import difflib
import importlib
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
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
    def argument(self) -> str:
        """The name of the argument by which one is passed as an object."""
        return self.family.replace(" ", "_")

    @property
    def group(self) -> str:
        """The group of entry points."""
        return f"fedsyn.{self.argument}s"

    @property
    def default(self) -> P:
        """The plug-in where none is named: the first."""
        return self.own[0]

    @property
    def own(self) -> tuple[P, ...]:
        """Those of this package, in the table's order."""
        return tuple(_loaded(self.kind, entry) for entry in self.entries)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of this package's plug-ins."""
        return tuple(plugin.name for plugin in self.own)

    def __iter__(self) -> Iterator[P]:
        return iter(self.own)

    def find(self, name: str, allowed: Collection[str] | None = None, key: str | None = None) -> P:
        """The plug-in of a name: of the table, of an entry point, or ``package.module:NAME``.

        Parameters
        ----------
        name : str
        allowed : collection of str, optional
            Names that may be imported from outside this package; any where ``None``.
        key : str, optional
            The key that names it, if not the family's.

        Raises
        ------
        ConfigError
            If there is none, it is no plug-in of this family, or it may not be imported.
        """
        for plugin in self.own:
            if plugin.name == name:
                return plugin
        key = key or self.key
        if allowed is not None and name not in allowed:
            raise ConfigError(
                f"{key} = {name!r} is a plug-in from outside; plugins = {list(allowed)} are allowed"
            )
        if ":" in name:
            return self._imported(name, key)
        for entry in entry_points(group=self.group):
            if entry.name == name:
                return self._checked(name, entry.load(), key)
        near = difflib.get_close_matches(name, self.names, n=1)
        hint = f"; the nearest is {near[0]!r}" if near else ""
        raise ConfigError(
            f"{key} = {name!r} is not known{hint}; expected one of "
            f"{', '.join(map(repr, self.names))}, or 'package.module:NAME'"
        )

    def of(self, chosen: Mapping[str, Plugin]) -> P:
        """The plug-in of this family among those of a run, by family."""
        return self._checked(chosen[self.family].name, chosen[self.family], self.key)

    def is_own(self, plugin: P) -> bool:
        """Whether a plug-in is one of this package's."""
        return any(plugin is one for one in self.own)

    def _imported(self, name: str, key: str) -> P:
        try:
            found = _attribute(name)
        except Exception as error:  # whatever the module does
            raise ConfigError(
                f"{key} = {name!r} cannot be imported: {type(error).__name__}: {error}"
            ) from error
        return self._checked(name, found, key)

    def checked(self, plugin: object) -> P:
        """A plug-in that was passed as an object; raises `ConfigError` if it is of no such kind."""
        return self._checked(getattr(plugin, "name", repr(plugin)), plugin, self.key)

    def _checked(self, name: str, found: object, key: str) -> P:
        if not isinstance(found, self.kind):
            raise ConfigError(
                f"{key} = {name!r} is a {type(found).__name__}; expected a {self.kind.__name__}"
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


def import_name(plugin: Plugin, table: "Table[Any]") -> str | None:
    """By what a configuration names a plug-in so that anybody finds it.

    Its name, or ``package.module:NAME``; ``None`` where it cannot be imported, because it was made
    in a script or in a function: whoever goes on with such a run has to pass it again.
    """
    if table.is_own(plugin):
        return plugin.name
    for entry in entry_points(group=table.group):
        if entry.name == plugin.name and entry.load() is plugin:
            return str(entry.name)
    for module in list(sys.modules.values()):
        name = str(getattr(module, "__name__", "__main__"))
        if name == "__main__" or not hasattr(module, "__dict__"):
            continue
        for attribute, value in list(vars(module).items()):
            if value is plugin:
                return f"{name}:{attribute}"
    return None


def composed(base: type[S], plugins: Iterable[Plugin]) -> type[S]:
    """A section class with the options of these plug-ins, each once, in their order.

    Raises
    ------
    ConfigError
        If two of them want different options in one place.
    """
    owners: dict[str, type[Section]] = dict.fromkeys(base.model_fields, base)
    flat: dict[type[Section], None] = {}
    below: dict[str, type[Section]] = {}
    for plugin in plugins:
        for place, kind in plugin.options.items():
            for name in kind.model_fields if place == FLAT else (place,):
                if owners.setdefault(name, kind) is not kind:
                    raise ConfigError(
                        f"options {name!r} of {plugin.name!r} stand where others do; choose "
                        "another name for them"
                    )
            if place == FLAT:
                flat[kind] = None
            else:
                below[place] = kind
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

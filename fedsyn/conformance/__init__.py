"""Conformance suites: whether a plug-in keeps what is promised of its family.

    import fedsyn
    fedsyn.check_method(MINE)

Each tries the plug-in in small federations and raises `fedsyn.errors.PluginError`, which says in
one sentence what is not so.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from fedsyn.conformance.extension import check_extension
from fedsyn.conformance.method import check_method
from fedsyn.conformance.objective import check_objective
from fedsyn.conformance.others import check_selection, check_task, check_teacher
from fedsyn.conformance.reader import check_reader
from fedsyn.conformance.synthesis import check_filter, check_generator, check_server_step
from fedsyn.errors import ConfigError
from fedsyn.federation.plugins import EXTENSIONS, SECTIONS
from fedsyn.settings.loading import read_tree
from fedsyn.settings.plugins import Table

__all__ = [
    "check_extension",
    "check_filter",
    "check_generator",
    "check_method",
    "check_named",
    "check_objective",
    "check_reader",
    "check_selection",
    "check_server_step",
    "check_task",
    "check_teacher",
]

_SUITES: Mapping[str, Callable[..., None]] = {
    "task": check_task,
    "method": check_method,
    "objective": check_objective,
    "selection": check_selection,
    "generator": check_generator,
    "filter": check_filter,
    "server_step": check_server_step,
    "extension": check_extension,
}


def check_named(words: Iterable[str]) -> Iterator[str]:
    """Check plug-ins by their names, ``family=package.module:NAME``, one after another.

    Parameters
    ----------
    words : iterable of str
        Of families whose check needs no more than the plug-in; and ``section.key=value``, with
        which they are tried.

    Yields
    ------
    str
        What was checked, when it has been.

    Raises
    ------
    ConfigError
        If there is no such plug-in.
    PluginError
        If one does not keep what is promised of its family.
    """
    tables: list[Table[Any]] = [
        *SECTIONS.values(), EXTENSIONS, *(t for one in EXTENSIONS for t in one.families),
    ]  # fmt: skip
    by_family = {table.argument: table for table in tables if table.argument in _SUITES}
    named = [word.split("=", 1) for word in words if word.partition("=")[0] in by_family]
    settings = read_tree(None, [word for word in words if word.partition("=")[0] not in by_family])
    if not named:
        raise ConfigError(f"nothing to check; expected FAMILY=NAME of {', '.join(by_family)}")
    for family, name in named:
        _SUITES[family](by_family[family].find(name), **settings)
        yield f"{family} {name}"

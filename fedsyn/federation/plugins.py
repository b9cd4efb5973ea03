"""The plug-ins of a run: the families, and which of each a configuration names."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedsyn.core.extension import Extension
from fedsyn.data.settings import NEEDS, Needs
from fedsyn.encoders import TEACHERS
from fedsyn.encoders.base import Teacher
from fedsyn.federation.selection import SELECTIONS
from fedsyn.federation.selection.base import Selection
from fedsyn.methods import METHODS
from fedsyn.methods.base import Method
from fedsyn.objectives import OBJECTIVES
from fedsyn.objectives.base import Objective
from fedsyn.settings.plugins import Plugin, Table
from fedsyn.tasks import TASKS
from fedsyn.tasks.base import Task

EXTENSIONS = Table(
    "extension",
    "run.extensions",
    Extension,
    "fedsyn.synthesis.extension:SYNTHESIS",
)
# The families that a section of the configuration belongs to, by the names of their sections.
SECTIONS: Mapping[str, Table[Any]] = {
    "task": TASKS,
    "objective": OBJECTIVES,
    "method": METHODS,
    "teacher": TEACHERS,
    "run": SELECTIONS,
}
FAMILIES: tuple[Table[Any], ...] = (
    *SECTIONS.values(),
    EXTENSIONS,
    *(table for extension in EXTENSIONS for table in extension.families),
)

Given = Mapping[str, Any]  # plug-ins passed as objects, by family; of extensions several


@dataclass(frozen=True)
class Chosen:
    """The plug-ins that a configuration names."""

    task: Task
    method: Method[Any]
    objective: Objective
    criterion: Objective
    teacher: Teacher
    selection: Selection
    extensions: tuple[Extension, ...]  # of this package and those named, before their modes
    others: Mapping[str, Plugin] = field(default_factory=dict)  # by family, those of extensions

    @property
    def needs(self) -> Needs:
        """What the task and the method need."""
        return self.task.needs | self.method.needs

    @property
    def asked_by(self) -> dict[str, str]:
        """Who has each need, in words of the configuration."""
        both = (("task.name", self.task), ("method.name", self.method))
        return {
            need.name: f"{key} = {plugin.name!r}"
            for need in NEEDS
            for key, plugin in reversed(both)
            if getattr(plugin.needs, need.name)
        }

    def all(self) -> Iterable[tuple[Table[Any], Plugin]]:
        """Each with its family."""
        yield from (
            (TASKS, self.task),
            (METHODS, self.method),
            (OBJECTIVES, self.objective),
            (OBJECTIVES, self.criterion),
            (TEACHERS, self.teacher),
            (SELECTIONS, self.selection),
        )
        for extension in self.extensions:
            yield EXTENSIONS, extension
            for table in extension.families:
                yield table, self.others[table.family]


def foreign(tree: Mapping[str, Any]) -> list[str]:
    """Names of plug-ins in a configuration's tree that are not of this package.

    Nothing is imported to find them.
    """
    found = []
    for table in FAMILIES:
        section, key = table.key.split(".")
        inner = tree.get(section, {})
        named = inner.get(key, ()) if isinstance(inner, Mapping) else ()
        for name in [named] if isinstance(named, str) else named:
            if isinstance(name, str) and name and name not in table.names:
                found.append(name)
    return found

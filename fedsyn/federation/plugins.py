"""The plug-ins of a run: the families, and which of each a configuration names."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedsyn.core.extension import Extension
from fedsyn.data.readers import READERS
from fedsyn.data.readers.base import Reader
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
    "data": READERS,
    "task": TASKS,
    "objective": OBJECTIVES,
    "method": METHODS,
    "teacher": TEACHERS,
    "run": SELECTIONS,
}
Given = Mapping[str, Any]  # plug-ins passed as objects, by `Table.argument`; SEVERAL extensions
SEVERAL = "extensions"


@dataclass(frozen=True)
class Chosen:
    """The plug-ins that a configuration names."""

    task: Task
    method: Method[Any]
    objective: Objective
    criterion: Objective | None  # what judges models, where that is not left to the task
    teacher: Teacher
    selection: Selection
    reader: Reader
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

    def named(self) -> Iterator[tuple[Table[Any], Plugin]]:
        """Each that a key of its own names, with its family."""
        yield from (
            (TASKS, self.task),
            (METHODS, self.method),
            (OBJECTIVES, self.objective),
            (TEACHERS, self.teacher),
            (SELECTIONS, self.selection),
            (READERS, self.reader),
        )
        for extension in self.extensions:
            for table in extension.families:
                yield table, self.others[table.family]

    def all(self) -> Iterator[tuple[Table[Any], Plugin]]:
        """Every plug-in of the run with its family."""
        yield from self.named()
        if self.criterion is not None:
            yield OBJECTIVES, self.criterion
        yield from ((EXTENSIONS, extension) for extension in self.extensions)

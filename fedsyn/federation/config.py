"""The configuration of a run, composed from the tables of plug-ins: the same in TOML and Python.

`load` reads a TOML file and applies ``section.key=value`` overrides; what is not given and depends
on the task or the method is as these say. `dump` writes the complete file, which names the run's
plug-ins. A plug-in from outside comes as an object, or by a name that can be imported.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

import pydantic
from pydantic import PrivateAttr

from fedsyn.core.extension import Extension
from fedsyn.data.readers import READERS
from fedsyn.data.sections import DataConfig, PartitionConfig
from fedsyn.data.settings import DataSettings
from fedsyn.encoders import TEACHERS
from fedsyn.encoders.base import TeacherConfig
from fedsyn.errors import ConfigError
from fedsyn.federation.plugins import EXTENSIONS, SECTIONS, SEVERAL, Chosen, Given
from fedsyn.federation.selection import SELECTIONS
from fedsyn.federation.settings import EngineConfig, FlowerConfig, RunConfig, TaskConfig
from fedsyn.methods import METHODS
from fedsyn.methods.base import Method, MethodConfig
from fedsyn.models.settings import ModelConfig
from fedsyn.objectives import OBJECTIVES
from fedsyn.objectives.base import Objective, ObjectiveConfig
from fedsyn.settings.loading import dump, over, read_tree, validated
from fedsyn.settings.plugins import FLAT, Plugin, Table, Tree, composed, import_name
from fedsyn.settings.sections import Field, Section
from fedsyn.synthesis.settings import SynthesisConfig
from fedsyn.tasks import TASKS
from fedsyn.tasks.pairs import PairProblem

__all__ = ["Config", "data_settings", "dump", "load", "parse", "with_overrides", "with_plugins"]

CRITERION = "run.criterion"
OBJECTIVE = "objective"  # as its value: what clients minimise
Mode = Literal["off", "on", "oracle"]


class Config(Section):
    """A complete run.

    What is not given and depends on the task or the method is as these plug-ins say; the task, if
    it is not given either, is the method's first. Options of plug-ins stand in the sections of
    their families; an extension has a section of its own.
    """

    data: DataConfig = Field(DataConfig(), description="which pairs")
    task: TaskConfig = Field(TaskConfig(), description="what is learnt")
    partition: PartitionConfig = Field(PartitionConfig(), description="who has what")
    model: ModelConfig = Field(ModelConfig(), description="the network")
    objective: ObjectiveConfig = Field(ObjectiveConfig(), description="what a client minimises")
    method: MethodConfig = Field(MethodConfig(), description="the federated algorithm")
    teacher: TeacherConfig = Field(TeacherConfig(), description="a frozen encoder")
    synthesis: SynthesisConfig = Field(SynthesisConfig(), description="synthetic pairs")
    engine: EngineConfig = Field(EngineConfig(), description="how it is computed")
    flower: FlowerConfig = Field(FlowerConfig(), description="real nodes")
    run: RunConfig = Field(RunConfig(), description="rounds, seed and reporting")

    _chosen: Chosen = PrivateAttr()
    _given: Given = PrivateAttr(default_factory=dict)
    _tree: Mapping[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def plugins(self) -> Chosen:
        """The plug-ins that it names."""
        return self._chosen

    @property
    def given(self) -> Given:
        """Those of them that were passed as objects, and cannot be found by their names."""
        return self._given

    @property
    def foreign(self) -> tuple[str, ...]:
        """What it names that is not of this package: nodes have to allow it."""
        tree = self.model_dump()
        named = [
            str(_value(tree, table.key, ""))
            for table, plugin in self.plugins.named()
            if not table.is_own(plugin)
        ]
        criterion = self.plugins.criterion
        if criterion and not OBJECTIVES.is_own(criterion) and self.run.criterion != OBJECTIVE:
            named.append(self.run.criterion)
        return tuple(dict.fromkeys([*named, *self.run.extensions]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and self.model_dump() == other.model_dump()

    def __hash__(self) -> int:
        return hash(dump(self))

    def __reduce__(self) -> tuple[Any, ...]:
        # (A composed class has no name that it could be found by.)
        return _restored, (self.model_dump(), dict(self._given))

    def gives(self, section: str, key: str) -> bool:
        """Whether a key was given, and is not a default."""
        return key in self._tree.get(section, {})

    @property
    def active(self) -> tuple[tuple[Extension, Section], ...]:
        """The extensions in force, each in its mode and with its section."""
        found: list[tuple[Extension, Section]] = []
        for extension in self.plugins.extensions:
            own = getattr(self, extension.name)
            fits = issubclass(self.plugins.task.problem, extension.problem)
            if fits and self.plugins.method.extensible and extension.active(own):
                named = extension if extension.mode is None else self._mode(extension, own)
                found.append((named, own))
        return tuple(found)

    def _mode(self, extension: Extension, own: Section) -> Extension:
        if extension.mode is None:
            return extension
        return extension.mode(own, self.plugins.others)

    @property
    def rounds(self) -> int:
        """How many rounds it has: ``run.rounds``, or as many as the method has."""
        most = self.plugins.method.rounds
        return self.run.rounds if most is None else min(self.run.rounds, most)

    @property
    def synthesis_mode(self) -> Mode:
        """The synthesis in force; bounds and other tasks have none."""
        for extension, own in self.active:
            if own is self.synthesis:
                return "oracle" if extension.pooled else "on"
        return "off"


def load(path: Path | str | None = None, overrides: Iterable[str] = (), **given: Any) -> Config:
    """Read a TOML file (defaults where ``None``) and apply ``section.key=value`` overrides.

    Parameters
    ----------
    path : Path or str, optional
    overrides : iterable of str
    **given
        Plug-ins as objects, by family (``method=...``, ``objective=...``, ``server_step=...``); of
        extensions a sequence, ``extensions=(...)``.

    Raises
    ------
    ConfigError
        If the file is missing or not TOML, or a key or value is not valid.
    """
    return parse(read_tree(path, overrides), **given)


def parse(
    tree: Mapping[str, Any], *, allowed: Collection[str] | None = None, **given: Any
) -> Config:
    """Validate a nested mapping.

    Parameters
    ----------
    tree : mapping
    allowed : collection of str, optional
        Names of plug-ins that may be imported from outside this package; any where ``None``.
    **given
        Plug-ins as objects, as for `load`.

    Raises
    ------
    ConfigError
        That names the first wrong key or value.
    """
    tree, filled, chosen = _resolved(tree, _Names(given, allowed))
    config = validated(_class(chosen), filled)
    config._chosen, config._tree = chosen, tree
    config._given = _nameless(chosen, given)
    _check(config)
    return config


def with_overrides(config: Config, **sections: Mapping[str, Any]) -> Config:
    """A copy with some keys replaced, e.g. ``with_overrides(c, run={"seed": 1})``; validated.

    Where another plug-in takes the place of one from outside, the options of that one go.
    """
    tree = config.model_dump()
    for section, values in sections.items():
        tree[section] = {**tree[section], **values}
    before, given = config.model_dump(), dict(config.given)
    for table, plugin in config.plugins.named():
        if _value(tree, table.key, "") == _value(before, table.key, ""):
            continue
        given.pop(table.argument, None)
        if not table.is_own(plugin):
            section = table.key.split(".")[0]
            gone = {*plugin.options, *plugin.options.get(FLAT, Section).model_fields}
            tree[section] = {k: v for k, v in tree[section].items() if k not in gone}
    return parse(tree, **given)


def with_plugins(config: Config, **given: Any) -> Config:
    """The same run with plug-ins passed as objects in the place of those it names.

    Raises
    ------
    ConfigError
        As `parse`.
    """
    return parse(config._tree, **{**config.given, **given}) if given else config


def _nameless(chosen: Chosen, given: Given) -> Given:
    """Those of the plug-ins passed that no name could be found by."""
    found: dict[str, Any] = {
        table.argument: plugin
        for table, plugin in chosen.named()
        if given.get(table.argument) is not None and import_name(plugin, table) is None
    }
    several = tuple(one for one in given.get(SEVERAL, ()) if import_name(one, EXTENSIONS) is None)
    return {**found, SEVERAL: several} if several else found


def _restored(tree: Mapping[str, Any], given: Mapping[str, Any]) -> Config:
    return parse(tree, **given)


def data_settings(config: Config) -> DataSettings:
    """What the data of a run are told."""
    chosen = config.plugins
    return DataSettings(
        config.data,
        config.partition,
        chosen.needs,
        chosen.asked_by,
        config.run.seed,
        config.engine.memory,
        chosen.reader,
    )


# ---- From names to plug-ins ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Names:
    """Whom names stand for.

    Attributes
    ----------
    given : mapping of str to Plugin
        Plug-ins that were passed as objects.
    allowed : collection of str, optional
        Names that may be imported from outside this package; any where ``None``.
    """

    given: Given
    allowed: Collection[str] | None

    def named(self, table: Table[Any], tree: Tree, default: Any = None) -> Any:
        """The plug-in of a family that a tree names, or that was passed."""
        if self.given.get(table.argument) is not None:
            return table.checked(self.given[table.argument])
        name = _value(tree, table.key, "")
        if not isinstance(name, str) or not name:
            return table.default if default is None else default
        return table.find(name, self.allowed)

    def criterion(self, tree: Tree, objective: Objective) -> Objective | None:
        """What judges models: ``objective``, another that ``run.criterion`` names, or the task."""
        name = _value(tree, CRITERION, "")
        if not isinstance(name, str) or not name:
            return None
        if name == OBJECTIVE:
            return objective
        return OBJECTIVES.find(name, self.allowed, CRITERION)

    def extensions(self, tree: Tree) -> tuple[Extension, ...]:
        """Those of this package, those that are named and those that were passed."""
        passed = {_written(one, EXTENSIONS): one for one in self.given.get(SEVERAL, ())}
        names = _value(tree, EXTENSIONS.key, ())
        named = [
            passed.get(name) or EXTENSIONS.find(name, self.allowed)
            for name in (names if isinstance(names, Sequence) else ())
            if isinstance(name, str)
        ]
        return tuple(dict.fromkeys([*EXTENSIONS, *named, *passed.values()]))


def _resolved(tree: Tree, names: _Names) -> tuple[Tree, Tree, Chosen]:
    """The tree with the names of what was passed, the same with all that follows, the plug-ins."""
    method: Method[Any] = names.named(METHODS, tree)
    task = names.named(TASKS, tree, method.tasks[0] if method.tasks else None)
    defaults = over(over(task.defaults, method.defaults), method.with_task.get(task.name, {}))
    filled = over(defaults, tree)
    objective = names.named(OBJECTIVES, filled)
    extensions = names.extensions(filled)
    tables = [table for extension in extensions for table in extension.families]
    chosen = Chosen(
        task=task,
        method=method,
        objective=objective,
        criterion=names.criterion(filled, objective),
        teacher=names.named(TEACHERS, filled),
        selection=names.named(SELECTIONS, filled),
        reader=names.named(READERS, filled),
        extensions=extensions,
        others={table.family: names.named(table, filled) for table in tables},
    )
    known = [SEVERAL, *(table.argument for table, _ in chosen.named())]
    for argument in names.given:
        if argument not in known:
            raise TypeError(f"{argument!r} is no family of plug-ins; expected one of {known}")
    if not all(isinstance(value, Mapping) for value in filled.values()):
        return tree, filled, chosen  # what is wrong is for validation to say
    passed, others = _names_of(chosen, filled, names.given)
    return over(tree, passed), over(over(others, filled), passed), chosen


def _names_of(chosen: Chosen, tree: Tree, given: Given) -> tuple[Tree, Tree]:
    """What a tree is to name: the plug-ins that were passed, and those it does not name."""
    passed: Tree = {}
    others: Tree = {}
    for table, plugin in chosen.named():
        section, key = table.key.split(".")
        name = {section: {key: _written(plugin, table)}}
        if given.get(table.argument) is not None:
            passed = over(passed, name)
        elif not _value(tree, table.key, ""):
            others = over(others, name)
    if given.get(SEVERAL):
        named = [_written(one, EXTENSIONS) for one in given[SEVERAL]]
        there = [name for name in _value(tree, EXTENSIONS.key, ()) if name not in named]
        passed = over(passed, {"run": {"extensions": [*there, *named]}})
    return passed, others


def _written(plugin: Plugin, table: Table[Any]) -> str:
    """What names a plug-in in ``config.toml``."""
    return import_name(table.checked(plugin), table) or plugin.name


def _value(tree: Tree, key: str, otherwise: Any) -> Any:
    section, name = key.split(".")
    inner = tree.get(section, {})
    return inner.get(name, otherwise) if isinstance(inner, Mapping) else otherwise


# ---- From plug-ins to sections -------------------------------------------------------------------


def _class(chosen: Chosen) -> type[Config]:
    foreign = tuple(
        (table.family, plugin) for table, plugin in chosen.all() if not table.is_own(plugin)
    )
    return _composed(foreign)


@cache
def _composed(foreign: tuple[tuple[str, Plugin], ...]) -> type[Config]:
    """The configuration with the sections of all plug-ins of this package, and of these."""

    def family(table: Table[Any]) -> list[Plugin]:
        return [*table, *(plugin for family, plugin in foreign if family == table.family)]

    fields: dict[str, Any] = {}
    for section, table in SECTIONS.items():
        base = cast(type[Section], Config.model_fields[section].annotation)
        fields[section] = _section(base, family(table), (table,))
    for extension in cast(list[Extension], family(EXTENSIONS)):
        if extension.name in fields or (
            extension.name in Config.model_fields and not EXTENSIONS.is_own(extension)
        ):
            raise ConfigError(
                f"extension {extension.name!r} has the name of a section that there is; "
                "choose another"
            )
        plugins = [plugin for table in extension.families for plugin in family(table)]
        fields[extension.name] = _section(extension.config, plugins, extension.families)
    made = pydantic.create_model("Config", __base__=Config, __doc__=Config.__doc__, **fields)
    return cast(type[Config], made)


def _section(
    base: type[Section], plugins: Iterable[Plugin], tables: Iterable[Table[Any]]
) -> tuple[type[Section], Any]:
    """A section with the options of plug-ins, where the tables' first are the defaults."""
    kind = composed(base, plugins)
    named = {
        table.key.split(".")[-1]: (
            str,
            pydantic.Field(
                table.default.name,
                description=kind.model_fields[table.key.split(".")[-1]].description,
            ),
        )
        for table in tables
    }
    made = cast(
        type[Section],
        pydantic.create_model(base.__name__, __base__=kind, __doc__=base.__doc__, **named),  # type: ignore[call-overload]
    )
    first = (base.__doc__ or "").strip().partition("\n")[0]
    return made, pydantic.Field(made(), description=first)


# ---- What does not go together -------------------------------------------------------------------


def _check(config: Config) -> None:
    """Refuse plug-ins and keys that do not go together; raises `ConfigError`."""
    chosen, run = config.plugins, config.run
    method, task = chosen.method, chosen.task
    who = f"method.name = {method.name!r}"
    if method.tasks and task not in method.tasks:
        raise ConfigError(
            f"{who} cannot learn task.name = {task.name!r}; "
            f"expected one of {', '.join(repr(one.name) for one in method.tasks)}"
        )
    if method.check is not None:
        method.check(config.method)
    if config.method.weighting == "contribution":
        if not method.broadcasts_model:
            raise ConfigError(
                "method.weighting = 'contribution' compares clients by the model that they "
                f"receive; those of {who} receive none"
            )
        if not issubclass(task.problem, PairProblem):
            raise ConfigError(
                "method.weighting = 'contribution' compares representations of both halves; "
                f"task.name = {task.name!r} has none"
            )
    if config.engine.graphs and chosen.objective.draws(config.objective):
        raise ConfigError(
            "engine.graphs = true replays what was recorded; "
            f"objective.name = {chosen.objective.name!r} draws anew in every step"
        )
    for extension, _ in config.active:
        missing = [name for name in extension.reads if name not in method.sends]
        if missing:
            parts = [chosen.others[table.family].name for table in extension.families]
            raise ConfigError(
                f"{extension.name} ({', '.join(parts)}) looks at what each client sends as "
                f"{missing[0]!r}; {who} sends none"
            )
    if chosen.selection.learn is not None:
        selection = f"run.selection = {chosen.selection.name!r}"
        if run.fraction == 1:
            raise ConfigError(f"{selection} needs run.fraction below 1, got 1")
        if config.data.holdout == 0:
            raise ConfigError(
                f"{selection} learns from gains on held-out rows; data.holdout = 0 keeps none"
            )
        if not method.broadcasts_model:
            raise ConfigError(
                f"{selection} rests on clients' held-out rows; clients of {who} receive no model "
                "to judge by them"
            )

"""The configuration of a run, composed from the tables of plug-ins: the same in TOML and Python.

`load` reads a TOML file and applies ``section.key=value`` overrides; what is not given and depends
on the task or the method is as these say. `dump` writes the complete file, which names the run's
plug-ins. A plug-in from outside comes as an object, or by a name that can be imported.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

import pydantic
from pydantic import PrivateAttr

from fedsyn.core.extension import Extension
from fedsyn.data.settings import DataConfig, DataSettings, PartitionConfig
from fedsyn.encoders.base import TeacherConfig
from fedsyn.errors import ConfigError
from fedsyn.federation.plugins import EXTENSIONS, SECTIONS, Chosen, Given
from fedsyn.federation.settings import EngineConfig, FlowerConfig, RunConfig, TaskConfig
from fedsyn.methods import METHODS
from fedsyn.methods.base import MethodConfig
from fedsyn.models.settings import ModelConfig
from fedsyn.objectives import OBJECTIVES
from fedsyn.objectives.base import ObjectiveConfig
from fedsyn.settings.loading import dump, over, read_tree, validated
from fedsyn.settings.plugins import Plugin, Table, composed, name_of
from fedsyn.settings.sections import Field, Section
from fedsyn.synthesis.settings import SynthesisConfig
from fedsyn.tasks import TASKS
from fedsyn.tasks.pairs import PairProblem

__all__ = ["Config", "data_settings", "dump", "load", "parse", "with_overrides", "with_plugins"]

OBJECTIVE = "objective"  # of ``run.criterion``: what clients minimise
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
        """Those of them that were passed as objects, by family."""
        return self._given

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
        Plug-ins as objects, by family (``method=...``, ``objective=...``); of extensions a
        sequence, ``extensions=(...)``.

    Raises
    ------
    ConfigError
        If the file is missing or not TOML, or a key or value is not valid.
    """
    return parse(read_tree(path, overrides), **given)


def parse(tree: Mapping[str, Any], **given: Any) -> Config:
    """Validate a nested mapping; raises `ConfigError` naming the first wrong key or value."""
    filled, chosen = _resolved(tree, given)
    config = validated(_class(chosen), filled)
    config._chosen, config._tree = chosen, tree
    config._given = {family: plugin for family, plugin in given.items() if plugin}
    _check(config)
    return config


def with_overrides(config: Config, **sections: Mapping[str, Any]) -> Config:
    """A copy with some keys replaced, e.g. ``with_overrides(c, run={"seed": 1})``; validated."""
    tree = config.model_dump()
    for section, values in sections.items():
        tree[section] = {**tree[section], **values}
    given = {
        family: plugin
        for family, plugin in config.given.items()
        if not _renamed(tree, config, family)
    }
    return parse(tree, **given)


def with_plugins(config: Config, **given: Any) -> Config:
    """The same run with plug-ins passed as objects, by family, in the place of those it names."""
    return parse(config._tree, **{**config.given, **given}) if given else config


def _renamed(tree: Mapping[str, Any], config: Config, family: str) -> bool:
    """Whether the tree names another plug-in of a family than the configuration."""
    before = config.model_dump()
    return family in SECTIONS and tree[family].get("name") != before[family].get("name")


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
    )


# ---- From names to plug-ins ----------------------------------------------------------------------


def _resolved(tree: Mapping[str, Any], given: Given) -> tuple[dict[str, Any], Chosen]:
    """The tree with all that depends on its plug-ins, and these."""
    tree = {name: value for name, value in tree.items()}
    for family, plugin in given.items():
        if family in SECTIONS and family != "run":
            key = SECTIONS[family].key.split(".")[-1]
            tree = over(tree, {family: {key: name_of(plugin, SECTIONS[family])}})
    method = _named(METHODS, tree, given)
    own = method.tasks[0] if method.tasks else TASKS.default
    task = _named(TASKS, tree, given, own)
    defaults = over(over(task.defaults, method.defaults), method.with_task.get(task.name, {}))
    filled = over(defaults, tree)
    objective = _named(OBJECTIVES, filled, given)
    criterion_name = _value(filled, "run.criterion", OBJECTIVE)
    criterion = objective if criterion_name == OBJECTIVE else OBJECTIVES.find(criterion_name)
    extensions = _extensions(filled, given)
    others: dict[str, Plugin] = {}
    for extension in extensions:
        for table in extension.families:
            others[table.family] = _named(table, filled, given)
    chosen = Chosen(
        task,
        method,
        objective,
        criterion,
        _named(SECTIONS["teacher"], filled, given),
        _named(SECTIONS["run"], filled, given),
        extensions,
        others,
    )
    names: dict[str, Any] = {}
    for table, plugin in chosen.all():
        section, key = table.key.split(".")
        if (table is not EXTENSIONS and plugin is not criterion) or plugin is objective:
            written = _value(filled, table.key, "")
            names = over(names, {section: {key: written or name_of(plugin, table)}})
    return over(names, filled) if _is_tree(filled) else filled, chosen


def _is_tree(tree: Mapping[str, Any]) -> bool:
    """Whether all sections are sections: what is wrong is for validation to say."""
    return all(isinstance(value, Mapping) for value in tree.values())


def _value(tree: Mapping[str, Any], key: str, otherwise: Any) -> Any:
    section, name = key.split(".")
    inner = tree.get(section, {})
    return inner.get(name, otherwise) if isinstance(inner, Mapping) else otherwise


def _named(table: Table[Any], tree: Mapping[str, Any], given: Given, default: Any = None) -> Any:
    """The plug-in of a family that a tree names, or that was passed."""
    if given.get(table.family) is not None:
        return table.checked(given[table.family])
    name = _value(tree, table.key, "")
    if not isinstance(name, str) or not name:
        return table.default if default is None else default
    return table.find(name)


def _extensions(tree: Mapping[str, Any], given: Given) -> tuple[Extension, ...]:
    """Those of this package, those that are named and those that were passed."""
    names = _value(tree, EXTENSIONS.key, ())
    named = [EXTENSIONS.find(name) for name in names if isinstance(name, str)]
    passed = [EXTENSIONS.checked(one) for one in given.get("extensions", ())]
    return tuple(dict.fromkeys([*EXTENSIONS, *named, *passed]))


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

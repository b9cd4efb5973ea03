"""Plug-ins from outside, defined here: by argument, by module:NAME, by entry point, over nodes."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

import fedsyn
from fedsyn import conformance, report
from fedsyn.core.extension import ClientResult, Extension, ServerResult
from fedsyn.core.wire import Sum, Upload
from fedsyn.data.readers.base import Reader
from fedsyn.deployment.loopback import Loopback
from fedsyn.deployment.node import Limits, NodeConfig
from fedsyn.deployment.server import serve
from fedsyn.errors import ConfigError, FedsynError, PluginError
from fedsyn.federation import config as configuration
from fedsyn.federation.plugins import EXTENSIONS
from fedsyn.methods.base import Update
from fedsyn.methods.fedavg import FEDAVG
from fedsyn.objectives.base import Objective
from fedsyn.objectives.pairs.base import PairObjective
from fedsyn.settings.sections import Field, NonNegative, Section
from fedsyn.synthesis.generators.gaussian import GAUSSIAN
from fedsyn.tasks.retrieval import RetrievalProblem

# ---- Toys ----------------------------------------------------------------------------------------


class ShyOptions(Section):
    """Options of the toy method."""

    share: NonNegative = Field(0.5, description="how far the server goes towards the mean")


def shy_server(problem, state, uploads, config, generator):
    """Go a part of the way to the clients' mean."""
    if not uploads.weight("model"):
        return state
    share, model = config.of(ShyOptions).share, state["model"]
    return {"model": torch.lerp(model, uploads.mean("model").to(model)[None], share)}


SHY = replace(FEDAVG, name="shy", options={"shy": ShyOptions}, server=shy_server)


class FarOptions(Section):
    """Options of the toy objective."""

    weight: NonNegative = Field(1.0, description="weight of the distance")


@dataclass(frozen=True)
class Far(PairObjective):
    """The squared distance of the two embeddings of a pair."""

    weight: float

    def __call__(self, params, batch):
        """Loss ``[C]``."""
        apart = (batch.image - batch.text).square().sum(-1)
        if batch.valid is None:
            return self.weight * apart.mean(-1)
        kept = torch.where(batch.valid, apart, 0)
        return self.weight * kept.sum(-1) / batch.valid.sum(-1).clamp(min=1)


FAR = Objective(
    name="far",
    options={"far": FarOptions},
    pairs=lambda config, sizes: Far(config.of(FarOptions).weight),
)
STILL = replace(GAUSSIAN, name="still", sample=lambda sent, noise, prototype, config: prototype)


def lines(path, config):
    """JSON lines: an object a pair."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}


LINES = Reader(name="lines", open=lines, endings=(".jsonl",))


class MeanConfig(Section):
    """Options of the toy extension."""

    on: bool = Field(False, description="whether clients say the mean of their features")


def say(view, state):
    """What a client says: the mean of its rows, as a sum; it counts how often it has."""
    rows = [view.problem.features[torch.from_numpy(mine)] for mine in view.cohort.rows]
    sizes = torch.tensor(view.cohort.sizes).double()
    mean = torch.stack([mine.sum(0) / max(len(mine), 1) for mine in rows])
    upload = Upload(sums={"mean": Sum(mean, sizes)})
    return ClientResult(upload, {"said": state["said"] + 1}, {})


def record(view):
    """What the server says of a round: the length of the mean."""
    size = float(view.uploads.mean("mean").norm()) if view.uploads.weight("mean") else 0.0
    return ServerResult(view.model, {"mean_length": size})


MEAN = Extension(
    name="mean",
    problem=RetrievalProblem,
    config=MeanConfig,
    active=lambda config: config.on,
    client_state=lambda problem, model, cohort, config, private: {
        "said": torch.zeros(len(cohort.ids))
    },
    client=say,
    server=record,
)


@dataclass(frozen=True)
class Toy:
    """A plug-in, and how a run comes to use it."""

    family: str
    name: str  # of this module
    check: Callable[..., None]
    key: str  # of a configuration
    settings: list[str] = field(default_factory=list)
    option: str = ""  # a key that it brings

    @property
    def plugin(self) -> Any:
        """The object."""
        return globals()[self.name]

    @property
    def argument(self) -> dict[str, Any]:
        """How it is passed."""
        several = self.family == "extension"
        return {"extensions": (self.plugin,)} if several else {self.family: self.plugin}

    def naming(self, name: str) -> str:
        """The override that names it."""
        return f"{self.key}=[{name!r}]" if self.family == "extension" else f"{self.key}={name}"


TOYS = [
    Toy("method", "SHY", conformance.check_method, "method.name", [], "method.shy.share=0.4"),
    Toy("objective", "FAR", conformance.check_objective, "objective.name", [],
        "objective.far.weight=2.0"),
    Toy("generator", "STILL", conformance.check_generator, "synthesis.generator"),
    Toy("reader", "LINES", conformance.check_reader, "data.reader"),
    Toy("extension", "MEAN", conformance.check_extension, "run.extensions", ["mean.on=true"]),
]  # fmt: skip
BY_NAME = pytest.mark.parametrize("toy", TOYS, ids=[toy.name for toy in TOYS])


@pytest.fixture
def words(settings, pairs_in_lines):
    """``words(toy)``: the overrides of a small run of three clients that uses what it brings."""

    def build(toy):
        own = [
            "partition.clients=3",
            "partition.alpha=5",
            "run.rounds=2",
            "data.cache=",
            "data.public=0",
        ]
        if toy.family == "reader":
            own += [f"data.path={pairs_in_lines}"]
        if toy.family != "generator":
            own += ["synthesis.enabled=false"]
        return [*settings, *own, *toy.settings, *([toy.option] if toy.option else [])]

    return build


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """``installed(toy)``: a package that declares the toy as an entry point lies on the path."""

    def build(toy):
        folder = tmp_path / "site"
        inner = folder / "toys-1.0.dist-info"
        inner.mkdir(parents=True)
        (inner / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
        group = f"fedsyn.{toy.family}s"
        entry = f"[{group}]\n{toy.plugin.name} = {__name__}:{toy.name}\n"
        (inner / "entry_points.txt").write_text(entry)
        monkeypatch.syspath_prepend(str(folder))
        return toy.plugin.name

    return build


# ---- Three ways ----------------------------------------------------------------------------------


@BY_NAME
def test_a_plugin_by_argument_name_and_entry_point_gives_one_run(
    toy, words, installed, rows_of, tmp_path
):
    plain = words(toy)
    base = [word for word in plain if word not in (toy.option, *toy.settings)]
    config = configuration.load(None, plain, **toy.argument)
    fedsyn.run(config, tmp_path / "argument")
    name = f"{__name__}:{toy.name}"
    fedsyn.run(configuration.load(None, [*plain, toy.naming(name)]), tmp_path / "name")
    short = installed(toy)
    fedsyn.run(configuration.load(None, [*plain, toy.naming(short)]), tmp_path / "entry")
    if not toy.option and not toy.settings:  # options are known where the plug-in is
        later = configuration.load(None, base)
        fedsyn.run(later, tmp_path / "later", **toy.argument)
        assert rows_of(tmp_path / "later") == rows_of(tmp_path / "argument")
    assert rows_of(tmp_path / "argument") == rows_of(tmp_path / "name")
    assert rows_of(tmp_path / "argument") == rows_of(tmp_path / "entry")
    written = (tmp_path / "argument" / "config.toml").read_text()
    assert name in written
    assert configuration.load(tmp_path / "argument" / "config.toml") == config


@BY_NAME
def test_the_command_line_runs_resumes_and_reports_it(toy, words, fedsyn, rows_of, tmp_path):
    name = f"{__name__}:{toy.name}"
    given = [*words(toy), toy.naming(name)]
    code, _, err = fedsyn("run", *given, "--out", tmp_path / "whole", "--json")
    assert code == 0, err
    code, _, err = fedsyn("run", *given, "run.rounds=1", "--out", tmp_path / "parts", "--json")
    assert code == 0, err
    code, out, err = fedsyn(
        "run", "run.rounds=2", "--resume", "--out", tmp_path / "parts", "--json"
    )
    assert code == 0, err
    assert json.loads(out)["rounds"] == 2
    assert rows_of(tmp_path / "parts")[2:] == rows_of(tmp_path / "whole")[2:]
    (tmp_path / "parts" / "report.html").unlink()
    assert fedsyn("report", tmp_path / "parts")[0] == 0
    assert name in (tmp_path / "parts" / "report.html").read_text()


@BY_NAME
def test_three_nodes_that_allow_it_do_the_same(toy, words, rows_of, tmp_path):
    name = f"{__name__}:{toy.name}"
    nodes = {
        number: NodeConfig(
            clients=(number,), state=str(tmp_path / f"node-{number}"), allow=Limits(plugins=(name,))
        )
        for number in range(3)
    }
    own = [toy.naming(name), "flower.nodes=3", "engine.stack=1"]
    config = configuration.load(None, [*words(toy), *own])
    fedsyn.run(config, tmp_path / "here")
    serve(config, tmp_path / "nodes", Loopback(nodes))
    assert rows_of(tmp_path / "nodes") == rows_of(tmp_path / "here")


def test_a_node_imports_nothing_that_it_does_not_allow(words, tmp_path, monkeypatch):
    (tmp_path / "unwanted_toy.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    config = configuration.load(None, [*words(TOYS[0])[:-1], "flower.nodes=1"])
    node = NodeConfig(clients=(0, 1, 2), state=str(tmp_path / "node"))
    for section, key, value in (
        ("method", "name", "unwanted_toy:X"),
        ("run", "criterion", "unwanted_toy:X"),
        ("run", "extensions", ["unwanted_toy:X"]),
        ("synthesis", "generator", "unwanted_toy:X"),
        ("data", "reader", "unwanted_toy"),
    ):
        tree = config.model_dump()
        tree[section] = {**tree[section], key: value}
        with pytest.raises(FedsynError, match=r"unwanted_toy.* plugins = \[\]"):
            configuration.parse(tree, allowed=node.allow.plugins)
    assert "unwanted_toy" not in sys.modules


def test_a_comparison_of_a_method_from_outside(words, fedsyn, tmp_path):
    toy = TOYS[0]
    plain = [word for word in words(toy) if word != toy.option]
    methods = f"fedavg,{__name__}:{toy.name}"
    code, out, err = fedsyn(
        "compare", *plain, "--methods", methods, "--synthesis", "off", "--jobs", "1",
        "--out", tmp_path / "compared", "--json",
    )  # fmt: skip
    assert code == 0, err
    assert [row["method"] for row in json.loads(out)["rows"]] == ["fedavg", "shy"]


def test_one_that_cannot_be_imported_is_passed_again(words, tmp_path):
    toy = TOYS[0]
    nameless = replace(SHY, name="nameless")
    plain = [word for word in words(toy) if word != toy.option]
    config = configuration.load(None, plain, method=nameless)
    fedsyn.run(config, tmp_path / "run")
    with pytest.raises(FedsynError, match="nameless"):
        report.read_run(tmp_path / "run")
    assert report.read_run(tmp_path / "run", method=nameless).config.method.name == "nameless"
    more = configuration.load(tmp_path / "run" / "config.toml", ["run.rounds=3"], method=nameless)
    assert fedsyn.run(more, tmp_path / "run", resume=True)["rounds"] == 3


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("method=nowhere.at.all:X", "method.name = 'nowhere.at.all:X' cannot be imported"),
        ("method=math:pi", "'math:pi' is a float; expected a Method"),
        (f"objective={__name__}:SHY", "is a Method; expected a Objective"),
        ("method=fedavgg", "the nearest is 'fedavg'"),
        ("run.extensions=['nothing']", "'nothing' is not known"),
    ],
)
def test_what_is_no_plugin_is_named(override, sentence):
    with pytest.raises(ConfigError, match=sentence):
        configuration.load(None, [override])


def test_an_unknown_family_is_refused():
    with pytest.raises(TypeError, match="'metod' is no family"):
        configuration.load(None, metod=SHY)


def test_two_plugins_cannot_have_one_section():
    with pytest.raises(ConfigError, match="'model' has the name of a section"):
        configuration.load(None, extensions=(replace(MEAN, name="model"),))
    assert "mean" not in [plugin.name for plugin in EXTENSIONS]


# ---- Conformance ---------------------------------------------------------------------------------


@BY_NAME
def test_the_toys_conform(toy, pairs_in_lines):
    if toy.family == "reader":
        toy.check(toy.plugin, pairs_in_lines)
    elif toy.family == "extension":
        toy.check(toy.plugin, mean={"on": True})
    else:
        toy.check(toy.plugin)


def cohort_mean(problem, received, state, cohort, config):
    """A method whose clients are not alone: each sends the mean of the stack."""
    update = FEDAVG.client(problem, received, state, cohort, config)
    one = update.upload.sums["model"]
    mixed = Sum(one.value.mean(0, keepdim=True).expand_as(one.value), one.weight)
    return Update(Upload({"model": mixed}), state, update.losses)


def random_client(problem, received, state, cohort, config):
    """A method that draws from the process's random numbers."""
    update = FEDAVG.client(problem, received, state, cohort, config)
    one = update.upload.sums["model"]
    noisy = Sum(one.value + 0.1 * torch.randn_like(one.value), one.weight)
    return Update(Upload({"model": noisy}), state, update.losses)


def in_place(problem, state, uploads, config, generator):
    """A server that changes what it is given."""
    state["model"].copy_(uploads.mean("model"))
    return state


def no_weight(problem, received, state, cohort, config):
    """Clients without rows count like others."""
    update = FEDAVG.client(problem, received, state, cohort, config)
    one = update.upload.sums["model"]
    return Update(Upload({"model": Sum(one.value, one.weight + 1)}), state, update.losses)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"client": cohort_mean}, "method 'broken': sum 'model' differs by .* alone"),
        ({"client": random_client}, "client draws from a global stream of random numbers"),
        ({"server": in_place}, "the server's state 'model' is changed in place"),
        ({"client": no_weight}, "gives weight to a client that has no rows"),
        ({"sends": ("model", "more")}, r"sends = \['model', 'more'\]"),
        ({"broadcast": lambda state, ids: {"model": state["model"]}}, r"\[1, \d+\] for 4 clients"),
        ({"init": lambda problem, model, clients: {"model": model}}, r"init's 'model' is \[\d+\]"),
        ({"server": lambda *a: 1 / 0}, "server raises ZeroDivisionError"),
    ],
)
def test_a_broken_method_is_told_what_is_wrong(changes, sentence):
    with pytest.raises(PluginError, match=sentence):
        conformance.check_method(replace(FEDAVG, name="broken", **changes))


class Padded(PairObjective):
    """A loss in which padding has a say."""

    def __call__(self, params, batch):
        """Loss ``[C]``."""
        return (batch.image - batch.text).square().sum(-1).mean(-1)


def test_a_broken_objective_is_told_what_is_wrong():
    broken = Objective(name="broken", pairs=lambda config, sizes: Padded())
    with pytest.raises(
        PluginError, match=r"objective 'broken': the loss differs .* valid is False"
    ):
        conformance.check_objective(broken)
    summed = Objective(name="summed", pairs=lambda c, s: lambda p, batch: batch.image.sum())
    with pytest.raises(PluginError, match="building a small federation raises AttributeError"):
        conformance.check_objective(summed)


def test_a_broken_generator_is_told_what_is_wrong():
    def first(sent, noise, prototype, config):
        return prototype + prototype[:, :1]

    broken = replace(GAUSSIAN, name="broken", sample=first)
    with pytest.raises(PluginError, match=r"generator 'broken': a pair differs .* other rows"):
        conformance.check_generator(broken)
    with pytest.raises(PluginError, match=r"sample makes \[4, 6\]"):
        conformance.check_generator(replace(broken, sample=lambda s, n, p, c: p.sum(-1)))


def test_a_broken_reader_is_told_what_is_wrong(pairs_in_lines):
    broken = replace(LINES, name="broken", open=lambda path, config: json.loads("{}"))
    with pytest.raises(PluginError, match=r"reader 'broken': .* has no arrays"):
        conformance.check_reader(broken, pairs_in_lines)

    def crashing(path, config):
        rows = path.read_text().splitlines()
        if len(rows) < 100:
            raise ZeroDivisionError
        return lines(path, config)

    with pytest.raises(PluginError, match="raises ZeroDivisionError"):
        conformance.check_reader(replace(LINES, name="crashing", open=crashing), pairs_in_lines)


def test_a_broken_extension_is_told_what_is_wrong():
    def forgetful(view, state):
        return replace(say(view, state), state={})

    def meddling(view, state):
        view.model.zero_()
        return say(view, state)

    for client, sentence in (
        (forgetful, r"clients keep \[\], and at first \['said'\]"),
        (meddling, "client changes the model that it received"),
    ):
        with pytest.raises(PluginError, match=f"extension 'mean': {sentence}"):
            conformance.check_extension(replace(MEAN, client=client), mean={"on": True})
    with pytest.raises(PluginError, match="it is not active"):
        conformance.check_extension(MEAN)


def test_undescribed_options_are_named():
    class Quiet(Section):
        loud: float = 1.0

    with pytest.raises(PluginError, match=r"option quiet\.loud has no description"):
        conformance.check_method(replace(FEDAVG, name="quiet", options={"quiet": Quiet}))

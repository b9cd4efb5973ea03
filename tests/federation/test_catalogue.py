"""The list of keys: it is that of the sections, and what the command line makes of it."""

import json
import subprocess
import sys
import tomllib

import pytest

from fedsyn.errors import ConfigError
from fedsyn.federation import catalogue
from fedsyn.federation import config as configuration
from fedsyn.methods.fedavg import FEDAVG
from fedsyn.settings import catalogue as listed
from fedsyn.settings.loading import leaves

# A command line in an interpreter of its own: what it says, and whether torch was imported.
ALONE = """
import json, sys
sys.argv = ["fedsyn", *json.load(sys.stdin)]
from fedsyn.cli import main
try:
    main()
except SystemExit as end:
    print(end.code, "torch" in sys.modules)
"""


def test_the_file_is_what_the_sections_say():
    there = listed.files("fedsyn.settings").joinpath(listed.FILE).read_text("utf-8")
    assert there == catalogue.written(), "write it: python -m fedsyn.federation.catalogue"


def test_every_key_of_a_configuration_is_described_and_has_its_value():
    config = configuration.load(None, ["method=moon", "run.rounds=3"])
    found = {key.path: key for key in catalogue.keys(config)}
    assert {path: key.value for path, key in found.items()} == dict(leaves(config.model_dump()))
    assert [path for path, key in found.items() if not key.description] == []
    assert found["run.rounds"].value == 3
    assert "moon" in found["method.name"].choices
    assert found["partition.scheme"].choices[0] == "dirichlet"
    assert found["data.faces"].choices == ("sans", "bold", "oblique", "serif", "mono")


def test_options_of_a_plugin_from_outside_are_among_them():
    from dataclasses import replace

    from fedsyn.settings.sections import Field, Section

    class Own(Section):
        mass: float = Field(2.5, description="how heavy it is")

    heavy = replace(FEDAVG, name="heavy", options={"heavy": Own})
    config = configuration.load(None, method=heavy)
    found = {key.path: key for key in catalogue.keys(config)}
    assert found["method.heavy.mass"] == catalogue.Key("method.heavy.mass", 2.5, "how heavy it is")


@pytest.mark.parametrize(
    ("tree", "nearest"),
    [
        ({"data": {"pathh": "x"}}, "data.path"),
        ({"run": {"flash": {"exploratoin": 1}}}, "run.flash.exploration"),
        ({"rounds": 3}, "run.rounds"),
        ({"nowhere": {"lr": 1}}, "method.lr"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(tree, nearest):
    with pytest.raises(ConfigError, match=f"nearest valid name is '{nearest}'"):
        listed.refuse_unknown(tree)


def test_a_key_that_is_no_more_is_refused_with_what_has_taken_its_place():
    for key in ("gate", "tolerance"):
        with pytest.raises(ConfigError, match=rf"'synthesis.{key}' is no more: .*line_search"):
            listed.refuse_unknown({"synthesis": {key: True}})


def test_keys_of_plugins_from_outside_are_left_to_them():
    for tree in (
        {"method": {"name": "my.own:METHOD", "mine": {"x": 1}}},
        {"run": {"extensions": ["my.own:X"]}, "mine": {"on": True}},
        {"synthesis": {"generator": "installed", "installed": {"x": 1}}},
        {"method": {"name": "fedprox", "fedprox": {"mu": 1.0}}},
    ):
        listed.refuse_unknown(tree)


@pytest.mark.parametrize(
    "words",
    [
        ["run", "data.pathh=x"],
        ["compare", "data.pathh=x", "--methods", "fedavg"],
        ["data", "partition", "data.pathh=x"],
        ["flower", "init", "somewhere", "data.pathh=x"],
        ["flower", "run", "somewhere", "data.pathh=x"],
        ["config", "data.pathh=x"],
    ],
)
def test_a_mistyped_key_is_refused_before_torch_is_imported(words, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", ALONE],
        input=json.dumps(words), capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert "unknown key 'data.pathh'; the nearest valid name is 'data.path'" in done.stderr
    assert done.stdout.split() == ["2", "False"]
    assert list(tmp_path.iterdir()) == []


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, fedsyn; print(sorted({'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_prints_a_file_that_can_be_run(fedsyn):
    code, out, _ = fedsyn("config", "method=scaffold", "objective.moco.queue=9")
    assert code == 0
    assert configuration.parse(tomllib.loads(out)) == configuration.load(
        None, ["method=scaffold", "objective.moco.queue=9"]
    )
    assert "# rounds of the federation" in out
    code, out, _ = fedsyn("config", "--json")
    assert code == 0 and json.loads(out)[0]["path"] == "data.name"


def test_the_command_line_checks_plugins(fedsyn):
    code, out, _ = fedsyn("check", "method=fedexp", "method.fedexp.epsilon=0.1")
    assert (code, out.strip()) == (0, "method fedexp: ok")
    code, _, err = fedsyn("check", "run.rounds=2")
    assert code == 2 and "nothing to check" in err
    code, _, err = fedsyn("check", "method=nothing")
    assert code == 2 and "'nothing' is not known" in err

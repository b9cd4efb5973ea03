"""The guide's list of what leaves a silo is complete and says the truth."""

import re
from pathlib import Path

import pytest

from fedsyn.core.payload import nbytes
from fedsyn.deployment.server import serve
from fedsyn.federation import config
from fedsyn.methods import METHODS

GUIDE = (Path(__file__).parents[2] / "docs" / "flower.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\|\s*([\w-]*)\s*\| (.*?) \| .*? \| ([\d,]+) \|", re.MULTILINE)


@pytest.fixture
def answers(in_process, tmp_path):
    """``answers(config, (0, 1), (2,))``: pairs of kind and answer of the first of these nodes."""

    def run(config, *clients):
        nodes, said = in_process(*clients), []

        def listen(kind, node, asked, answer):
            if node == 100:
                said.append((kind, answer))
            return answer

        nodes.spoil = listen
        serve(config, tmp_path / "run", nodes)
        return said

    return run


def test_the_table_has_every_array_and_its_bytes(answers):
    defaults = config.load(None, ["partition.clients=3", "run.rounds=1", "flower.nodes=3"])
    said = answers(defaults, (0,), (1,), (2,))
    kind, names, total = "", {}, {}
    for message, arrays, size in ROW.findall(GUIDE):
        kind = message or kind
        names.setdefault(kind, set()).update(re.findall(r"`([\w/.-]+)`", arrays))
        total[kind] = total.get(kind, 0) + int(size.replace(",", ""))
    sent = {kind: answer for kind, answer in said if answer.arrays}
    assert {kind: set(answer.arrays) for kind, answer in sent.items()} == names
    assert {kind: nbytes(answer.arrays) for kind, answer in sent.items()} == total


OTHERS = [
    *(f"method={name}" for name in sorted(method.name for method in METHODS if method.deployable)),
    *("synthesis.generator=wgan", "synthesis.upload=float16", "synthesis.generator=gaussian"),
    *(f"synthesis.clusters=own synthesis.directions={one}" for one in ("pooled", "own", "none")),
    *("synthesis.clusters=own synthesis.space=private", "model.start=random"),
    *("synthesis.server=fedftg", "objective=ucch", "synthesis.enabled=false"),
    "method.weighting=contribution",
]


@pytest.mark.parametrize("other", OTHERS)
def test_other_configurations_send_nothing_that_is_not_named(make, answers, other):
    said = answers(make(*other.split(), "run.rounds=1"), (0, 1, 2), (3, 4, 5, 6, 7, 8, 9))
    sent = {name for _, answer in said for name in answer.arrays}
    assert {name for name in sent if not any(f"`{one}`" in GUIDE for one in written(name))} == set()


def written(name):
    """How the guide may call an array: a weight as its sum, the method's without their place."""
    name = name.replace("/own-weights/", "/own/").replace("/weights/", "/sums/")
    return name, name.removeprefix("up/method/")

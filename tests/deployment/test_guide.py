"""The guide's list of what leaves a silo is complete and says the truth."""

import re
from pathlib import Path

import pytest

from fedsyn import config
from fedsyn.core.payload import nbytes
from fedsyn.deployment.server import serve
from fedsyn.methods import METHODS

GUIDE = (Path(__file__).parents[2] / "docs" / "flower.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\|\s*(\w*)\s*\| (.*?) \| .*? \| ([\d,]+) \|", re.MULTILINE)


def watched(at):
    """The table, and what is said on it: pairs of kind and answer of the first node."""
    said = []

    def listen(kind, node, asked, answer):
        if node == 100:
            said.append((kind, answer))
        return answer

    at.spoil = listen
    return at, said


def test_the_table_has_every_array_and_its_bytes(table, tmp_path):
    defaults = config.load(None, ["partition.clients=3", "run.rounds=1", "flower.nodes=3"])
    at, said = watched(table((0,), (1,), (2,)))
    serve(defaults, tmp_path / "run", at)
    kind, names, total = "", {}, {}
    for message, arrays, size in ROW.findall(GUIDE):
        kind = message or kind
        names.setdefault(kind, set()).update(re.findall(r"`([\w/.]+)`", arrays))
        total[kind] = total.get(kind, 0) + int(size.replace(",", ""))
    sent = {kind: answer for kind, answer in said if answer.arrays}
    assert {kind: set(answer.arrays) for kind, answer in sent.items()} == names
    assert {kind: nbytes(answer.arrays) for kind, answer in sent.items()} == total


OTHERS = [
    *(f"method={name}" for name in sorted(METHODS.keys() - {"local", "centralised"})),
    *("synthesis.generator=wgan", "synthesis.upload=float16", "synthesis.space=private"),
    *("synthesis.server=fedftg", "objective=ucch", "synthesis.enabled=false"),
]


@pytest.mark.parametrize("other", OTHERS)
def test_other_configurations_send_nothing_that_is_not_named(make, table, tmp_path, other):
    at, said = watched(table((0, 1, 2), (3, 4, 5, 6, 7, 8, 9)))
    serve(make(other, "run.rounds=1"), tmp_path / "run", at)
    sent = {name for _, answer in said for name in answer.arrays}
    assert {name for name in sent if f"`{name}`" not in GUIDE} == set()

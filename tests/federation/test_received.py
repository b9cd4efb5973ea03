"""What the server receives: remembered, counted and, where it is to be, recorded as it came."""

import json
import weakref

import pytest
import torch
from safetensors.torch import load_file

from fedsyn.core.payload import nbytes
from fedsyn.core.wire import Joined, Sum, Upload, send
from fedsyn.errors import RunError
from fedsyn.federation import records
from fedsyn.federation.received import REPORT, PartMemory, Reception, Report
from fedsyn.federation.runner import run
from fedsyn.federation.selection.base import sampled
from fedsyn.federation.store import ClientStore
from fedsyn.synthesis.sources import GIVEN

HOST = torch.device("cpu")
CLIENTS = 4


def remembering(folder):
    """Of two parts, the second with a library."""
    nobody = torch.zeros(CLIENTS, dtype=torch.bool)
    library = ClientStore(CLIENTS, folder / "library.safetensors", 1 << 20, HOST)
    return {"method": PartMemory(nobody), "more": PartMemory(nobody.clone(), library=library)}


def messages(ids, new):
    """What these clients send: sums by halves, which add up exactly, and their own, as float16."""
    ids = torch.tensor(ids)
    value = ids[:, None] + torch.tensor([0.25, 0.5])
    weight = 1.0 + ids.double()
    sums = {"model": Sum(value, weight), "base": Sum(2 * value, weight)}
    method = Upload(sums, once=frozenset(["base"]))
    own = {"mean": value + 10, "count": 7 * ids}
    more = Upload(own=own, once=frozenset(["count"]), half=frozenset(["mean", "count"]))
    report = Report(ids + 20, ids + 30, {"local": ids / 2})
    return {"method": send(method, new), "more": send(more, new), REPORT: report.sent()}


def joined(parts):
    """The same of several chunks as one message, sums added up."""
    made = {name: Joined() for name in parts[0]}
    for message in parts:
        for name, sent in message.items():
            made[name].take(sent)
    return {name: one.payload for name, one in made.items()}


OLD, NEW = torch.tensor([True, False]), torch.tensor([True, True])


def received(folder, together, record=None):
    """Two rounds: of clients 0 and 2; then of 0, 1 and 2, where 1 alone is new."""
    memory = remembering(folder)
    first, second = (Reception(memory, record and record / str(number)) for number in (1, 2))
    if together:
        first.take((0, 2), joined([messages([0, 2], NEW)]), True)
        chunks = messages([0, 1], ~OLD), messages([2], ~NEW[:1])
        second.take((0, 1, 2), joined(chunks), True)
    else:
        first.take((0, 2), messages([0, 2], NEW))
        second.take((0, 1), messages([0, 1], ~OLD))
        second.take((2,), messages([2], ~NEW[:1]))
    for one in (first, second):
        one.close()
    return memory, first, second


@pytest.mark.parametrize("together", [False, True])
def test_uploads_are_the_same_however_they_travel(tmp_path, together):
    memory, _, second = received(tmp_path, together)
    method, more = (second.uploads()[part] for part in ("method", "more"))
    value = torch.arange(3)[:, None] + torch.tensor([0.25, 0.5])
    weight = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    total = (weight[:, None] * value).sum(0)
    assert method.ids == more.ids == (0, 1, 2)
    assert torch.equal(method.sums["model"], total) and method.weight("model") == 6
    # What is sent once is summed up over all clients heard in either round.
    assert torch.equal(method.sums["base"], 2 * total) and method.weight("base") == 6
    assert more.library.ids == (0, 1, 2)
    found = more.library.take((2, 1), ("mean", "count"))
    assert torch.equal(found["mean"], value[[2, 1]] + 10) and found["mean"].dtype == torch.float32
    assert found["count"].tolist() == [14, 7]
    assert list(more.own) == ["mean"] and torch.equal(more.own["mean"], value + 10)
    with pytest.raises(KeyError, match="count"):  # sent once, and by nobody in this round alone
        more.own["count"]
    assert second.report.pairs.tolist() == [20, 21, 22]
    assert second.report.losses["local"].tolist() == [0, 0.5, 1]
    assert memory["method"].heard.tolist() == [True, True, True, False]


def test_what_the_library_keeps_is_held_nowhere_else(tmp_path):
    reception = Reception(remembering(tmp_path))
    message = messages([0, 2], NEW)
    mean = weakref.ref(message["more"]["own/mean"])
    reception.take((0, 2), message)
    del message
    assert mean() is None
    assert reception.uploads()["more"].own["mean"].tolist() == [[10.25, 10.5], [12.25, 12.5]]


def test_bytes_are_those_of_the_tensors_that_came(tmp_path):
    report = 8 + 8 + 4
    _, first, second = received(tmp_path, False)
    own, once = 2 * 2, 8
    assert first.bytes == 2 * (2 * (2 * 4 + 8) + own + once + report)
    assert second.bytes == 3 * (2 * 4 + 8 + own + report) + 2 * 4 + 8 + once
    _, first, second = received(tmp_path, True)  # sums in float64, and one for all
    assert first.bytes == 2 * (2 * 8 + 8) + 2 * (own + once + report)
    assert second.bytes == 2 * (2 * 8 + 8) + 3 * (own + report) + once


def test_a_record_has_what_came_as_it_came(tmp_path):
    received(tmp_path, False, tmp_path / "apart")
    received(tmp_path, True, tmp_path / "together")
    apart, together = (load_file(tmp_path / name / "2") for name in ("apart", "together"))
    every = [
        "method/sums/model", "method/weights/model", "more/own/mean",
        "report/pairs", "report/sizes", "report/loss.local",
    ]  # fmt: skip
    once = ["method/once-sums/base", "method/once-weights/base", "more/once-own/count"]
    assert apart.keys() == {
        *(f"{client}/{name}" for client in range(3) for name in every),
        *(f"1/{name}" for name in once),
    }
    assert together.keys() == {f"0+1+2/{name}" for name in [*every, *once]}
    assert torch.equal(apart["1/method/sums/model"], torch.tensor([[1.25, 1.5]]))
    assert torch.equal(apart["1/method/once-sums/base"], torch.tensor([[2.5, 3.0]]))
    assert apart["2/method/weights/model"].tolist() == [3]
    assert together["0+1+2/method/weights/model"].tolist() == 6
    assert together["0+1+2/method/once-weights/base"].tolist() == 2
    for part, form in (("method/sums/model", torch.float64), ("more/own/mean", torch.float16)):
        rows = torch.cat([apart[f"{client}/{part}"] for client in range(3)])
        found = together[f"0+1+2/{part}"]
        expected = rows if "own" in part else torch.tensor([1.0, 2.0, 3.0]) @ rows
        assert found.dtype == form and torch.equal(found, expected.to(form))


def test_a_checkpoint_that_lacks_something_is_refused(tmp_path):
    memory, _, _ = received(tmp_path, False)
    saved = {name: value.clone() for name, value in memory["more"].tensors().items()}
    again = remembering(tmp_path)["more"]
    again.restore(saved)
    assert again.heard.tolist() == [True, True, True, False]
    assert again.read().take((1,), ("count",))["count"].tolist() == [7]
    del saved["heard"]
    with pytest.raises(RunError, match="heard"):
        again.restore(saved)


def test_clients_that_send_sums_alone_have_nothing_in_the_library(tmp_path):
    memory = remembering(tmp_path)
    sent = send(Upload({"model": Sum(torch.ones(2, 3), torch.ones(2).double())}), NEW)
    Reception(memory).take((0, 2), {"more": sent, REPORT: Report(*[torch.ones(2)] * 2, {}).sent()})
    again = remembering(tmp_path)["more"]
    again.restore(memory["more"].tensors())
    assert again.heard.tolist() == [True, False, True, False]
    assert again.read().ids == ()


# ---- Whole runs ----------------------------------------------------------------------------------

RECORDED = ["run.record_uploads=true", "run.fraction=0.5", "engine.stack=3"]
OFF = "synthesis.enabled=false"
OWN = ["synthesis.clusters=own", "synthesis.directions=own"]
POOLED = ["synthesis.clusters=own", "synthesis.directions=pooled"]
# Of each: numbers that a client's verdict consists of, and who judges.
RUNS = {
    "fedavg": ([OFF], 3, "validators"),
    "scaffold": (["method=scaffold", OFF], 3, "validators"),
    "creamfl": (["method=creamfl"], 0, ""),
    "synthesis": ([], 7, "both"),
    "own": (OWN, 7, "both"),
    "pooled": (POOLED, 7, "both"),
    "one share": (["synthesis.line_search=[1.0]", "synthesis.upload=float16"], 3, "validators"),
    "fedftg": (["synthesis.server=fedftg", "synthesis.upload=float16"], 7, "both"),
}


def rows(out):
    """The rounds after the start."""
    return [json.loads(line) for line in (out / records.METRICS).read_text().splitlines()][1:]


def uploads(out, number):
    return load_file(out / records.UPLOADS / f"round-{number}.safetensors")


MOMENTS = {f"moments/sums/{name}" for name in ("count", "sum", "second")}
CLUSTERS = {f"{kind}/{name}" for kind in ("sums", "weights") for name in ("members", "numbers")}
# Of each: what of synthesis a client sends in its first upload, in every one, and in the first two
# rounds.
SENT = {
    "all": ([], set(), {"own/generator", "own/counts", *CLUSTERS}, set()),
    "gaussian": (["synthesis.generator=gaussian"], set(), set(), CLUSTERS),
    "own": (OWN, {f"once-own/{name}" for name in GIVEN}, {"own/generator"}, set()),
    "pooled": (
        POOLED,
        {"once-own/prototypes", "once-own/counts", "once-sums/scatter", "once-weights/scatter"},
        {"own/generator"},
        set(),
    ),
    "none": (
        ["synthesis.clusters=own", "synthesis.directions=none"],
        {"once-own/prototypes", "once-own/counts"},
        {"own/generator"},
        set(),
    ),
}


@pytest.mark.parametrize("case", SENT)
def test_what_the_server_receives_is_recorded_by_client_part_and_kind(make, tmp_path, case):
    overrides, once, always, early = SENT[case]
    run(make(*RECORDED, *overrides), tmp_path)
    met = set()
    start = uploads(tmp_path, 0)
    assert start.keys() == {f"{client}/{name}" for client in range(10) for name in MOMENTS}
    for row in rows(tmp_path):
        sums = ["sums/model", "weights/model"]
        report = [
            "pairs",
            "sizes",
            *(f"loss.{name}" for name in row["losses"].keys() - {"holdout"}),
        ]
        expected = {
            f"{client}/{part}/{name}"
            for client in row["clients"]
            for part, names in {
                "method": sums,
                "synthesis": [
                    *always,
                    *(set() if client in met else once),
                    *(early if row["round"] < 3 else set()),
                ],
                "report": report,
            }.items()
            for name in names
        }  # fmt: skip
        found = uploads(tmp_path, row["round"])
        assert found.keys() == expected
        assert all(len(value) == 1 for value in found.values())
        met.update(row["clients"])
    assert len(met) > 5  # some clients were new after the first round, others were not


@pytest.mark.parametrize("name", RUNS)
def test_what_is_recorded_and_verdicts_are_the_bytes_that_went_up(make, tmp_path, name):
    overrides, numbers, judges = RUNS[name]
    run(make(*RECORDED, *overrides), tmp_path)
    validators = set(sampled(10, 0.5, 0, 0))
    for row in rows(tmp_path):
        asked = validators | set(row["clients"]) if judges == "both" else validators
        found = uploads(tmp_path, row["round"])
        assert nbytes(found) + 8 * numbers * len(asked) == row["bytes_up"]


def test_the_model_is_made_of_what_is_recorded(make, tmp_path):
    run(make(*RECORDED, OFF, "run.rounds=1"), tmp_path)
    (row,), found = rows(tmp_path), uploads(tmp_path, 1)
    total, mass = 0.0, 0.0
    for client in row["clients"]:
        weight = found[f"{client}/method/weights/model"]
        assert weight.tolist() == found[f"{client}/report/sizes"].tolist()
        total, mass = total + weight * found[f"{client}/method/sums/model"].double(), mass + weight
    model = load_file(tmp_path / records.CHECKPOINT)["server/model"]
    torch.testing.assert_close(model, (total / mass).float(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("clusters", ["all", "own"])
def test_what_is_the_clients_own_is_recorded_as_halves_and_sums_are_not(make, tmp_path, clusters):
    kinds = {}
    for name, form in (("half", "float16"), ("full", "float32")):
        own = f"synthesis.upload={form}", f"synthesis.clusters={clusters}"
        run(make(*RECORDED, *own), tmp_path / name)
        for number in (1, 2, 3):
            for key, value in uploads(tmp_path / name, number).items():
                what = key.partition("/")[2]
                kinds.setdefault(name, {}).setdefault(what, set()).add(value.dtype)
    assert kinds["half"].keys() == kinds["full"].keys()
    for what, (full,) in kinds["full"].items():
        (half,) = kinds["half"][what]
        own = what.startswith(("synthesis/own/", "synthesis/once-own/"))
        travels = own and full.is_floating_point
        assert half == (torch.float16 if travels else full)
    assert kinds["half"]["synthesis/own/generator"] == {torch.float16}


def test_sums_that_somebody_reads_client_by_client_are_recorded_as_their_own(make, tmp_path):
    run(make(*RECORDED, "synthesis.server=fedftg", "run.rounds=1"), tmp_path)
    names = {name.partition("/")[2] for name in uploads(tmp_path, 1)}
    kinds = {name for name in names if name.startswith("method/")}
    assert kinds == {"method/own/model", "method/own-weights/model"}


def test_recording_may_begin_when_a_run_goes_on_and_changes_nothing(make, tmp_path):
    run(make("engine.stack=3"), tmp_path / "quiet")
    run(make("engine.stack=3", "run.rounds=1"), tmp_path / "parts")
    assert not (tmp_path / "parts" / records.UPLOADS).exists()
    run(make("engine.stack=3", "run.record_uploads=true"), tmp_path / "parts", resume=True)
    recorded = {path.name for path in (tmp_path / "parts" / records.UPLOADS).iterdir()}
    assert recorded == {"round-2.safetensors", "round-3.safetensors"}
    assert not any("once-" in name for name in uploads(tmp_path / "parts", 2))
    for quiet, loud in zip(rows(tmp_path / "quiet"), rows(tmp_path / "parts"), strict=True):
        assert quiet | {"seconds": {}} == loud | {"seconds": {}}

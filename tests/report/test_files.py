"""Reading a run: tolerant of what is absent, clear about what is broken."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedsyn.errors import RunError
from fedsyn.report.files import read_comparison, read_run

RunWriter = Callable[..., Path]


def change(path: Path, **entries: Any) -> None:
    """Replace entries of a JSON object in a file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def test_a_complete_run_is_read(write_run: RunWriter) -> None:
    run = read_run(write_run("method.epochs=3", rounds=4, clients=7))
    assert run.config.method.epochs == 3
    assert [one.number for one in run.rounds] == [0, 1, 2, 3, 4]
    assert run.rounds[1].traffic == {"up": 7 * 12_345_678, "down": 7 * 8_345_678}
    assert run.rounds[1].server == {"candidates": 4096, "kept": 3072, "share": 0.25}
    assert (run.rounds[0].start, run.rounds[1].start) == (
        "closed form (ridge 10, 64 directions)",
        "",
    )
    assert set(run.outcomes) == {"start", "last", "best", "selected"}
    assert run.outcomes["start"].metrics == run.rounds[0].metrics
    assert run.clients == 7
    assert len(run.gallery) == 4 and len(run.gallery[0].results) == 6
    assert run.gallery[0].results[2].same_pair
    assert run.versions == {"version": "0.1.0", "backend": "cpu"}


def test_only_configuration_and_rounds_are_indispensable(write_run: RunWriter) -> None:
    run = read_run(write_run(without=("summary.json", "partition.json", "gallery.json")))
    assert run.partition is None and run.gallery == () and run.versions == {}
    assert run.outcomes["last"].round == 20
    assert run.outcomes["best"].metrics["map"] == max(one.metrics["map"] for one in run.rounds)
    assert run.totals["bytes_up"] == 21 * 10 * 12_345_678


def test_a_torn_last_line_is_ignored(write_run: RunWriter) -> None:
    path = write_run(rounds=3)
    metrics = path / "metrics.jsonl"
    metrics.write_text(metrics.read_text()[:-40])
    assert [one.number for one in read_run(path).rounds] == [0, 1, 2]


def test_a_broken_line_in_the_middle_is_named(write_run: RunWriter) -> None:
    path = write_run(rounds=3)
    metrics = path / "metrics.jsonl"
    first, _, *others = metrics.read_text().splitlines()
    metrics.write_text("\n".join([first, '{"round": ', *others]))
    with pytest.raises(RunError, match=r"metrics\.jsonl', line 2, is not JSON"):
        read_run(path)


def test_of_a_round_written_twice_the_later_line_counts(write_run: RunWriter) -> None:
    path = write_run(rounds=3)
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"round": 2, "metrics": {"map": 0.99}}\n')
    run = read_run(path)
    assert [one.number for one in run.rounds] == [0, 1, 2, 3]
    assert run.rounds[2].metrics == {"map": 0.99}


def test_rounds_are_in_order_whatever_the_order_of_lines(write_run: RunWriter) -> None:
    path = write_run(rounds=3)
    metrics = path / "metrics.jsonl"
    metrics.write_text("\n".join(reversed(metrics.read_text().splitlines())))
    run = read_run(path)
    assert [one.number for one in run.rounds] == [0, 1, 2, 3]
    assert run.outcomes["last"].round == 3


def test_numbers_that_are_absent_or_not_finite_are_dropped(write_run: RunWriter) -> None:
    path = write_run(rounds=1)
    (path / "metrics.jsonl").write_text(
        '{"round": 1, "metrics": {"map": NaN, "map50": 0.5, "note": "x", "recall@1": null},'
        ' "losses": {"critic": -Infinity}}\n{}\n'
    )
    first, second = read_run(path).rounds
    assert first.metrics == {"map50": 0.5}
    assert first.losses == first.seconds == first.traffic == {}
    assert (second.number, second.metrics) == (2, {})


def test_distinguished_rounds_may_hold_their_metrics_in_several_ways(write_run: RunWriter) -> None:
    path = write_run(rounds=5)
    change(path / "summary.json", best={"round": 3, "map": 0.77}, selected={"round": 2})
    run = read_run(path)
    assert run.outcomes["best"].metrics == {"map": 0.77}
    assert run.outcomes["selected"].metrics == run.rounds[2].metrics


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.toml", "[method]\nnam = 'fedavg'", r"config\.toml'.*nearest valid name"),
        ("summary.json", "{", r"summary\.json' is not JSON"),
        ("summary.json", "[1]", r"summary\.json' holds a list; expected a JSON object"),
        ("metrics.jsonl", "", "holds no complete round"),
        ("metrics.jsonl", "[]\n{}", "line 1, is not a JSON object"),
        ("partition.json", '{"clients": [[1]], "labels": ["a", "b"]}', "count for each of 2"),
        ("partition.json", '{"clients": [["x"]], "labels": ["a"]}', r"partition\.json' is malf"),
        ("partition.json", '{"pairs": [1, 2], "test": [3]}', "different numbers of clients"),
        ("gallery.json", '{"queries": [1]}', r"gallery\.json': 'queries' is not a list"),
    ],
)
def test_a_malformed_file_is_named(
    write_run: RunWriter, name: str, content: str, message: str
) -> None:
    path = write_run(rounds=1)
    (path / name).write_text(content)
    with pytest.raises(RunError, match=message):
        read_run(path)


@pytest.mark.parametrize("name", ["config.toml", "metrics.jsonl"])
def test_a_missing_file_is_named(write_run: RunWriter, name: str) -> None:
    with pytest.raises(RunError, match=f"{name}.*does not exist"):
        read_run(write_run(without=(name,)))


def test_what_is_not_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nowhere' is not a directory"):
        read_run(tmp_path / "nowhere")


def test_a_comparison_is_read(write_comparison_file: Callable[..., Path]) -> None:
    results = read_comparison(write_comparison_file(methods=("fedavg", "fedprox"), seeds=4))
    assert [row.synthesis for row in results.rows[:3]] == ["off", "on", "oracle"]
    assert results.rows[0].seeds == len(results.rows[0].runs) == 4
    closed = results.gap_closed["fedprox", "info_nce"]
    assert closed == {"map": pytest.approx(0.14 / 0.17), "r10": 0.5}


def test_a_comparison_needs_only_its_names(tmp_path: Path) -> None:
    rows = [{"method": "fedavg", "objective": "info_nce", "synthesis": "on", "seeds": [0, 1]}]
    gaps = [{"method": "fedavg", "objective": "info_nce", "map": float("nan")}]
    (tmp_path / "comparison.json").write_text(json.dumps({"rows": rows, "gap_closed": gaps}))
    results = read_comparison(tmp_path)
    assert results.rows[0].seeds == 2
    assert results.rows[0].numbers == {} and results.rows[0].curve is None
    assert results.gap_closed == {}


def test_a_curve_of_unequal_lengths_is_left_out(tmp_path: Path) -> None:
    curve = {"rounds": [1, 2], "mean": [0.1], "std": [0.0]}
    (tmp_path / "comparison.json").write_text(json.dumps({"rows": [{"curve": curve}]}))
    assert read_comparison(tmp_path).rows[0].curve is None


def test_a_comparison_of_an_unknown_task_is_refused(tmp_path: Path) -> None:
    (tmp_path / "comparison.json").write_text(json.dumps({"rows": [{"task": "retrieva"}]}))
    with pytest.raises(RunError, match=r"comparison\.json': .*'retrieva'.*nearest is 'retrieval'"):
        read_comparison(tmp_path)


def test_a_directory_without_a_comparison_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"comparison\.json' is missing or has no rows"):
        read_comparison(tmp_path)

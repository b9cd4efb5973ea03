"""Tables say what the files say, in numbers of sensible length."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from fedsyn.report import tables
from fedsyn.report.files import Partition, read_comparison, read_run
from fedsyn.report.tables import Grid

RunWriter = Callable[..., Path]


def printed(grid: Grid, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(tables.to_rich(grid))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def plain(text: str) -> str:
    """The text with ordinary spaces."""
    return text.replace("\N{NO-BREAK SPACE}", " ")


def cells(grid: Grid, first: str) -> dict[str, str]:
    """The row that starts with ``first``, by header."""
    row = next(row for row in grid.rows if row[0] == first)
    return {plain(name): plain(cell) for name, cell in zip(grid.header, row, strict=True)}


def test_results_show_both_directions_and_the_distinguished_rounds(write_run: RunWriter) -> None:
    run = read_run(write_run())
    grid = tables.results(run)
    kept, best = run.outcomes["selected"], run.outcomes["best"]
    row = cells(grid, "mAP")
    assert row["image → text"] == f"{kept.metrics['map_i2t']:.3f}"
    assert row["both directions"] == f"{kept.metrics['map']:.3f}"
    assert row[f"best (round {best.round})"] == f"{best.metrics['map']:.3f}"
    assert row["start (round 0)"] == f"{run.rounds[0].metrics['map']:.3f}"
    clients = run.rounds[kept.round].client_metrics
    assert row["mean of clients"] == f"{clients['map']:.3f}"
    assert cells(grid, "median rank ↓")["both directions"] == f"{kept.metrics['median_rank']:.1f}"


def test_metrics_that_no_round_has_get_no_row(write_run: RunWriter) -> None:
    path = write_run(rounds=1, without=("summary.json",))
    (path / "metrics.jsonl").write_text('{"metrics": {"map": NaN, "recall@1": 0.25}}\n')
    grid = tables.results(read_run(path))
    assert [row[0] for row in grid.rows] == ["Recall@1"]
    assert cells(grid, "Recall@1")["image → text"] == tables.ABSENT


def test_a_run_that_was_never_evaluated_has_an_empty_table(write_run: RunWriter) -> None:
    path = write_run(rounds=1, without=("summary.json",))
    (path / "metrics.jsonl").write_text("{}\n")
    assert tables.results(read_run(path)).rows == ()


def test_results_without_labels_say_what_is_relevant(write_run: RunWriter) -> None:
    assert "own pair" in tables.results(read_run(write_run(labels=()))).note


def test_costs_add_up_over_rounds(write_run: RunWriter) -> None:
    path = write_run(rounds=1, without=("summary.json",))
    (path / "metrics.jsonl").write_text(
        '{"seconds": {"local": 1.0}, "bytes_up": 1500}\n'
        '{"seconds": {"local": 3.0, "evaluate": 0.5}, "bytes_up": 2500}\n'
    )
    grid = tables.costs(read_run(path))
    assert cells(grid, "local") == {"": "local", "a round": "2.0 s", "in total": "4.0 s"}
    assert cells(grid, "evaluate")["a round"] == "250 ms"
    assert cells(grid, "time in all")["in total"] == "4.5 s"
    assert cells(grid, "clients → server")["in total"] == "4 kB"


PARTITION = Partition(
    labels=("heart", "star", "unlabelled"),
    counts=((6, 3, 1), (0, 0, 4), (0, 0, 0)),
    sizes={"pairs": (10, 4, 0), "test": (2, 1, 0), "texts_only": (0, 0, 0)},
)


def test_who_has_what_lists_clients_and_their_sum() -> None:
    grid = tables.who_has_what(PARTITION)
    assert grid.header == ("client", "training pairs", "test pairs", "most frequent labels")
    assert cells(grid, "0")["most frequent labels"] == "heart 60%, star 30%"
    assert cells(grid, "1")["most frequent labels"] == "unlabelled 100%"
    assert cells(grid, "2")["most frequent labels"] == tables.ABSENT
    assert cells(grid, "all")["training pairs"] == "14"


def test_who_has_what_can_be_cut_short_but_sums_all() -> None:
    grid = tables.who_has_what(PARTITION, limit=1)
    assert [row[0] for row in grid.rows] == ["0", "all"]
    assert cells(grid, "all")["training pairs"] == "14"
    assert grid.note == "2 more clients not shown"


def test_comparison_shows_spread_and_gap(write_comparison_file: Callable[..., Path]) -> None:
    results = read_comparison(write_comparison_file())
    grid = tables.comparison(results)
    first = results.rows[0].numbers
    assert plain(grid.rows[0][2]) == f"{first['map_mean']:.3f} ± {first['map_std']:.3f}"
    recall = grid.header.index("Recall@10")
    assert plain(grid.rows[0][recall]) == f"{first['r10_mean']:.3f} ± {first['r10_std']:.3f}"
    closed = grid.header.index("gap closed")
    assert [row[closed] for row in grid.rows[:3]] == ["", "82/50%", ""]


def test_the_best_federated_setting_is_strong_never_the_oracle(
    write_comparison_file: Callable[..., Path],
) -> None:
    grid = tables.comparison(read_comparison(write_comparison_file()))
    assert [grid.rows[index][:2] for index in grid.strong] == [("scaffold", "on")]


def test_one_seed_has_no_spread(write_comparison_file: Callable[..., Path]) -> None:
    grid = tables.comparison(read_comparison(write_comparison_file(seeds=1)))
    assert "±" not in grid.rows[0][2]


def test_what_all_settings_share_stands_in_the_title(
    write_comparison_file: Callable[..., Path],
) -> None:
    grid = tables.comparison(read_comparison(write_comparison_file()))
    assert plain(grid.title) == "Comparison: info_nce, 3 seeds"
    assert not {"objective", "seeds"} & set(grid.header)
    several = write_comparison_file(objectives=("info_nce", "djsrh"))
    grid = tables.comparison(read_comparison(several))
    assert plain(grid.title) == "Comparison: 3 seeds"
    assert grid.rows[3][:3] == ("fedavg", "djsrh", "off")


@pytest.mark.parametrize("width", [80, 120])
def test_tables_fit_a_terminal_with_their_numbers_whole(write_run: RunWriter, width: int) -> None:
    run = read_run(write_run(clients=30))
    assert run.partition is not None
    for grid in (tables.results(run), tables.costs(run), tables.who_has_what(run.partition)):
        text = printed(grid, width)
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in text
        for row in grid.rows:
            for index, cell in enumerate(row):
                assert index in grid.words or cell in text


def test_a_comparison_fits_a_terminal(write_comparison_file: Callable[..., Path]) -> None:
    path = write_comparison_file(objectives=("info_nce", "djsrh"))
    text = printed(tables.comparison(read_comparison(path)))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text and "scaffold" in text and "oracle" in text


def test_terminal_tables_show_brackets_of_names_as_they_are() -> None:
    assert "[bold]x" in printed(Grid(("name",), (("[bold]x",),)))


def test_markdown_escapes_what_would_break_the_table() -> None:
    text = tables.to_markdown(Grid(("name", "n"), (("a|b_c", "1"),), "Title", "Note."))
    assert text == "## Title\n\n| name | n |\n| :--- | ---: |\n| a\\|b\\_c | 1 |\n\nNote.\n"


def test_markdown_marks_strong_rows() -> None:
    grid = Grid(("name", "n"), (("a", ""), ("b", "2")), strong=frozenset([1]))
    assert tables.to_markdown(grid).splitlines()[-2:] == ["| a |  |", "| **b** | **2** |"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0123, "12 ms"),
        (1.0, "1.0 s"),
        (119.0, "119.0 s"),
        (150, "2 min 30 s"),
        (9000, "2 h 30 min"),
    ],
)
def test_durations_are_in_the_unit_that_suits_them(value: float, text: str) -> None:
    assert plain(tables.seconds(value)) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (1234, "1.23 kB"), (999_700, "1 MB"), (5e14, "500 TB")],
)
def test_sizes_are_in_the_unit_that_suits_them(value: float, text: str) -> None:
    assert plain(tables.size(value)) == text

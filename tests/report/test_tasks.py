"""Reports and comparisons of other tasks than retrieval speak of those tasks alone."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from fedsyn.report import plots, tables, write, write_comparison
from fedsyn.report.files import read_comparison, read_run
from fedsyn.report.html import facts
from fedsyn.tasks import TASKS

RunWriter = Callable[..., Path]
OTHERS = sorted(set(TASKS.names) - {"retrieval"})
RETRIEVAL = ("mAP", "average precision", "Recall", "image →", "gallery", "finds", "pair counts")


def words(html: str) -> str:
    """What a reader sees of a page, its configuration left out."""
    body = html[html.index("<main>") : html.index("<h2>Configuration")]
    return re.sub(r"<[^>]*>", " ", body) + headline_of(html)


def headline_of(html: str) -> str:
    found = re.search(r"<h1>(.*?)</h1>", html)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("task", OTHERS)
def test_a_page_shows_the_task_s_metrics_and_no_retrieval(write_run: RunWriter, task: str) -> None:
    path = write_run(f"task={task}")
    run, scores = read_run(path), TASKS.find(task).metrics
    text = words(write(path).read_text(encoding="utf-8"))
    for word in RETRIEVAL:
        assert word not in text
    assert run.kept is not None
    value = run.kept.metrics[scores.headlines[0]]
    assert f"{scores.noun(scores.headlines[0])} of {value:.3f}" in text
    for label in scores.labels.values():
        assert label in text
    assert dict(facts(run))["task"] == task.replace("_", " ")
    assert "embedding" not in dict(facts(run))


@pytest.mark.parametrize("task", OTHERS)
def test_the_curve_is_of_the_headline_and_of_its_mean_over_clients(
    write_run: RunWriter, task: str
) -> None:
    run, scores = read_run(write_run(f"task={task}")), TASKS.find(task).metrics
    name = scores.headlines[0]
    figure = plots.curves(run)
    assert figure is not None
    axes, *_ = figure.axes
    lines = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    label = scores.labels[name]
    assert axes.get_ylabel() == label
    assert lines[label] == [one.metrics[name] for one in run.rounds]
    assert lines["mean of clients"] == [one.client_metrics[name] for one in run.rounds]
    best = run.outcomes["best"]
    assert f"best: {best.metrics[name]:.3f}, round {best.round}" in lines


def test_what_is_not_a_share_has_a_panel_of_its_own(write_run: RunWriter) -> None:
    run = read_run(write_run("task=multimodal_classification"))
    figure = plots.curves(run)
    assert figure is not None
    shares, below = figure.axes
    names = {str(line.get_label()) for line in shares.lines}
    assert "image accuracy" in names and not any("imbalance" in name for name in names)
    assert below.get_ylabel() == "imbalance ↓"
    assert list(below.lines[0].get_ydata()) == [one.metrics["imbalance"] for one in run.rounds]


@pytest.mark.parametrize("task", OTHERS)
def test_without_a_summary_the_best_round_is_by_the_headline(
    write_run: RunWriter, task: str
) -> None:
    run = read_run(write_run(f"task={task}", without=("summary.json",)))
    name = TASKS.find(task).metrics.headlines[0]
    values = [one.metrics[name] for one in run.rounds]
    assert run.outcomes["best"].metrics[name] == max(values) > values[-1]


@pytest.mark.parametrize("task", OTHERS)
def test_a_comparison_shows_the_metrics_and_no_synthesis(
    write_comparison_file: Callable[..., Path], task: str
) -> None:
    path = write_comparison_file(methods=("fedavg", "fedprox"), task=task)
    results, scores = read_comparison(path), TASKS.find(task).metrics
    grid = tables.comparison(results)
    assert grid.header == ("method", *scores.labels.values(), "time")
    assert grid.strong == {1}
    first = results.rows[0].numbers
    name = scores.headlines[0]
    shown = grid.rows[0][1].replace("\N{NO-BREAK SPACE}", " ")
    assert shown == f"{first[f'{name}_mean']:.3f} ± {first[f'{name}_std']:.3f}"
    text = write_comparison(path)[0].read_text(encoding="utf-8")
    assert scores.noun(name).capitalize() in text
    for word in (*RETRIEVAL, "synthesis", "oracle"):
        assert word not in text


@pytest.mark.parametrize("task", OTHERS)
def test_a_comparison_fits_a_terminal(
    write_comparison_file: Callable[..., Path], task: str
) -> None:
    import io

    from rich.console import Console

    path = write_comparison_file(methods=("scaffold",), objectives=("moco", "simclr"), task=task)
    console = Console(file=io.StringIO(), width=80, color_system=None)
    console.print(tables.to_rich(tables.comparison(read_comparison(path))))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text and "scaffold" in text


@pytest.mark.parametrize("task", OTHERS)
def test_bars_and_curves_of_a_comparison_are_of_the_headline(
    write_comparison_file: Callable[..., Path], task: str
) -> None:
    results = read_comparison(write_comparison_file(methods=("fedavg", "fedprox"), task=task))
    scores = TASKS.find(task).metrics
    label = scores.labels[scores.headlines[0]]
    bars, curves = plots.comparison_bars(results), plots.comparison_curves(results)
    assert bars is not None and curves is not None
    assert bars.axes[0].get_xlabel() == curves.axes[0].get_ylabel() == label
    assert [line.get_label() for line in curves.axes[0].lines] == ["fedavg", "fedprox"]
    assert not bars.legends

"""Plots: what they show, and that they can be embedded."""

import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import matplotlib
import pytest
from matplotlib.figure import Figure

from fedsyn.report import plots
from fedsyn.report.files import Partition, read_comparison, read_run

RunWriter = Callable[..., Path]


def shown(figure: Figure | None) -> Figure:
    assert figure is not None
    return figure


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_curve_holds_every_round_and_marks_best_and_selected(write_run: RunWriter) -> None:
    run = read_run(write_run())
    figure = shown(plots.curves(run))
    (axes,) = figure.axes
    main = next(line for line in axes.lines if line.get_label() == "both directions")
    assert list(main.get_ydata()) == [one.metrics["map"] for one in run.rounds]
    best, selected = run.outcomes["best"], run.outcomes["selected"]
    assert f"best: {best.metrics['map']:.3f}, round {best.round}" in legend(figure)
    assert f"selected: {selected.metrics['map']:.3f}, round {selected.round}" in legend(figure)


def test_rounds_without_evaluation_leave_no_gap_in_the_curve(write_run: RunWriter) -> None:
    path = write_run(rounds=1, without=("summary.json",))
    (path / "metrics.jsonl").write_text(
        '{"round": 1, "metrics": {"map": 0.1}}\n'
        '{"round": 2}\n'
        '{"round": 3, "metrics": {"map": 0.3}}\n'
    )
    (axes,) = shown(plots.curves(read_run(path))).axes
    assert list(axes.lines[0].get_xdata()) == [1, 3]


def test_every_loss_has_a_panel(write_run: RunWriter) -> None:
    figure = shown(plots.losses(read_run(write_run(rounds=3))))
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "holdout",
        "local",
        "critic",
        "generator",
    ]


def test_stacked_bars_reach_the_size_of_each_client() -> None:
    partition = Partition(("a", "b", "c", "unlabelled"), ((5, 0, 0, 1), (2, 3, 0, 0)), {})
    (axes,) = shown(plots.who_has_what(partition)).axes
    clients = zip(*axes.containers, strict=True)
    tops = [max(bar.get_y() + bar.get_height() for bar in bars) for bars in clients]
    assert tops == [6, 5]
    assert legend(shown(plots.who_has_what(partition))) == ["a", "b", "unlabelled"]


def test_many_labels_become_a_heat_map_of_shares() -> None:
    row = tuple(range(20))
    partition = Partition(tuple(f"label {n}" for n in row), (row, row[::-1]), {})
    axes = shown(plots.who_has_what(partition)).axes[0]
    shares = axes.images[0].get_array()
    assert shares is not None
    assert shares.sum(axis=1).tolist() == pytest.approx([1, 1])


def test_sizes_alone_make_plain_bars() -> None:
    (axes,) = shown(plots.who_has_what(Partition((), (), {"pairs": (4, 2)}))).axes
    assert [bar.get_height() for bar in axes.containers[0]] == [4, 2]


def test_what_is_absent_is_not_plotted(write_run: RunWriter) -> None:
    path = write_run(rounds=1, without=("summary.json",))
    (path / "metrics.jsonl").write_text("{}\n")
    run = read_run(path)
    assert plots.curves(run) is plots.losses(run) is plots.phases(run) is None
    assert plots.who_has_what(Partition((), (), {})) is None


def test_comparison_bars_show_means_and_every_seed(
    write_comparison_file: Callable[..., Path],
) -> None:
    results = read_comparison(write_comparison_file(seeds=4))
    figure = shown(plots.comparison_bars(results))
    (axes,) = figure.axes
    widths = sorted(bar.get_width() for bar in axes.patches)
    assert widths == sorted(row.numbers["map_mean"] for row in results.rows)
    dots = [dots for dots in axes.collections if len(dots.get_offsets()) == 4]
    assert len(dots) == len(results.rows)
    assert legend(figure) == list(plots.SYNTHESIS.values())


def test_comparison_curves_have_a_panel_for_each_objective(
    write_comparison_file: Callable[..., Path],
) -> None:
    path = write_comparison_file(methods=("fedavg",), objectives=("info_nce", "djsrh"))
    figure = shown(plots.comparison_curves(read_comparison(path)))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["info_nce", "djsrh"]
    assert [len(axes.lines) for axes in figure.axes] == [3, 3]


def test_an_svg_takes_the_colours_of_its_page_and_is_reproducible(write_run: RunWriter) -> None:
    run = read_run(write_run())
    text = plots.svg(shown(plots.curves(run)), "curves")
    assert ElementTree.fromstring(text).tag.endswith("svg")
    assert "var(--ink)" in text and plots.INK not in text and plots.MUTED not in text
    assert text == plots.svg(shown(plots.curves(run)), "curves")


def test_figures_of_one_page_share_no_element_ids(write_run: RunWriter) -> None:
    run = read_run(write_run())
    # Even of the same plot, if its name differs.
    texts = [plots.svg(shown(plots.curves(run)), name) for name in ("first", "second")]
    first, second = (re.findall(r'\bid="([^"]+)"', text) for text in texts)
    assert first and set(first).isdisjoint(second)
    for text in texts:
        assert set(re.findall(r"#([a-z][0-9a-z]{6,})", text)) <= set(first + second)


def test_a_png_is_a_png(write_run: RunWriter) -> None:
    run = read_run(write_run(rounds=2))
    assert plots.png(shown(plots.phases(run))).startswith(b"\x89PNG")


def test_names_are_text_not_mathematics_markup_or_private() -> None:
    names = ("$5 or $x^", "<script>", "_noise_", "猫")
    figure = shown(plots.who_has_what(Partition(names, ((1, 1, 1, 1),), {})))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        root = ElementTree.fromstring(plots.svg(figure, "partition"))
    text = "\n".join(root.itertext())  # the parser drops comments
    assert "$5 or $x^" in text and "noise_" in text and "猫" in text
    assert "<script>" in text and not any(tag.tag.endswith("script") for tag in root.iter())


def test_plotting_leaves_the_settings_of_matplotlib_alone(write_run: RunWriter) -> None:
    before = dict(matplotlib.rcParams)
    plots.svg(shown(plots.curves(read_run(write_run(rounds=2)))), "curves")
    assert dict(matplotlib.rcParams) == before

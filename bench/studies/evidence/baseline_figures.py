"""Pictures of the study of baselines."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedsyn.report import plots
from fedsyn.report.plots import INK, MODE_COLOURS, MUTED
from fedsyn.report.tables import ABSENT
from studies.evidence import looks, studies, verdicts
from studies.evidence.arithmetic import METRICS, cells
from studies.evidence.looks import SERIES, baseline_of, different, dots
from studies.evidence.verdicts import TITLES as METRIC_TITLES
from studies.trials.arithmetic import Row
from studies.trials.figures import WIDTH

CLOSED_FORM = studies.CLOSED_FORM[0]
# Lines over the rounds, and levels that have no rounds.
LINES = {
    "off": (MODE_COLOURS["off"], "-", "off"),
    studies.TUNED: (INK, "-", "tuned"),
    "on": (MODE_COLOURS["on"], "-", "default, with synthesis"),
    "oracle": (MODE_COLOURS["oracle"], "--", "oracle"),
}
LEVELS = {
    CLOSED_FORM: (looks.CLOSED_FORM, "closed form"),
    studies.ZERO_SHOT: (looks.ZERO_SHOT, "zero-shot"),
}
SHARES = (-0.5, 2.0)  # of a gap, that are drawn; longer bars are cut and say so
MEGA = 1e6
TITLES = {
    "cells": "The default less the best of closed form, tuned and equal compute",
    "gaps": "Share of the gap closed",
    "curves": "mAP and R@10 over the rounds",
    "bytes": "mAP and R@10 against bytes sent",
}


def draw(rows: Sequence[Row]) -> dict[str, Figure | None]:
    """The pictures that there are rows for."""
    return {
        "cells": compared(rows),
        "gaps": gaps(rows),
        "curves": curves(rows),
        "bytes": traffic(rows),
    }


def compared(rows: Sequence[Row]) -> Figure | None:
    """The default less the best of what is simpler, by data set and skew: a panel a metric."""
    found = verdicts.judged(rows)
    if not found:
        return None
    places = list(dict.fromkeys((cell["data"], cell["alpha"]) for cell in found))
    baselines = [b for b in studies.BASELINES if b in {baseline_of(cell) for cell in found}]
    step = 0.7 / len(baselines)
    figure = Figure(figsize=(WIDTH, 1.0 + 0.34 * len(places)), layout="constrained")
    panels = figure.subplots(1, len(METRICS), sharey=True, squeeze=False)[0]
    for axes, metric in zip(panels, METRICS, strict=True):
        for series, baseline in enumerate(baselines):
            mine = [cell for cell in found if baseline_of(cell) == baseline]
            offset = (series - (len(baselines) - 1) / 2) * step
            axes.errorbar(
                [cell[metric]["difference"] for cell in mine],
                [places.index((cell["data"], cell["alpha"])) + offset for cell in mine],
                xerr=[cell[metric]["noise"] for cell in mine],
                **dots("o", SERIES[series], " + ".join(baseline), 4),
            )
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_title(METRIC_TITLES[metric], loc="left", color=INK)
        axes.set_xlabel("default less the best of what is simpler")
        axes.tick_params(axis="y", labelcolor=INK)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.margins(y=0.02)
    panels[0].set_yticks(range(len(places)), [f"{data}, {alpha:g}" for data, alpha in places])
    panels[0].invert_yaxis()
    plots.legend(figure, columns=len(baselines))
    return figure


def gaps(rows: Sequence[Row]) -> Figure | None:
    """Bars of the share of the gap closed, by data set and baseline: metrics by concentrations."""
    mine = [one["on"] for one in cells(rows) if one.keys() >= {"on", "oracle"}]
    if not mine:
        return None
    alphas, names = different(mine, "alpha"), different(mine, "data")
    baselines = [b for b in studies.BASELINES if b in {baseline_of(row) for row in mine}]
    thickness = 0.8 / len(baselines)
    height = 0.6 + 2.1 * len(alphas)
    figure = Figure(figsize=(WIDTH, height * len(METRICS) / 2), layout="constrained")
    panels = figure.subplots(
        len(METRICS) * len(alphas), 1, sharex=True, squeeze=False
    ).flat  # a line each, as there are many data sets
    for axes, (metric, alpha) in zip(
        panels, [(m, a) for m in METRICS for a in alphas], strict=True
    ):
        shares = [row["gap_closed"][metric] for row in mine]
        for row in (row for row in mine if row["alpha"] == alpha):
            series = baselines.index(baseline_of(row))
            offset = (series - (len(baselines) - 1) / 2) * thickness
            place = names.index(row["data"]) + offset
            _share(axes, place, row["gap_closed"][metric], thickness, SERIES[series])
        for series, baseline in enumerate(baselines):
            axes.bar([0], [0], color=SERIES[series], label=" + ".join(baseline))
        axes.axhline(1, color=INK, linewidth=1, linestyle="--")
        axes.axhline(0, color=MUTED, linewidth=0.8)
        axes.set_xticks(range(len(names)), names)
        axes.tick_params(axis="x", labelcolor=INK)
        axes.set_title(f"{METRIC_TITLES[metric]}, Dirichlet {alpha:g}", loc="left", color=INK)
        axes.grid(axis="x", visible=False)
        axes.set_ylim(*_limits(shares))
    plots.legend(figure, columns=len(baselines))
    return figure


def curves(rows: Sequence[Row]) -> Figure | None:
    """Both metrics over the rounds, of the plain baseline under skew."""
    axes = None
    for axes, cell, metric in _pairs_of_panels(rows):
        rounds = max(cell[name]["curve"]["rounds"][-1] for name in LINES if name in cell)
        for name, (colour, dash, label) in LINES.items():
            if name in cell:
                curve = cell[name][_curve(metric)]
                _band(axes, curve["rounds"], curve, colour, dash, label)
        for name, (colour, label) in LEVELS.items():
            if name in cell:
                level = cell[name][f"{metric}_mean"]
                axes.plot([0, rounds], [level] * 2, color=colour, linestyle=":", label=label)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 5, 10], integer=True, min_n_ticks=1))
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("round")
    return _with_legend(axes, 6)


def traffic(rows: Sequence[Row]) -> Figure | None:
    """Both metrics against the bytes sent so far, both ways, of the plain baseline under skew."""
    axes = None
    for axes, cell, metric in _pairs_of_panels(rows):
        for name in ("off", "on"):
            colour, dash, label = LINES[name]
            curve, row = cell[name][_curve(metric)], cell[name]
            a_round = (row["bytes_up"] + row["bytes_down"]) / MEGA
            start = (row["bytes_up_total"] + row["bytes_down_total"]) / MEGA
            start -= a_round * row["rounds"]
            spent = [start + number * a_round for number in curve["rounds"]]
            _band(axes, spent, curve, colour, dash, label)
        if CLOSED_FORM in cell:
            row, (colour, label) = cell[CLOSED_FORM], LEVELS[CLOSED_FORM]
            spent = [(row["bytes_up_total"] + row["bytes_down_total"]) / MEGA]
            axes.errorbar(spent, [row[f"{metric}_mean"]], **dots("d", colour, label, 5))
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.set_xlabel("MB, both ways")
    return _with_legend(axes, 3)


def _pairs_of_panels(rows: Sequence[Row]) -> Iterator[tuple[Axes, dict[str, Row], str]]:
    """Two panels, a metric each, for every data set; two data sets a line."""
    mine = [
        cell
        for cell in cells(rows)
        if cell.keys() >= {"off", "on"}
        and (cell["on"]["alpha"], baseline_of(cell["on"])) == (studies.SKEWED, studies.PLAIN)
    ]
    if not mine:
        return
    lines = (len(mine) + 1) // 2
    figure = Figure(figsize=(WIDTH, 0.6 + 1.6 * lines), layout="constrained")
    panels = list(figure.subplots(lines, 2 * len(METRICS), squeeze=False).flat)
    places = [(cell, metric) for cell in mine for metric in METRICS]
    for axes in panels[len(places) :]:
        axes.remove()
    for axes, (cell, metric) in zip(panels, places, strict=False):
        axes.set_title(f"{cell['on']['data']}, {METRIC_TITLES[metric]}", loc="left", color=INK)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        yield axes, cell, metric


def _with_legend(panel: Axes | None, columns: int) -> Figure | None:
    """The whole figure of a panel."""
    figure = None if panel is None else panel.figure
    if not isinstance(figure, Figure):
        return None
    plots.legend(figure, columns)
    return figure


def _share(axes: Axes, place: float, share: float | None, thickness: float, colour: str) -> None:
    if share is None:
        axes.annotate(ABSENT, (place, 0), ha="center", va="bottom", color=MUTED)
        return
    low, high = SHARES
    shown = min(max(share, low), high)
    axes.bar([place], [shown], width=0.92 * thickness, color=colour)
    if shown != share:
        axes.annotate(
            f"{share:.1f}", (place, shown), ha="center", color=INK, fontsize=7.5,
            va="bottom" if share > 0 else "top", rotation=90 if share > 0 else 0,
        )  # fmt: skip


def _limits(shares: Sequence[float | None]) -> tuple[float, float]:
    known = [share for share in shares if share is not None]
    low = max(min([0.0, *known]), SHARES[0])
    high = min(max([1.0, *known]), SHARES[1])
    return low - 0.25 * (low < 0), high + 0.4


def _band(
    axes: Axes,
    places: Sequence[float],
    curve: Mapping[str, Any],
    colour: str,
    dash: str,
    label: str,
) -> None:
    axes.plot(places, curve["mean"], color=colour, linestyle=dash, label=label)
    both = list(zip(curve["mean"], curve["std"], strict=True))
    low, high = ([mean + sign * std for mean, std in both] for sign in (-1, 1))
    axes.fill_between(places, low, high, color=colour, alpha=0.2, linewidth=0)


def _curve(metric: str) -> str:
    """Where a row has a metric over the rounds."""
    return "curve" if metric == METRICS[0] else f"{metric}_curve"

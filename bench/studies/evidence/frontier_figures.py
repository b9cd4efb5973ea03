"""The frontier as pictures: gains upwards, what an attack finds to the right."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedsyn.report import plots
from fedsyn.report.plots import COLOURS, INK, MUTED
from studies.evidence import frontier, studies
from studies.evidence.arithmetic import METRICS
from studies.evidence.frontier import Points
from studies.evidence.verdicts import OWN_AUC, OWN_TPR
from studies.evidence.verdicts import TITLES as METRIC_TITLES
from studies.trials.arithmetic import Row
from studies.trials.figures import WIDTH

TITLES = {
    "frontier": "Gain against attacks on own parts, mean over the data sets",
    "frontier-data": "Gain against attacks on own parts, by data set",
    "frontier-combined": "Gain against all attacks together, sums seen only as sums",
}
AXES = {
    "own_auc": "AUC, strongest attack on own parts",
    "own_tpr": "TPR at 1 %, strongest attack on own parts",
    "combined_auc": "AUC, all attacks, sums as sums",
    "combined_tpr": "TPR at 1 %, all attacks, sums as sums",
}
BOUNDS = {"own_auc": OWN_AUC, "own_tpr": OWN_TPR}
MARKERS = ("o", "s", "D", "^", "v", "P", "X")


def draw(rows: Sequence[Row]) -> dict[str, Figure | None]:
    """The pictures that there are points for."""
    every = frontier.points(rows)
    average = frontier.average(every)
    if not any(METRICS[0] in point for point in average.values()):
        return {}
    return {
        "frontier": _grid(average, ("own_auc", "own_tpr")),
        "frontier-data": _by_data(every),
        "frontier-combined": _grid(average, ("combined_auc", "combined_tpr")),
    }


def _grid(points: Points, leaks: Sequence[str]) -> Figure:
    """Metrics by measures of the attack."""
    figure = Figure(figsize=(WIDTH, 0.9 + 2.4 * len(leaks)), layout="constrained")
    panels = figure.subplots(len(leaks), len(METRICS), squeeze=False)
    for line, leak in zip(panels, leaks, strict=True):
        for axes, metric in zip(line, METRICS, strict=True):
            _panel(axes, points, leak, metric, named=True)
            axes.set_title(f"gain in {METRIC_TITLES[metric]}", loc="left", color=INK)
            axes.set_xlabel(AXES[leak])
    plots.legend(figure, columns=2)
    return figure


def _by_data(every: dict[str, Points]) -> Figure:
    """Data sets by metrics, against the attack on own parts."""
    leak = "own_auc"
    figure = Figure(figsize=(WIDTH, 1.2 + 1.9 * len(METRICS)), layout="constrained")
    panels = figure.subplots(len(METRICS), len(every), squeeze=False)
    for column, (data, points) in enumerate(every.items()):
        for line, metric in zip(panels, METRICS, strict=True):
            _panel(line[column], points, leak, metric, named=False)
        panels[0][column].set_title(data, loc="left", color=INK)
        panels[-1][column].set_xlabel("AUC, own parts")
    for line, metric in zip(panels, METRICS, strict=True):
        line[0].set_ylabel(f"gain in {METRIC_TITLES[metric]}")
    plots.legend(figure, columns=2)
    return figure


def _panel(axes: Axes, points: Points, leak: str, metric: str, named: bool) -> None:
    """Settings that differ in one number are joined, and named by it; the default has a ring."""
    gained = [name for name, point in points.items() if metric in point]
    for number, (family, names) in enumerate(frontier.families(gained).items()):
        places = [(points[name][leak], points[name][metric]) for name in names]
        joined = all(name.rpartition(": ")[2].replace(".", "").isdigit() for name in names)
        axes.plot(
            *zip(*places, strict=True),
            label=family,
            color=COLOURS[number],
            marker=MARKERS[number],
            markersize=4.5 if named else 3.5,
            linewidth=0.9,
            linestyle="-" if joined else "none",
        )
        for name, place in zip(names, places, strict=True):
            if named:
                axes.annotate(
                    name.rpartition(": ")[2], place, (4, 3), textcoords="offset points",
                    fontsize=6.5, color=MUTED,
                )  # fmt: skip
    if studies.DEFAULT in gained:
        default = points[studies.DEFAULT]
        axes.plot(
            [default[leak]], [default[metric]], label="default", color=INK, marker="o",
            markersize=10 if named else 8, markerfacecolor="none", linestyle="none", zorder=4,
        )  # fmt: skip
    if leak in BOUNDS:
        axes.axvline(BOUNDS[leak], color=MUTED, linewidth=0.8, linestyle="--")
    elif "off" in points:
        axes.axvline(points["off"][leak], color=MUTED, linewidth=0.8, linestyle="--")
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.margins(0.12)

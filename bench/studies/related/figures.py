"""The plots of the page, in the look of fedsyn's reports."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedsyn.report import plots
from fedsyn.report.plots import COLOURS, INK
from studies.related.arithmetic import by_task, metrics_of
from studies.related.studies import Study
from studies.trials.arithmetic import Row
from studies.trials.figures import WIDTH, save


def draw(rows: Sequence[Row], study: Study, folder: Path) -> dict[str, str]:
    """Save the pictures of a study; file names by what they show."""
    mine = [row for row in rows if row["study"] == study.name]
    # (Of cases that were evaluated once there is nothing to see over the rounds.)
    moving = [row for row in mine if len(row["curve"]["rounds"]) > 1]
    with plots.style():
        figures = {("At the selected round", ""): levels(mine, study)}
        if moving:
            figures["Over the rounds", "-curves"] = curves(moving, study)
        for task, of_task in by_task(moving).items():
            metrics = metrics_of(task)
            for name in metrics.apart:
                title = f"{metrics.noun(name).capitalize()} over the rounds"
                figures[title, f"-{name}"] = curves(of_task, study, name)
    return {
        title: save(figure, folder / f"related-{study.name}{end}.png")
        for (title, end), figure in figures.items()
    }


def levels(rows: Sequence[Row], study: Study) -> Figure:
    """The headline of each contender: mean, deviation, and a dot for each seed."""
    names = [one.name for one in study.contenders if one.name in {r["contender"] for r in rows}]
    cases = list(dict.fromkeys(row["case"] for row in rows))
    figure, panels = _panels(len(cases), 0.9 + 0.2 * len(names))
    for number, (axes, case) in enumerate(zip(panels, cases, strict=True)):
        mine = [row for row in rows if row["case"] == case]
        first = number % _columns(len(cases)) == 0
        metrics = metrics_of(mine[0]["task"])
        metric = metrics.headlines[0]
        for row in mine:
            place, colour = names.index(row["contender"]), _colour(study, row)
            known = [value for value in row[f"{metric}_runs"] if value is not None]
            axes.scatter(known, [place] * len(known), s=9, color=colour, alpha=0.5, linewidth=0)
            if row[f"{metric}_mean"] is not None:
                axes.errorbar(
                    row[f"{metric}_mean"], place, xerr=row[f"{metric}_std"],
                    color=colour, marker="o", markersize=4, elinewidth=1.0, capsize=2.0,
                )  # fmt: skip
        axes.set_title(case, loc="left", color=INK)
        axes.set_xlabel(metrics.labels[metric])
        axes.set_yticks(range(len(names)), names if first else [""] * len(names))
        axes.tick_params(axis="y", labelcolor=INK)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_ylim(len(names) - 0.5, -0.5)
    return figure


def curves(rows: Sequence[Row], study: Study, metric: str = "") -> Figure:
    """A metric over the rounds, by default the headline: mean over seeds."""
    cases = list(dict.fromkeys(row["case"] for row in rows))
    figure, panels = _panels(len(cases), 1.7)
    for axes, case in zip(panels, cases, strict=True):
        mine = [row for row in rows if row["case"] == case]
        metrics = metrics_of(mine[0]["task"])
        for row in mine:
            first = row["contender"] == study.contenders[0].name
            curve = row[f"{metric}_curve" if metric else "curve"]
            axes.plot(
                curve["rounds"],
                [math.nan if mean is None else mean for mean in curve["mean"]],
                label=row["contender"],
                color=_colour(study, row),
                linewidth=2.0 if first else 1.1,
            )
        axes.set_title(case, loc="left", color=INK)
        axes.set_ylabel(metrics.labels[metric or metrics.headlines[0]])
        axes.set_xlabel("round")
        axes.grid(axis="x", visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
        axes.yaxis.set_major_locator(MaxNLocator(4))
    plots.legend(figure, columns=4)
    return figure


def _panels(number: int, height: float) -> tuple[Figure, list[Axes]]:
    """So many panels, a few in a line, each of this height in inches."""
    columns = _columns(number)
    lines = math.ceil(number / columns)
    figure = Figure(figsize=(WIDTH, height * lines + 0.6), layout="constrained")
    panels = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes in panels[number:]:
        axes.remove()
    return figure, panels[:number]


def _columns(number: int) -> int:
    """Panels in a line."""
    return 2 if number == 4 else min(3, number)


def _colour(study: Study, row: Row) -> str:
    """The study's method stands out."""
    place = [one.name for one in study.contenders].index(row["contender"])
    return INK if place == 0 else COLOURS[(place - 1) % len(COLOURS)]

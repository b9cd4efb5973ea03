"""The plots of the page, in the look of fedsyn's reports."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedsyn.report import plots
from fedsyn.report.plots import COLOURS, INK, LINE, MODE_COLOURS, MUTED, SYNTHESIS, UNLABELLED
from fedsyn.report.tables import ABSENT
from studies.evidence import studies
from studies.trials.arithmetic import CONFIDENCE, Row
from studies.trials.figures import WIDTH, save
from studies.trials.files import Result

# Told apart by lightness too, for those who do not see the hues.
SERIES = (COLOURS[0], COLOURS[1], INK, UNLABELLED)
MARKERS = {"off": "s", "on": "o", "oracle": "d"}
DASHES = {"off": "-", "on": "-", "oracle": "--"}
SHARES = (-0.5, 2.0)  # of a gap, that are drawn; longer bars are cut and say so
MEGA = 1e6


def draw(result: Result, folder: Path) -> dict[str, str]:
    """Save what there are rows for; file names by what they show."""
    rows = result.rows
    with plots.style():
        figures = {
            "gaps": gaps(rows),
            "curves": curves(rows),
            "bytes": traffic(rows),
            "features": features(result.picture),
            **{one.name: levels(rows, one) or effects(rows, one) for one in studies.STUDIES},
        }
    return {
        name: save(figure, folder / f"evidence-{name}.png")
        for name, figure in figures.items()
        if figure is not None
    }


def gaps(rows: Sequence[Row]) -> Figure | None:
    """Bars of the share of the gap closed, by data set and baseline; a panel a concentration."""
    mine = [row for row in rows if row["study"] == "baselines" and row["synthesis"] == "on"]
    if not mine:
        return None
    alphas, names = _different(mine, "alpha"), _different(mine, "data")
    baselines = [b for b in studies.BASELINES if b in {_baseline(row) for row in mine}]
    thickness = 0.8 / len(baselines)
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    panels = figure.subplots(1, len(alphas), sharey=True, squeeze=False)[0]
    for axes, alpha in zip(panels, alphas, strict=True):
        for row in (row for row in mine if row["alpha"] == alpha):
            series = baselines.index(_baseline(row))
            offset = (series - (len(baselines) - 1) / 2) * thickness
            place = names.index(row["data"]) + offset
            _share(axes, place, row["gap_closed"], thickness, SERIES[series])
        for series, (method, objective) in enumerate(baselines):
            axes.bar([0], [0], color=SERIES[series], label=f"{method} + {objective}")
        axes.axhline(1, color=INK, linewidth=1, linestyle="--")
        axes.axhline(0, color=MUTED, linewidth=0.8)
        axes.set_xticks(range(len(names)), names)
        axes.set_title(f"Dirichlet {alpha:g}", loc="left", color=INK)
        axes.grid(axis="x", visible=False)
    panels[0].set_ylabel("share of the gap closed")
    panels[0].set_ylim(*_limits([row["gap_closed"] for row in mine]))
    plots.legend(figure, columns=len(baselines))
    return figure


def curves(rows: Sequence[Row]) -> Figure | None:
    """The mAP over the rounds under skew: data sets by baselines."""
    mine = [row for row in rows if "curve" in row and row["alpha"] == studies.SKEWED]
    if not mine:
        return None
    names = _different(mine, "data")
    baselines = [b for b in studies.BASELINES if b in {_baseline(row) for row in mine}]
    figure = Figure(figsize=(WIDTH, 0.7 + 1.55 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), len(baselines), sharex=True, sharey="row", squeeze=False)
    for line, name in zip(panels, names, strict=True):
        for axes, baseline in zip(line, baselines, strict=True):
            for row in mine:
                if (row["data"], _baseline(row)) == (name, baseline):
                    _band(axes, row["curve"]["rounds"], row)
            axes.xaxis.set_major_locator(
                MaxNLocator(4, steps=[1, 5, 10], integer=True, min_n_ticks=1)
            )
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.grid(axis="x", visible=False)
        line[0].set_ylabel(f"{name}\nmAP")
    for axes, (method, objective) in zip(panels[0], baselines, strict=True):
        axes.set_title(f"{method} + {objective}", loc="left", color=INK)
    for axes in panels[-1]:
        axes.set_xlabel("round")
    plots.legend(figure, columns=3)
    return figure


def traffic(rows: Sequence[Row]) -> Figure | None:
    """The mAP against the bytes sent so far, both ways, for the plain baseline under skew."""
    mine = [
        row
        for row in rows
        if "curve" in row
        and (row["alpha"], _baseline(row)) == (studies.SKEWED, studies.PLAIN)
        and row["synthesis"] != "oracle"
    ]
    if not mine:
        return None
    names = _different(mine, "data")
    figure = Figure(figsize=(WIDTH, 2.4), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        for row in (row for row in mine if row["data"] == name):
            a_round = (row["bytes_up"] + row["bytes_down"]) / MEGA
            _band(axes, [number * a_round for number in row["curve"]["rounds"]], row)
        axes.set_title(name, loc="left", color=INK)
        axes.set_xlabel("MB, both ways")
        axes.xaxis.set_major_locator(MaxNLocator(4))
    panels[0].set_ylabel("mAP")
    plots.legend(figure, columns=2)
    return figure


def features(picture: Row | None) -> Figure | None:
    """Real and synthetic pairs in the plane, coloured by client: each kind, over the other's."""
    if picture is None:
        return None
    figure = Figure(figsize=(WIDTH, 3.9), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    kinds = {"real": "synthetic", "synthetic": "real"}
    for axes, (kind, other) in zip(panels, kinds.items(), strict=True):
        axes.scatter(*zip(*picture[other]["at"], strict=True), s=7, color=LINE, linewidth=0)
        for client in sorted(set(picture["real"]["client"]) | set(picture["synthetic"]["client"])):
            mine = zip(picture[kind]["client"], picture[kind]["at"], strict=True)
            at = [place for owner, place in mine if owner == client] or [(float("nan"),) * 2]
            axes.scatter(
                *zip(*at, strict=True),
                label=f"client {client}",
                marker="o" if kind == "real" else "^",
                s=12,
                color=COLOURS[client % len(COLOURS)],
                linewidth=0,
            )
        axes.set_title(f"{kind} pairs (grey: {other})", loc="left", color=INK)
        axes.set(xticks=[], yticks=[])
        axes.spines["bottom"].set_visible(False)
        axes.grid(visible=False)
    plots.legend(figure, columns=5)
    return figure


def levels(rows: Sequence[Row], study: studies.Study) -> Figure | None:
    """The mAP of each setting by synthesis, a panel a data set.

    Of studies that have more than one setting without synthesis.
    """
    mine = [row for row in rows if row["study"] == study.name]
    modes = [mode for mode in MODE_COLOURS if any(row["synthesis"] == mode for row in mine)]
    settings = _different([row for row in mine if row["synthesis"] == "off"], "setting")
    if len(settings) < 2:
        return None
    names = _different(mine, "data")
    figure = Figure(figsize=(WIDTH, 0.9 + 0.26 * len(settings)), layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        for mode in modes:
            chosen = [
                row
                for row in mine
                if (row["data"], row["synthesis"]) == (name, mode) and row["setting"] in settings
            ]
            axes.errorbar(
                [row["map_mean"] for row in chosen],
                [settings.index(row["setting"]) for row in chosen],
                xerr=[row["map_std"] or 0.0 for row in chosen],
                label=SYNTHESIS[mode],
                color=MODE_COLOURS[mode],
                marker=MARKERS[mode],
                markersize=5,
                linestyle="none",
                elinewidth=1.0,
                capsize=2.0,
            )
        axes.set_title(name, loc="left", color=INK)
        axes.set_xlabel("mAP")
        axes.tick_params(axis="y", labelcolor=INK)
        axes.margins(y=0.05)
    panels[0].set_yticks(range(len(settings)), settings)
    panels[0].invert_yaxis()
    plots.legend(figure, columns=len(modes))
    return figure


def effects(rows: Sequence[Row], study: studies.Study) -> Figure | None:
    """What each setting changes, seed by seed: bars of the mean with their intervals.

    Settings named ``context: setting`` have a panel a context.
    """
    mine = [row for row in rows if row["study"] == study.name and row.get("effect")]
    if not mine:
        return None
    names = _different(mine, "data")
    contexts: dict[str, list[str]] = {}
    for setting in _different(mine, "setting"):
        contexts.setdefault(studies.context(setting), []).append(setting)
    columns = min(2, len(contexts))
    groups = list(contexts.items())
    lines = [groups[first : first + columns] for first in range(0, len(groups), columns)]
    heights = [max(len(settings) for _, settings in line) for line in lines]
    height = 0.9 + 0.35 * len(lines) + 0.11 * (1 + len(names)) * sum(heights)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    panels = figure.subplots(len(lines), columns, sharex=True, squeeze=False, height_ratios=heights)
    for axes, (context, settings) in zip(panels.flat, groups, strict=False):
        _effect_bars(axes, [row for row in mine if row["setting"] in settings], names)
        short = [setting.removeprefix(f"{context}: ") for setting in settings]
        axes.set_yticks(range(len(settings)), short)
        axes.set_title(context, loc="left", color=INK)
    for axes in list(panels.flat)[len(groups) :]:
        axes.remove()
    for axes in panels[-1]:
        axes.set_xlabel(f"change of mAP, {CONFIDENCE:.0%} interval")
    plots.legend(figure, columns=len(names))
    return figure


def _effect_bars(axes: Axes, rows: Sequence[Row], names: Sequence[str]) -> None:
    thickness = 0.8 / len(names)
    settings = _different(rows, "setting")
    for series, name in enumerate(names):
        chosen = [row for row in rows if row["data"] == name]
        offset = (series - (len(names) - 1) / 2) * thickness
        halves = [row["effect"]["half"] or 0.0 for row in chosen]
        axes.barh(
            [settings.index(row["setting"]) + offset for row in chosen],
            [row["effect"]["mean"] for row in chosen],
            height=0.9 * thickness,
            color=SERIES[series],
            label=name,
            xerr=halves if any(halves) else None,
            error_kw={"ecolor": MUTED, "elinewidth": 1.0, "capsize": 2.0},
        )
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.grid(axis="y", visible=False)
    axes.margins(y=0.01)
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(MaxNLocator(5))


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
    return low - 0.12 * (low < 0), high + 0.3


def _band(axes: Axes, places: Sequence[float], row: Row) -> None:
    mean, std, mode = row["curve"]["mean"], row["curve"]["std"], row["synthesis"]
    colour = MODE_COLOURS[mode]
    axes.plot(places, mean, color=colour, linestyle=DASHES[mode], label=SYNTHESIS[mode])
    low, high = ([m + sign * s for m, s in zip(mean, std, strict=True)] for sign in (-1, 1))
    axes.fill_between(places, low, high, color=colour, alpha=0.2, linewidth=0)


def _baseline(row: Row) -> studies.Baseline:
    return row["method"], row["objective"]


def _different(rows: Sequence[Row], name: str) -> list[Any]:
    return list(dict.fromkeys(row[name] for row in rows))

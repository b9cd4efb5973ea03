"""The plots of a report, as matplotlib figures without pyplot, and their rendering.

A figure is drawn in one palette. `png` renders it on white, to stand alone; `svg` renders it for
embedding in a page, where the ink takes the page's colours, so one picture serves light and dark.
The colours of data are mid-tones that stand out on both.
"""

import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fedsyn.report.files import Comparison, Curve, Numbers, Partition, Row, Run

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

INK, MUTED, LINE = "#1f2933", "#66717d", "#dde2e7"
PAGE_COLOURS = {INK: "var(--ink)", MUTED: "var(--muted)", LINE: "var(--line)"}
COLOURS = (
    *("#4c83c3", "#ee8a2a", "#4aa564", "#d65a5e", "#8d72c4", "#2fa3a8"),
    *("#c9a227", "#d678a8", "#96705a", "#7fae42", "#5b6ee1", "#b5545c"),
)
UNLABELLED = "#98a2ad"
WIDTH = 5.6  # inches
MOST_STACKED = len(COLOURS)  # labels beyond this are told apart by place, not by colour
SYNTHESIS = {
    "off": "without synthesis",
    "on": "with synthesis",
    "oracle": "oracle: real features",
}
MODE_COLOURS = {"off": UNLABELLED, "on": COLOURS[0], "oracle": COLOURS[6]}


def curves(run: Run) -> "Figure | None":
    """The headline and what belongs to it over the rounds, the best and the selected one marked;
    below it what is on another scale.
    """
    headline, clients = run.headline, "mean of clients"
    drawn = run.scores.lines(headline)
    lines = {label: _over_rounds(run, "metrics", name) for label, name in drawn.items()}
    lines[clients] = _over_rounds(run, "client_metrics", headline)
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return None
    others = {name: _over_rounds(run, "metrics", name) for name in run.scores.apart}
    others = {name: points for name, points in others.items() if points}
    with style():
        figure, (axes, *panels) = _figure(height=3.3 + 1.7 * len(others), rows=1 + len(others))
        for name, points in lines.items():
            main = drawn.get(name) == headline
            axes.plot(
                *zip(*points, strict=True),
                label=name,
                color=INK if main else COLOURS[list(lines).index(name) - 1],
                linewidth=2.0 if main else 1.2,
                linestyle="--" if name == clients else "-",
                marker="o" if len(points) == 1 else None,
            )
        _mark_outcomes(axes, run)
        _rounds_axis(axes, run.scores.labels[headline])
        for below, (name, points) in zip(panels, others.items(), strict=True):
            marker = "o" if len(points) == 1 else None
            below.plot(*zip(*points, strict=True), color=INK, marker=marker)
            _rounds_axis(below, run.scores.labels[name])
        legend(figure, columns=3)
    return figure


def losses(run: Run) -> "Figure | None":
    """Every loss over the rounds, each on a scale of its own."""
    names = list(dict.fromkeys(name for one in run.rounds for name in one.losses))
    if not names:
        return None
    rows = math.ceil(len(names) / 2)
    with style():
        figure, panels = _figure(height=0.4 + 1.5 * rows, rows=rows, columns=min(2, len(names)))
        for axes, name in zip(panels, names, strict=False):
            points = _over_rounds(run, "losses", name)
            marker = "o" if len(points) == 1 else None
            axes.plot(*zip(*points, strict=True), color=COLOURS[0], marker=marker)
            axes.set_title(name, loc="left", color=INK)
            _rounds_axis(axes)
        for axes in panels[len(names) :]:
            axes.remove()
    return figure


def phases(run: Run) -> "Figure | None":
    """Seconds of each phase, stacked, for every round."""
    names = list(dict.fromkeys(name for one in run.rounds for name in one.seconds))
    if not names:
        return None
    series = {name: [one.seconds.get(name, 0.0) for one in run.rounds] for name in names}
    with style():
        figure, (axes,) = _figure(height=2.9)
        _stack(axes, [one.number for one in run.rounds], series, COLOURS)
        _rounds_axis(axes, "seconds")
        legend(figure, columns=4)
    return figure


def who_has_what(partition: Partition) -> "Figure | None":
    """Training pairs of each client by label: stacked bars, a heat map of shares if many labels."""
    if not partition.clients:
        return None
    with style():
        if len(partition.labels) > MOST_STACKED + 1:
            return _heat_map(partition)
        figure, (axes,) = _figure(height=3.3)
        series, colours = _labelled_series(partition)
        _stack(axes, range(partition.clients), series, colours)
        axes.set_xlabel("client")
        axes.set_ylabel("training pairs")
        _whole_numbers(axes.xaxis)
        if len(series) > 1:
            legend(figure, columns=4)
    return figure


def comparison_bars(results: Comparison) -> "Figure | None":
    """The headline of every setting: bars of the mean, deviation, a dot for each seed."""
    rows = [row for row in results.rows if f"{results.headline}_mean" in row.numbers]
    if not rows:
        return None
    groups = list(dict.fromkeys(row.group for row in rows))
    modes = _modes(rows)
    thickness = 0.8 / len(modes)
    with style():
        figure, (axes,) = _figure(height=1.0 + 0.26 * len(rows) + 0.12 * len(groups))
        for mode in modes:
            members = [row for row in rows if row.synthesis == mode]
            offset = (modes.index(mode) - (len(modes) - 1) / 2) * thickness
            places = [groups.index(row.group) + offset for row in members]
            _bars(axes, results, members, places, thickness, mode)
        axes.set_yticks(range(len(groups)), _group_names(groups))
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(results.scores.labels[results.headline])
        if results.of_synthesis:
            legend(figure, columns=3)
    return figure


def comparison_curves(results: Comparison) -> "Figure | None":
    """The headline over the rounds of every setting that has a curve: mean and deviation."""
    rows = [(row, row.curve) for row in results.rows if row.curve]
    if not rows:
        return None
    objectives = list(dict.fromkeys(row.objective for row, _ in rows))
    methods = list(dict.fromkeys(row.method for row, _ in rows))
    dashes = dict(zip(_modes([row for row, _ in rows]), ("-", "--", ":", "-."), strict=False))
    with style():
        figure, panels = _figure(height=0.8 + 2.6 * len(objectives), rows=len(objectives))
        for axes, objective in zip(panels, objectives, strict=True):
            for row, curve in rows:
                if row.objective != objective:
                    continue
                colour = COLOURS[methods.index(row.method) % len(COLOURS)]
                mode = SYNTHESIS.get(row.synthesis, row.synthesis)
                name = f"{row.method}, {mode}" if results.of_synthesis else row.method
                _band(axes, curve, name, colour, dashes.get(row.synthesis, "-"))
            axes.set_title(objective, loc="left", color=INK)
            _rounds_axis(axes, results.scores.labels[results.headline])
        legend(figure, columns=2)
    return figure


def svg(figure: "Figure", name: str) -> str:
    """The figure as an ``<svg>`` element for embedding in HTML.

    Parameters
    ----------
    name : str
        Distinct among the figures of a page: it keeps their element ids apart, and the same input
        gives the same bytes.
    """
    stream = io.StringIO()
    with style(), warnings.catch_warnings():
        # The reader's browser has the characters that the measuring font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        import matplotlib

        with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
            figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    # Groups are numbered alike in every figure, and nothing refers to them.
    text = re.sub(r'<g id="[^"]*"', "<g", text[text.index("<svg") :])
    for colour, variable in PAGE_COLOURS.items():
        text = text.replace(colour, variable)
    return text


def png(figure: "Figure", dpi: int = 160) -> bytes:
    """The figure as a PNG on white."""
    stream = io.BytesIO()
    with style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(stream, format="png", dpi=dpi, facecolor="white")
    return stream.getvalue()


@contextmanager
def style() -> Iterator[None]:
    """The look of all plots; names of labels may hold dollars, so no text is mathematics."""
    import matplotlib
    from cycler import cycler

    settings: dict[Any, Any] = {
        "text.parse_math": False,
        "font.size": 9,
        "axes.titlesize": 9,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "axes.prop_cycle": cycler(color=COLOURS),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.axisbelow": True,
        "axes.grid": True,
        "grid.color": LINE,
        "grid.linewidth": 0.8,
        "axes.edgecolor": LINE,
        "text.color": INK,
        "axes.labelcolor": MUTED,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
    }
    with matplotlib.rc_context(settings):
        yield


def _figure(height: float, rows: int = 1, columns: int = 1) -> tuple["Figure", list["Axes"]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def legend(figure: "Figure", columns: int) -> None:
    """One legend below all axes, each name once."""
    entries: dict[str, Artist] = {}
    for axes in figure.axes:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(str(name), handle)
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside lower left",
        ncols=columns,
        handlelength=1.6,
        columnspacing=1.4,
    )


def _rounds_axis(axes: "Axes", label: str = "") -> None:
    axes.set_xlabel("round")
    axes.set_ylabel(label)
    axes.grid(axis="x", visible=False)
    _whole_numbers(axes.xaxis)


def _whole_numbers(axis: "Axis") -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _over_rounds(run: Run, part: str, name: str) -> list[tuple[int, float]]:
    """``(round, value)`` of the rounds that have the number."""
    numbers: list[tuple[int, Numbers]] = [(one.number, getattr(one, part)) for one in run.rounds]
    return [(number, values[name]) for number, values in numbers if name in values]


def _mark_outcomes(axes: "Axes", run: Run) -> None:
    for name, marker in (("best", "o"), ("selected", "D")):
        outcome = run.outcomes.get(name)
        if outcome is None or outcome.round is None or run.headline not in outcome.metrics:
            continue
        value = outcome.metrics[run.headline]
        axes.plot(
            outcome.round,
            value,
            label=f"{name}: {value:.3f}, round {outcome.round}",
            marker=marker,
            markersize=9 if name == "best" else 5,
            markerfacecolor="none" if name == "best" else COLOURS[3],
            markeredgecolor=COLOURS[3],
            linestyle="none",
            zorder=3,
        )


def _stack(
    axes: "Axes",
    places: Sequence[int],
    series: dict[str, list[float]],
    colours: Sequence[str],
) -> None:
    """Stacked bars, the first series at the bottom."""
    base = [0.0] * len(places)
    for index, (name, values) in enumerate(series.items()):
        colour = colours[index % len(colours)]
        axes.bar(places, values, bottom=base, width=0.8, label=name, color=colour)
        base = [low + value for low, value in zip(base, values, strict=True)]
    axes.grid(axis="x", visible=False)


def _labelled_series(partition: Partition) -> tuple[dict[str, list[float]], list[str]]:
    """Counts of each label over the clients; their sizes alone where labels are not known."""
    series = {
        # matplotlib keeps names with a leading underscore out of legends.
        label.lstrip("_"): [float(row[index]) for row in partition.counts]
        for index, label in enumerate(partition.labels)
        if any(row[index] for row in partition.counts)
    }
    if not series:
        sizes = partition.sizes.get("pairs", (0,) * partition.clients)
        return {"training pairs": [float(n) for n in sizes]}, [COLOURS[0]]
    named = [label for label in series if label != "unlabelled"]
    return series, [
        COLOURS[named.index(label) % len(COLOURS)] if label in named else UNLABELLED
        for label in series
    ]


def _heat_map(partition: Partition) -> "Figure":
    """The share of every label among each client's training pairs."""
    import numpy as np
    from matplotlib.colors import LinearSegmentedColormap

    counts = np.array(partition.counts, dtype=float)
    present = np.flatnonzero(counts.any(axis=0))
    labels = [partition.labels[index] for index in present]
    share = counts[:, present] / counts.sum(axis=1, keepdims=True).clip(min=1)
    figure, (axes,) = _figure(height=min(7.0, max(2.8, 1.6 + 0.2 * len(share))))
    # From clear to full, so that empty cells are the page in light and dark.
    shades = LinearSegmentedColormap.from_list("share", [f"{COLOURS[0]}00", f"{COLOURS[0]}ff"])
    picture = axes.imshow(share, cmap=shades, vmin=0, vmax=1, aspect="auto", interpolation="none")
    axes.grid(visible=False)
    axes.set_ylabel("client")
    _whole_numbers(axes.yaxis)
    if len(labels) <= 40:
        axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=7.5)
    else:
        axes.set_xlabel("label")
    bar = figure.colorbar(picture, ax=axes, format="{x:.0%}", pad=0.02, aspect=30)
    bar.set_label("share of the client's pairs")
    bar.outline.set_visible(False)
    return figure


def _modes(rows: Sequence[Row]) -> list[str]:
    """The synthesis settings present: off, on, oracle, then any other."""
    present = dict.fromkeys(row.synthesis for row in rows)
    return [mode for mode in SYNTHESIS if mode in present] + [
        mode for mode in present if mode not in SYNTHESIS
    ]


def _group_names(groups: Sequence[tuple[str, str]]) -> list[str]:
    """Methods, and their objectives where these differ."""
    several = len({objective for _, objective in groups}) > 1
    return [f"{method}\n{objective}" if several else method for method, objective in groups]


def _bars(
    axes: "Axes",
    results: Comparison,
    rows: Sequence[Row],
    places: Sequence[float],
    thickness: float,
    mode: str,
) -> None:
    colour = MODE_COLOURS.get(mode, COLOURS[4]) if results.of_synthesis else COLOURS[0]
    mean, std = (f"{results.headline}_{what}" for what in ("mean", "std"))
    means = [row.numbers[mean] for row in rows]
    deviations = [row.numbers.get(std, 0.0) if row.seeds > 1 else 0.0 for row in rows]
    axes.barh(
        places,
        means,
        height=thickness * 0.92,
        label=SYNTHESIS.get(mode, mode),
        color=colour,
        xerr=deviations if any(deviations) else None,
        error_kw={"ecolor": INK, "elinewidth": 1.0, "capsize": 2.5},
    )
    for place, row in zip(places, rows, strict=True):
        if len(row.runs) > 1:
            axes.scatter(
                row.runs,
                [place] * len(row.runs),
                s=10,
                facecolor="white",
                edgecolor=INK,
                linewidth=0.6,
                zorder=3,
            )


def _band(axes: "Axes", curve: Curve, name: str, colour: str, dash: str) -> None:
    rounds, mean, std = curve.rounds, curve.mean, curve.std
    marker = "o" if len(rounds) == 1 else None
    axes.plot(rounds, mean, color=colour, linestyle=dash, marker=marker, label=name)
    low = [m - s for m, s in zip(mean, std, strict=True)]
    high = [m + s for m, s in zip(mean, std, strict=True)]
    axes.fill_between(rounds, low, high, color=colour, alpha=0.18, linewidth=0)

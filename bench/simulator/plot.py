"""The figures: seconds a round against clients, and against the clients sampled of many."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

import results
from results import Row

INK, MUTED, LINE = "#1f2933", "#66717d", "#dde2e7"
NAMES = {"fedsyn": "fedsyn", "loop": "plain loop", "pfl": "pfl-research", "flower": "Flower"}
COLOURS = {"fedsyn": "#d65a5e", "loop": "#4c83c3", "pfl": "#4aa564", "flower": "#8d72c4"}
TITLES = {"local": "Federated averaging", "synthesis": "The round with synthesis"}
APART = 0.055  # of the axis's height: the least distance between two labels


def draw(result: dict[str, list[Row]], folder: Path) -> None:
    """Save the figures that there are rows for."""
    rows = [row for row in result["row"] if row["pairs"] == 320]
    workloads = [name for name in TITLES if any(row["workload"] == name for row in rows)]
    if workloads:
        figure = Figure(figsize=(4.6 * len(workloads), 3.7), layout="constrained")
        panels = figure.subplots(1, len(workloads), sharey=True, squeeze=False)[0]
        for axes, workload in zip(panels, workloads, strict=True):
            against_clients(axes, [row for row in rows if row["workload"] == workload])
            axes.set_title(TITLES[workload], loc="left", color=INK, fontsize=11)
        for axes, workload in zip(panels, workloads, strict=True):  # when the limits are known
            name(axes, [row for row in rows if row["workload"] == workload])
        panels[0].set_ylabel("seconds a round", color=MUTED)
        figure.savefig(folder / "simulator.png", dpi=160)
    if result.get("linearity"):
        figure = Figure(figsize=(4.6, 3.2), layout="constrained")
        against_sampled(figure.subplots(), result["linearity"])
        figure.savefig(folder / "simulator-linearity.png", dpi=160)


def against_clients(axes: Axes, rows: list[Row]) -> None:
    """One line a system."""
    axes.set(xscale="log", yscale="log")
    bare(axes)
    for system, colour in COLOURS.items():
        mine = sorted((r["clients"], r["seconds_round"]) for r in rows if r["system"] == system)
        if mine:
            own = system == "fedsyn"
            axes.plot(
                *zip(*mine, strict=True), color=colour, marker="o", markersize=4.5,
                linewidth=2.4 if own else 1.5, zorder=3 if own else 2,
            )  # fmt: skip
    ticks = sorted({row["clients"] for row in rows})
    axes.set_xticks(ticks, [f"{number:,}" for number in ticks])
    axes.set_xlim(ticks[0] / 5, ticks[-1] * 1.4)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("clients", color=MUTED)


def name(axes: Axes, rows: list[Row]) -> None:
    """Labels before the beginnings of lines; of two that would overlap, the upper is moved up."""
    first = min(row["clients"] for row in rows)
    below = -1.0
    for row in sorted(rows, key=lambda row: row["seconds_round"]):
        if row["clients"] == first:
            point = axes.transData.transform((first, row["seconds_round"]))
            height = max(axes.transAxes.inverted().transform(point)[1], below + APART)
            below = height
            axes.annotate(
                NAMES[row["system"]], (first, height), xycoords=("data", "axes fraction"),
                xytext=(-8, 0), textcoords="offset points", ha="right", va="center",
                color=COLOURS[row["system"]], fontsize=9.5,
            )  # fmt: skip


def against_sampled(axes: Axes, rows: list[Row]) -> None:
    """Measured rounds, and the straight line from nothing through the largest."""
    bare(axes)
    sampled = [row["sampled"] for row in rows]
    seconds = [row["seconds_round"] for row in rows]
    axes.plot([0, sampled[-1]], [0, seconds[-1]], color=LINE, linewidth=1.5, zorder=0)
    axes.plot(sampled, seconds, color=COLOURS["fedsyn"], marker="o", markersize=5, linestyle="")
    axes.annotate(
        "proportional", (sampled[-1] * 0.55, seconds[-1] * 0.55), xytext=(8, -8),
        textcoords="offset points", color=MUTED, fontsize=9,
    )  # fmt: skip
    axes.set_xlim(0, sampled[-1] * 1.08)
    axes.set_ylim(0, max(seconds) * 1.15)
    axes.set_xlabel(f"clients sampled a round, of {rows[0]['clients']:,}", color=MUTED)
    axes.set_ylabel("seconds a round", color=MUTED)
    axes.set_xticks(sampled, [f"{number:,}" for number in sampled])


def bare(axes: Axes) -> None:
    """A frame of two lines, and light ones behind the values."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.grid(axis="y", color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=MUTED, length=0)


if __name__ == "__main__":
    ROOT = Path(__file__).parent.parent.parent
    draw(results.read(results.FOLDER / "simulator.jsonl"), ROOT / "docs" / "images")

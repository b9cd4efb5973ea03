"""Pictures of studies that change one thing at a time."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedsyn.report import plots
from fedsyn.report.plots import INK, MODE_COLOURS, MUTED, SYNTHESIS
from studies.evidence import looks, studies
from studies.evidence.arithmetic import METRICS
from studies.evidence.looks import SERIES, different, dots
from studies.evidence.verdicts import TITLES as METRIC_TITLES
from studies.trials.arithmetic import CONFIDENCE, Row
from studies.trials.figures import WIDTH

CLOSED_FORM = studies.CLOSED_FORM[0]
KINDS = {
    "off": ("s", MODE_COLOURS["off"], SYNTHESIS["off"]),
    "on": ("o", MODE_COLOURS["on"], SYNTHESIS["on"]),
    CLOSED_FORM: ("d", looks.CLOSED_FORM, "closed form"),
}


def levels(rows: Sequence[Row], study: str) -> Figure | None:
    """Both metrics of each setting, without and with synthesis: panels by data set and metric."""
    mine = [row for row in rows if row["study"] == study]
    settings = different([row for row in mine if _kind(row) == "off"],
                          "setting")  # fmt: skip
    if not settings:
        return None
    names = different(mine, "data")
    figure = Figure(figsize=(WIDTH, 1.2 + 0.3 * len(settings)), layout="constrained")
    panels = figure.subplots(1, len(names) * len(METRICS), sharey=True, squeeze=False)[0]
    places = [(name, metric) for name in names for metric in METRICS]
    for axes, (name, metric) in zip(panels, places, strict=True):
        for kind, (marker, colour, label) in KINDS.items():
            chosen = [row for row in mine if (row["data"], _kind(row)) == (name, kind)
                      and row["setting"] in settings]  # fmt: skip
            if chosen:
                axes.errorbar(
                    [row[f"{metric}_mean"] for row in chosen],
                    [settings.index(row["setting"]) for row in chosen],
                    xerr=[row[f"{metric}_std"] or 0.0 for row in chosen],
                    **dots(marker, colour, label, 5),
                )
        axes.set_title(f"{name}, {METRIC_TITLES[metric]}", loc="left", color=INK)
        axes.tick_params(axis="y", labelcolor=INK)
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.margins(y=0.12)
    panels[0].set_yticks(range(len(settings)), settings)
    panels[0].invert_yaxis()
    plots.legend(figure, columns=len(KINDS))
    return figure


def effects(rows: Sequence[Row], study: str) -> Figure | None:
    """What each setting changes, seed by seed: bars with their intervals, a panel a metric."""
    mine = [row for row in rows if row["study"] == study and row.get("effect")]
    if not mine:
        return None
    names, settings = different(mine, "data"), different(mine, "setting")
    figure = Figure(figsize=(WIDTH, 1.0 + 0.3 * len(settings)), layout="constrained")
    panels = figure.subplots(1, len(METRICS), sharey=True, squeeze=False)[0]
    for axes, metric in zip(panels, METRICS, strict=True):
        thickness = 0.8 / len(names)
        for series, name in enumerate(names):
            chosen = [row for row in mine if row["data"] == name]
            offset = (series - (len(names) - 1) / 2) * thickness
            found = [row["effect"][metric] for row in chosen]
            halves = [effect["half"] or 0.0 for effect in found]
            axes.barh(
                [settings.index(row["setting"]) + offset for row in chosen],
                [effect["mean"] for effect in found],
                height=0.9 * thickness,
                color=SERIES[series],
                label=name,
                xerr=halves if any(halves) else None,
                error_kw={"ecolor": MUTED, "elinewidth": 1.0, "capsize": 2.0},
            )
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_xlabel(f"change of {METRIC_TITLES[metric]}, {CONFIDENCE:.0%} interval")
        axes.tick_params(axis="y", labelcolor=INK)
        axes.grid(axis="y", visible=False)
        axes.margins(y=0.01)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    panels[0].set_yticks(range(len(settings)), settings)
    panels[0].invert_yaxis()
    plots.legend(figure, columns=len(names))
    return figure


def _kind(row: Row) -> str:
    return CLOSED_FORM if row["method"] == CLOSED_FORM else str(row["synthesis"])

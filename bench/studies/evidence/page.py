"""The page: tables and pictures out of the rows, nothing by hand."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsyn.federation import config
from fedsyn.report import tables
from studies.evidence import columns, figures, frontier, studies, verdicts
from studies.evidence.arithmetic import METRICS, NOISE, called, cells
from studies.evidence.columns import marked, spread
from studies.evidence.verdicts import TITLES
from studies.trials.arithmetic import CONFIDENCE, Row, signed
from studies.trials.files import Result
from studies.trials.page import hours, measured, render, several, table

ABSENT = tables.ABSENT
BEGINNING = "evidence-"  # of the names of this page's pictures
CLOSED_FORM = studies.CLOSED_FORM[0]
# What the rows of a cell are called, in the order of tables, and what the page calls them.
LEVELS = {
    studies.CHANCE: "chance",
    studies.ZERO_SHOT: "zero-shot",
    CLOSED_FORM: "closed form",
    "off": "off",
    studies.TUNED: "tuned",
    studies.COMPUTE: "equal compute",
    "on": "default",
    "oracle": "oracle",
}
FULL = ("map", "map50", "r1", "r10")
# What attacks are on, as audits have it, and what the page calls it.
ATTACKED = {
    "own": "own",
    "model": "averaged models",
    "combined": "all, sums as sums",
    "without": "the same without synthesis' parts",
    "raw": "all, as it arrives",
}


def write(result: Result, path: Path, images: Path) -> None:
    """Write the page to ``path`` and its pictures to ``images``; pictures of older pages go."""
    saved = figures.draw(result.rows, images, BEGINNING)
    for old in images.glob(f"{BEGINNING}*.png"):
        if old.name not in saved.values():
            old.unlink()
    rows = result.rows
    text = render(
        Path(__file__).with_name("evidence.md.jinja"),
        failures=result.failures,
        clients=config.load().partition.clients,
        seeds=several(measured_rows(rows), "seeds"),
        noise=f"{NOISE:g}",
        confidence=f"{CONFIDENCE:.0%}",
        most=studies.MOST_COMPUTE,
        rates=", ".join(f"{rate:g}" for rate in studies.RATES),
        temperatures=", ".join(f"{value:g}" for value in studies.TEMPERATURES),
        chosen_on=" and ".join(studies.CHOSEN_ON),
        when=measured(result.measured),
        targets=targets(verdicts.targets(rows)),
        sections=[
            section(study, rows, saved)
            for study in studies.STUDIES
            if any(row["study"] == study.name for row in rows)
        ],
        hours=hours(rows),
    )
    path.write_text(text, encoding="utf-8")


def measured_rows(rows: Sequence[Row]) -> list[Row]:
    """The rows that have runs behind them."""
    return [row for row in rows if row["runs"]]


def section(study: studies.Study, rows: Sequence[Row], saved: Mapping[str, str]) -> dict[str, Any]:
    """What the page says of a study."""
    mine = [row for row in rows if row["study"] == study.name]
    if study is studies.BASELINE_STUDY:
        parts = [*_cells(mine), *_audits(mine), *_levels(mine)]
    elif study.name == frontier.NAME:
        parts = _frontier(mine)
    else:
        parts = [columns.table_of(mine, columns.of_study(study.name))]
    shown = figures.TITLES.get(study.name, {})
    return {
        "title": study.title,
        "about": study.about,
        "figures": [
            {"file": saved[name], "title": title} for name, title in shown.items() if name in saved
        ],
        "parts": parts,
    }


def targets(found: Sequence[Mapping[str, Any]]) -> str:
    """Each target, what was measured, and whether that meets it."""
    verdict = {True: "met", False: "**missed**", None: "not measured"}
    lines = [(one["target"], one["measured"] or ABSENT, verdict[one["met"]]) for one in found]
    return table(("target", "measured", ""), lines)


# ---- Baselines ----------------------------------------------------------------------------------


def _cells(rows: Sequence[Row]) -> list[str]:
    """A table a metric, one line a cell: what is simpler, the default, the oracle."""
    names = [name for name in LEVELS if name not in (studies.CHANCE, studies.ZERO_SHOT)]
    parts = []
    for metric in METRICS:
        lines = [_cell(cell, metric, names) for cell in cells(rows) if "on" in cell]
        header = ("data", "skew", "baseline", *(LEVELS[name] for name in names), "gap closed")
        parts += [f"### {TITLES[metric]}", table(header, lines)]
    return parts


def _cell(cell: Mapping[str, Row], metric: str, names: Sequence[str]) -> list[str]:
    on = cell["on"]
    there = [cell[name] for name in verdicts.SIMPLER if name in cell]
    best = max(there, key=lambda row: row[f"{metric}_mean"], default=None)
    share = on["gap_closed"][metric]
    shown = {
        name: marked(cell[name], best if name == "on" else None, metric) if name in cell else ""
        for name in names
    }
    place = (on["data"], f"{on['alpha']:g}", f"{on['method']} + {on['objective']}")
    return [*place, *shown.values(), ABSENT if share is None else f"{share:.2f}"]


def _levels(rows: Sequence[Row]) -> list[str]:
    """Everything of the plain baseline: a table a data set."""
    method, objective = studies.PLAIN
    parts = [f"### All of {method} + {objective}"]
    mine = [row for row in rows if row["objective"] in ("", objective)]
    for data in dict.fromkeys(row["data"] for row in mine):
        lines = [
            _level(row)
            for alpha in studies.BASELINE_STUDY.alphas
            for name in LEVELS
            for row in mine
            if (row["data"], row["alpha"], called(row)) == (data, alpha, name)
        ]
        labels = ("mAP", "mAP@50", "R@1", "R@10", "recalls", "rounds", "up", "down", "s", "audit")
        parts += [f"**{data}**", table(("skew", "", *labels), lines)]
    return parts


def _audits(rows: Sequence[Row]) -> list[str]:
    """What attacks find in the plain baseline's uploads, without and with synthesis."""
    audits = {(row["data"], row["synthesis"]): row["audit"] for row in rows if "audit" in row}
    lines = [
        (
            data, mode, *(_attack(audit, part) for part in ATTACKED),
        )
        for (data, mode), audit in audits.items()
    ]  # fmt: skip
    if not lines:
        return []
    method, objective = studies.PLAIN
    return [
        f"### Audit of {method} + {objective}, Dirichlet {studies.SKEWED:g}, seed 0",
        "AUC / true-positive rate at 1 % false positives.",
        table(("data", "synthesis", *ATTACKED.values()), lines),
    ]


def _attack(audit: Mapping[str, Any], part: str) -> str:
    if audit[f"{part}_auc"] is None:
        return ABSENT
    return f"{audit[f'{part}_auc']:.2f} / {audit[f'{part}_tpr']:.3f}"


def _level(row: Row) -> list[str]:
    name = called(row)
    values = [spread(row, metric) for metric in FULL]
    values.append(tables.spread(row["rsum_mean"], None, 1))
    if not row["runs"]:
        return [f"{row['alpha']:g}", LEVELS[name], *values, "", "", "", "", ""]
    sizes = [tables.size(row[f"bytes_{way}_total"]) for way in ("up", "down")]
    return [
        f"{row['alpha']:g}", LEVELS[name] + _chosen(row), *values, str(row["rounds"]), *sizes,
        f"{row['seconds_mean']:.0f}", _audit(row.get("audit")),
    ]  # fmt: skip


def _chosen(row: Row) -> str:
    """What a tuned row has been tuned to."""
    if row["setting"] not in (studies.TUNED, studies.COMPUTE):
        return ""
    return f" (T {row['temperature']:g}, rate {row['lr']:g})"


def _audit(audit: Mapping[str, Any] | None) -> str:
    """Own parts, where there are any, and everything where sums are seen only as sums."""
    if audit is None:
        return ""
    parts = {"own": "own", "combined": "all"}
    return ", ".join(
        f"{name} {_attack(audit, part)}"
        for part, name in parts.items()
        if audit[f"{part}_auc"] is not None
    )


# ---- The frontier -------------------------------------------------------------------------------


def _frontier(rows: Sequence[Row]) -> list[str]:
    """A line a setting: means over the data sets; then each data set's."""
    every = frontier.points(rows)
    average = frontier.average(every)
    where = f"Means over {', '.join(every)}:"
    parts = [where, _points(average)] if average else []
    for data, points in every.items():
        parts += [f"**{data}**", _points(points)]
    return parts


def _points(points: Mapping[str, Mapping[str, Any]]) -> str:
    header = ("setting", *(f"gain in {TITLES[metric]}" for metric in METRICS),
              "own: AUC", "own: TPR", "all, as sums: AUC", "TPR")  # fmt: skip
    lines = [
        (
            f"**{name}**" if name == studies.DEFAULT else name,
            *(_gain(point, metric) for metric in METRICS),
            *(_leak(point, leak) for leak in frontier.LEAKS),
        )
        for name, point in points.items()
    ]
    return table(header, lines)


def _leak(point: Mapping[str, Any], name: str) -> str:
    digits = 2 if name.endswith("auc") else 3
    return f"{point[name]:.{digits}f}" if name in point else ABSENT


def _gain(point: Mapping[str, Any], metric: str) -> str:
    if metric not in point:
        return ""
    return signed({"mean": point[metric], "half": point.get(f"{metric}_half")})

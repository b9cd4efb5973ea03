"""The page: tables, verdicts and pictures out of the rows, nothing by hand."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsyn.report import tables
from studies.related import figures
from studies.related.arithmetic import by_task, metrics_of, verdicts
from studies.related.studies import STUDIES, Study
from studies.trials.arithmetic import CONFIDENCE, Row, signed
from studies.trials.files import Result
from studies.trials.page import hours, measured, render, several, table

VERDICTS = {True: "holds", False: "**does not hold**", None: "not judged"}


def write(result: Result, path: Path, images: Path) -> None:
    """Write the page to ``path`` and its pictures to ``images``."""
    rows, judged = result.rows, verdicts(result.rows, STUDIES)
    text = render(
        Path(__file__).with_name("related.md.jinja"),
        failures=result.failures,
        rounds=several(rows, "rounds"),
        seeds=several(rows, "seeds"),
        confidence=f"{CONFIDENCE:.0%}",
        when=measured(result.measured),
        hours=hours(rows),
        held=sum(one["holds"] is True for one in judged),
        judged=sum(one["holds"] is not None for one in judged),
        summary=summary(judged),
        sections=[
            section(study, rows, judged, images)
            for study in STUDIES
            if any(row["study"] == study.name for row in rows)
        ],
    )
    path.write_text(text, encoding="utf-8")


def section(
    study: Study, rows: Sequence[Row], judged: Sequence[Mapping[str, Any]], images: Path
) -> dict[str, Any]:
    """What the page says of a study."""
    mine = [row for row in rows if row["study"] == study.name]
    return {
        "title": study.title,
        "about": study.about,
        "figures": figures.draw(rows, study, images),
        "tables": [table_of(of_task) for of_task in by_task(mine).values()],
        "tried": study.tried,
        "claims": [line(one) for one in judged if one["study"] == study.name],
    }


def summary(judged: Sequence[Mapping[str, Any]]) -> str:
    """Every claim, the difference over all its runs, and whether it holds."""
    titles = {study.name: study.title for study in STUDIES}
    lines = [
        (titles[one["study"]], claim(one), difference(one["effect"]), VERDICTS[one["holds"]])
        for one in judged
    ]
    return table(("", "claim", "difference", ""), lines)


def line(verdict: Mapping[str, Any]) -> str:
    """A verdict in words, with the difference in each case."""
    cases = "; ".join(f"{case} {signed(effect)}" for case, effect in verdict["cases"].items())
    shown = f" ({cases})" if cases else ""
    found = f"{VERDICTS[verdict['holds']]}, {difference(verdict['effect'])}"
    return f"{claim(verdict)}: {found}{shown}."


def claim(verdict: Mapping[str, Any]) -> str:
    """In words."""
    metrics = metrics_of(verdict["task"])
    names = {name: metric for metric, name in metrics.compared.items()}
    side = "below" if verdict["below"] else "above"
    if margin := verdict["margin"]:
        side = f"at most {margin:g} {'above' if verdict['below'] else 'below'}"
    said = f"{verdict['one']} {side} {verdict['other']} in {metrics.noun(names[verdict['metric']])}"
    return said + (f" ({'; '.join(verdict['where'])})" if verdict["where"] else "")


def difference(effect: Mapping[str, Any] | None) -> str:
    """With its interval and the number of pairs of runs."""
    return tables.ABSENT if effect is None else f"{signed(effect)} (n = {len(effect['values'])})"


def table_of(rows: Sequence[Row]) -> str:
    """One line a case and contender of one task; the best headline of a case is bold."""
    metrics = metrics_of(rows[0]["task"])
    headline = metrics.headlines[0]
    header = ("case", "", *(metrics.labels[name] for name in metrics.compared))
    known = [row for row in rows if row[f"{headline}_mean"] is not None]
    best = {row["case"]: row for row in sorted(known, key=lambda row: row[f"{headline}_mean"])}
    lines = []
    for row in rows:
        cells = [
            tables.spread(row[f"{name}_mean"], row[f"{name}_std"], row["seeds"])
            for name in metrics.compared.values()
        ]
        if row is best.get(row["case"]):
            cells[0] = f"**{cells[0]}**"
        bytes_ = [tables.size(row[f"bytes_{way}"]) for way in ("up", "down")]
        lines.append((row["case"], row["contender"], *cells, *bytes_, f"{row['seconds_mean']:.0f}"))
    return table((*header, "up", "down", "s"), lines)

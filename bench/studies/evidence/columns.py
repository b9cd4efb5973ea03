"""Columns of the tables of small studies: a line shows a setting without and with synthesis."""

from collections.abc import Callable, Sequence
from typing import Any

from fedsyn.report import tables
from studies.evidence import studies
from studies.evidence.arithmetic import change
from studies.evidence.verdicts import TITLES
from studies.trials.arithmetic import Row, signed
from studies.trials.page import table

CLOSED_FORM = studies.CLOSED_FORM[0]
Modes = dict[str, Row]  # the rows of one setting by synthesis, and of the closed form
NAMES = ("data", "setting")
MEASURES = tuple(f"{title} {mode}" for title in TITLES.values() for mode in ("off", "on"))
CHANGES = tuple(f"change of {title}" for title in TITLES.values())
MORE = {
    "codes": tuple(f"{title} {CLOSED_FORM}" for title in TITLES.values()),
    "uploads": ("up, a round, off", "synthesis"),
}


def of_study(name: str) -> tuple[str, ...]:
    """The columns of a study's table."""
    return (*NAMES, *MEASURES, *MORE.get(name, ()), *CHANGES)


def table_of(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """One line a data set and setting; columns with nothing are left out."""
    settings: dict[tuple[str, str], Modes] = {}
    for row in rows:
        kind = row["synthesis"] if row["method"] != CLOSED_FORM else CLOSED_FORM
        settings.setdefault((row["data"], row["setting"]), {})[kind] = row
    lines = [[COLUMNS[name](modes) for name in columns] for modes in settings.values()]
    shown = [place for place, _ in enumerate(columns) if any(line[place] for line in lines)]
    return table(
        [columns[place] for place in shown], [[line[place] for place in shown] for line in lines]
    )


def spread(row: Row, metric: str) -> str:
    """Mean and deviation of a metric."""
    return tables.spread(row[f"{metric}_mean"], row[f"{metric}_std"], row["seeds"])


def marked(row: Row, other: Row | None, metric: str) -> str:
    """The same, bold where it is above another row by more than a deviation, † where below."""
    shown = spread(row, metric)
    sign = 0 if other is None else change(other, row, metric)
    return f"**{shown}**" if sign > 0 else f"{shown} †" if sign < 0 else shown


def _metric(mode: str, metric: str) -> Callable[[Modes], str]:
    def text(modes: Modes) -> str:
        if mode not in modes:
            return ""
        return marked(modes[mode], modes.get("off") if mode == "on" else None, metric)

    return text


def _effect(metric: str) -> Callable[[Modes], str]:
    def text(modes: Modes) -> str:
        effect = modes["on"].get("effect") if "on" in modes else None
        return signed(effect[metric]) if effect else ""

    return text


def _bytes(mode: str, name: str) -> Callable[[Modes], str]:
    def text(modes: Modes) -> str:
        value = modes[mode].get(name) if mode in modes else None
        return "" if value is None else tables.size(value)

    return text


def _any(modes: Modes) -> dict[str, Any]:
    return next(iter(modes.values()))


COLUMNS: dict[str, Callable[[Modes], str]] = {
    "data": lambda modes: str(_any(modes)["data"]),
    "setting": lambda modes: str(_any(modes)["setting"]),
    **{
        f"{title} {mode}": _metric(mode, metric)
        for metric, title in TITLES.items()
        for mode in ("off", "on", CLOSED_FORM)
    },
    **{f"change of {title}": _effect(metric) for metric, title in TITLES.items()},
    "up, a round, off": _bytes("off", "bytes_up"),
    "synthesis": _bytes("on", "bytes_synthesis"),
}

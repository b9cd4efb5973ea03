"""The page: tables and pictures out of the rows, nothing by hand."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fedsyn.federation import config
from fedsyn.report import tables
from studies.evidence import arithmetic, figures, studies
from studies.evidence.arithmetic import NOISE, change
from studies.trials.arithmetic import CONFIDENCE, Row, signed
from studies.trials.files import Result
from studies.trials.page import hours, measured, render, several, table

ABSENT = tables.ABSENT
MODES = ("off", "on", "oracle")
FIGURES = {
    "baselines": {
        "gaps": "Share of the gap closed",
        "curves": "mAP over the rounds",
        "bytes": "mAP against bytes sent",
    }
}
# Columns of all tables, and of some.
NAMES = ("data", "skew", "baseline", "setting")
RESULTS = ("off", "on", "oracle", "gap closed", "best round", "change")
MORE = {
    "baselines": ("R@10 off", "R@10 on", "bytes off", "synthesis", "s off", "s on"),
    "codes": ("mAP@50 off", "mAP@50 on"),
    "uploads": ("bytes off", "synthesis"),
}
Modes = dict[str, Row]  # the rows of one setting by synthesis


def write(result: Result, path: Path, images: Path) -> None:
    """Write the page to ``path`` and its pictures to ``images``."""
    saved = figures.draw(result, images)
    rows, summary = result.rows, arithmetic.summary(result.rows)
    text = render(
        Path(__file__).with_name("evidence.md.jinja"),
        failures=result.failures,
        clients=config.load().partition.clients,
        rounds=several(rows, "rounds"),
        seeds=several(rows, "seeds"),
        noise=f"{NOISE:g}",
        confidence=f"{CONFIDENCE:.0%}",
        when=measured(result.measured),
        targets=targets(summary["targets"]),
        hurts=", ".join(_hurt(cell) for cell in summary["hurts"]["cells"]),
        recalls=_recalls(summary["hurts_r10"]) if summary["hurts_r10"]["of"] else "",
        sections=[
            section(study, rows, saved, summary)
            for study in studies.STUDIES
            if any(row["study"] == study.name for row in rows)
        ],
        features=saved.get("features"),
        hours=hours(rows),
    )
    path.write_text(text, encoding="utf-8")


def section(
    study: studies.Study, rows: Sequence[Row], saved: dict[str, str], summary: dict[str, Any]
) -> dict[str, Any]:
    """What the page says of a study."""
    mine = [row for row in rows if row["study"] == study.name]
    shown = FIGURES.get(study.name, {}) | {study.name: "mAP by setting"}
    return {
        "title": study.title,
        "about": study.about,
        "figures": [
            {"file": saved[name], "title": title} for name, title in shown.items() if name in saved
        ],
        "table": table_of(mine, (*NAMES, *RESULTS, *MORE.get(study.name, ()))),
        "note": NOTES[study.name](summary) if study.name in NOTES else "",
    }


def targets(found: Sequence[dict[str, Any]]) -> str:
    """Each target, what was measured, and whether that meets it."""
    verdict = {True: "met", False: "**missed**", None: "not measured"}
    lines = [(one["target"], one["measured"] or ABSENT, verdict[one["met"]]) for one in found]
    return table(("target", "measured", ""), lines)


def table_of(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """One line a setting, data set, concentration and baseline.

    Columns with nothing are left out; those that say the same in every line stand above the table.
    """
    names = ("data", "alpha", "method", "objective", "setting")
    settings: dict[tuple[Any, ...], Modes] = {}
    for row in rows:
        settings.setdefault(tuple(row[name] for name in names), {})[row["synthesis"]] = row
    lines = [{name: COLUMNS[name](modes) for name in columns} for modes in settings.values()]
    values = {name: {line[name] for line in lines} for name in columns}
    same = [name for name in NAMES if len(values[name]) == 1]
    shown = [name for name in columns if any(values[name]) and name not in same]
    head = f"All: {', '.join(lines[0][name] for name in same)}.\n\n" if same else ""
    return head + table(shown, [[line[name] for name in shown] for line in lines])


def _any(modes: Modes) -> Row:
    return next(iter(modes.values()))


def _metric(mode: str, name: str) -> Callable[[Modes], str]:
    def text(modes: Modes) -> str:
        if mode not in modes:
            return ""
        row = modes[mode]
        shown = tables.spread(row[f"{name}_mean"], row[f"{name}_std"], row["seeds"])
        if mode == "on" and "off" in modes:
            sign = change(modes["off"], row, name)
            return f"**{shown}**" if sign > 0 else f"{shown} †" if sign < 0 else shown
        return shown

    return text


def _share(name: str) -> Callable[[Modes], str]:
    def text(modes: Modes) -> str:
        share = modes["on"][name] if "on" in modes else None
        if share is None:
            return ABSENT if "oracle" in modes else ""
        return f"{share:.2f}"

    return text


def _effect(modes: Modes) -> str:
    effect = modes["on"].get("effect") if "on" in modes else None
    return "" if not effect else signed(effect)


def _number(mode: str, name: str, shown: Callable[[float], str]) -> Callable[[Modes], str]:
    def text(modes: Modes) -> str:
        value = modes[mode][name] if mode in modes else None
        return "" if value is None else shown(value)

    return text


COLUMNS: dict[str, Callable[[Modes], str]] = {
    "data": lambda modes: _any(modes)["data"],
    "skew": lambda modes: f"Dirichlet {_any(modes)['alpha']:g}",
    "baseline": lambda modes: f"{_any(modes)['method']} + {_any(modes)['objective']}",
    "setting": lambda modes: _any(modes)["setting"],
    **{mode: _metric(mode, "map") for mode in MODES},
    "gap closed": _share("gap_closed"),
    "best round": _share("best_gap_closed"),
    "change": _effect,
    "mAP@50 off": _metric("off", "map50"),
    "mAP@50 on": _metric("on", "map50"),
    "R@10 off": _metric("off", "r10"),
    "R@10 on": _metric("on", "r10"),
    "bytes off": _number("off", "bytes_up", tables.size),
    "synthesis": _number("on", "bytes_synthesis", tables.size),
    "s off": _number("off", "seconds_mean", "{:.0f}".format),
    "s on": _number("on", "seconds_mean", "{:.0f}".format),
}


def _baselines_note(summary: dict[str, Any]) -> str:
    lines = []
    for name, entry in summary["gap_closed"].items():
        shares = [entry[key]["mean"] for key in ("gap_closed", "best_gap_closed")]
        texts = [ABSENT if share is None else f"{share:.2f}" for share in shares]
        lines.append((name, *texts, ", ".join(entry["gap_closed"]["data"]) or "none"))
    return (
        f"Mean gap closed at Dirichlet {studies.SKEWED:g}, over the data sets that have one:\n\n"
        + (table(("baseline", "selected round", "best round", "data sets with a gap"), lines))
    )


def _losses_note(summary: dict[str, Any]) -> str:
    """Each loss at each weight in each context, and the weights that win."""
    effects, best = summary["losses"]["effects"], summary["losses"]["best"]
    contexts = dict.fromkeys(map(studies.context, effects))
    names = dict.fromkeys(setting.rpartition(": ")[2] for setting in effects)
    lines = [
        (
            name,
            *(
                signed(effects[f"{context}: {name}"]) if f"{context}: {name}" in effects else ""
                for context in contexts
            ),
        )
        for name in names
    ]
    winners = ", ".join(f"{loss} {weight:g}" for loss, weight in best.items())
    sure = [name for name, e in effects.items() if e["half"] and abs(e["mean"]) > e["half"]]
    return (
        "Changes over all data sets and seeds (the interval takes them for independent):\n\n"
        f"{table(('loss, weight', *contexts), lines)}\n\n"
        f"Weights of the largest mean change, {studies.WEIGHED} (0: all tried lose): {winners}. "
        f"Of the {len(effects)} intervals {len(sure)} exclude 0"
        f"{f' ({chr(59).join(sure)})' if sure else ''}: the default weights are 0."
    )  # fmt: skip


def _generators_note(summary: dict[str, Any]) -> str:
    found = summary["adversarial"]
    if found is None:
        return ""
    return (
        f"{studies.ADVERSARIAL} less the default, mean over {len(found['data'])} data sets: "
        f"{signed(found)} mAP (interval over data sets)."
    )


NOTES: dict[str, Callable[[dict[str, Any]], str]] = {
    "baselines": _baselines_note,
    "losses": _losses_note,
    "generators": _generators_note,
}


def _hurt(cell: dict[str, Any]) -> str:
    return (
        f"{cell['data']}, Dirichlet {cell['alpha']:g}, {cell['method']} + {cell['objective']}, "
        f"{cell['setting']} ({cell['study']}): {cell['off']:.3f} → {cell['on']:.3f}"
    )


def _recalls(found: dict[str, Any]) -> str:
    """What becomes of the recall of the very partner, which mAP by class does not see."""
    return (
        "mAP asks for answers of the right class. The recall of a pair's own other half among ten "
        "answers, with synthesis, rises by more than one standard deviation in "
        f"{found['better']} and falls in {len(found['cells'])} of {found['of']} cells: synthetic "
        "pairs teach kinds, not instances."
    )

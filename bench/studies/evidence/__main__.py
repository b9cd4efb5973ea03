"""Whether synthesis helps: every study, its rows in a file, and the page that shows them.

    make evidence                                             # everything
    PYTHONPATH=bench .venv/bin/python -m studies.evidence --help      # parts of it

Runs lie in ``runs/evidence``, so whatever is interrupted goes on where it stopped. The rows of a
study are written to ``bench/results/evidence.json`` when it is done, and the page
``docs/evidence.md`` with its pictures is made from that file alone.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedsyn.engine import records
from fedsyn.engine.compare import Job
from studies.evidence import arithmetic, page, picture, studies
from studies.evidence.runs import Cell, cells
from studies.trials import command

QUICK = (
    *("run.rounds=2", "synthesis.steps=2", "synthesis.critic_warmup=2"),
    *("synthesis.candidates=512", "synthesis.server_steps=4"),
)


def main() -> None:
    """Measure what is asked for, write, draw."""
    names = [study.name for study in studies.STUDIES]
    asked = command.arguments(
        "evidence", __doc__.splitlines()[0], names, "glyphs, 2 rounds, 1 seed"
    )
    path, docs = asked.results / "evidence.json", asked.docs
    if not asked.page:
        with command.ending():
            measure(asked, path)
    result = json.loads(path.read_text("utf-8"))
    result["summary"] = arithmetic.summary(result["rows"])
    records.write_json(path, result)
    page.write(result, docs / "evidence.md", docs / "images")
    command.console.print(f"{path}\n{docs / 'evidence.md'}", soft_wrap=True)
    sys.exit(bool(result["failures"]))


def measure(asked: argparse.Namespace, path: Path) -> None:
    """Run the studies asked for, one after another; a study's rows take the place of older ones."""
    data = command.available(studies.DATA, asked.data)
    if asked.quick:
        data = {"glyphs": data["glyphs"]}
    extra = QUICK if asked.quick else ()
    plan = {
        study.name: cells(study, data, asked.runs, asked.seeds, extra)
        for study in studies.STUDIES
        if study.name in asked.only
    }
    drawn = pictured(data, asked.runs, extra)
    result = command.known(path)

    def finished(name: str, done: Sequence[Cell], failures: dict[Path, str]) -> None:
        add(result, name, done, failures)
        if name == "baselines" and drawn.out not in failures:
            result["picture"] = picture.points(drawn)
        records.write_json(path, result)

    command.carry_out(plan, finished, asked.workers, keep={drawn.out})


def add(
    result: dict[str, Any], study: str, done: Sequence[Cell], failures: dict[Path, str]
) -> None:
    """Put the rows of a study, where no run of them failed, in the place of those before."""
    failed = [cell for cell in done if any(job.out in failures for job in cell.jobs)]
    rows = [cell.row() for cell in done if cell not in failed]
    arithmetic.relate(rows)
    for row in rows:
        if study != "baselines":
            del row["curve"]
    why = [
        {
            "study": study,
            "cell": f"{cell.data}, {cell.setting}, {'+'.join(cell.jobs[0].setting)}",
            "why": next(failures[job.out] for job in cell.jobs if job.out in failures),
        }
        for cell in failed
    ]
    command.put(result, [each.name for each in studies.STUDIES], study, rows, why)


def pictured(data: dict[str, list[str]], folder: Path, extra: Sequence[str]) -> Job:
    """The run whose pairs are drawn: the first one of the plain baseline on glyphs, with skew."""
    whole = next(study for study in studies.STUDIES if study.name == "baselines")
    study = replace(whole, data=("glyphs",), baselines=(studies.PLAIN,), alphas=(studies.SKEWED,))
    (cell,) = (
        cell
        for cell in cells(study, data, folder, 1, extra)
        if cell.jobs[0].config.synthesis_mode == "on"
    )
    return cell.jobs[0]


if __name__ == "__main__":
    main()

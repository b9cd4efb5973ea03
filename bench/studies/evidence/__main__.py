"""Whether synthesis helps: every study, its rows in a file, and the page that shows them.

    make evidence DATA=DIR                                         # everything
    PYTHONPATH=bench .venv/bin/python -m studies.evidence --help   # parts of it

Runs lie in ``runs/evidence``, so whatever is interrupted goes on where it stopped. The rows of a
study are written to ``bench/results/evidence.jsonl`` when it is done, what is only drawn to
``evidence.curves.jsonl``, and the page ``docs/evidence.md`` with its pictures is made from those
files alone.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fedsyn.federation.compare import Job
from studies.evidence import arithmetic, page, picture, studies
from studies.evidence.runs import NAMES, Cell, cells
from studies.trials import command, files
from studies.trials.files import Result

ORDER = [study.name for study in studies.STUDIES]
QUICK = (
    *("run.rounds=2", "synthesis.steps=2", "synthesis.critic_warmup=2"),
    *("synthesis.candidates=512", "synthesis.server_steps=4"),
)


def main() -> None:
    """Measure what is asked for, write, draw."""
    about = __doc__.splitlines()[0]
    quick = "glyphs, 2 rounds, 1 seed"
    asked = command.arguments("evidence", about, ORDER, studies.DATA, quick)
    command.main(asked, "evidence.jsonl", "evidence.md", NAMES, measure, page.write)


def measure(asked: argparse.Namespace, path: Path) -> None:
    """Run the studies asked for, one after another; a study's rows take the place of older ones."""
    data = command.available(studies.DATA, asked.data)
    extra = QUICK if asked.quick else ()
    plan = {
        study.name: cells(study, data, asked.runs, asked.seeds, extra)
        for study in studies.STUDIES
        if study.name in asked.only
    }
    drawn = pictured(data, asked.runs, extra)
    result = command.known(path, NAMES)

    def finished(name: str, done: Sequence[Cell], failures: dict[Path, str]) -> None:
        add(result, name, done, failures)
        if name == "baselines" and drawn.out not in failures:
            result.picture = picture.points(drawn)
        files.write(path, result, NAMES)

    command.carry_out(plan, finished, asked.workers, keep={drawn.out})


def add(result: Result, study: str, done: Sequence[Cell], failures: dict[Path, str]) -> None:
    """Put the rows of a study, where no run of them failed, in the place of those before."""
    rows, failed = command.outcome(done, failures)
    arithmetic.relate(rows)
    for row in rows:
        if study != "baselines":
            del row["curve"]
    command.put(result, ORDER, study, rows, failed)


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

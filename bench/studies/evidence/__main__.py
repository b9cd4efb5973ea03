"""Whether synthesis helps: every study, its rows in a file, and the page that shows them.

    make evidence DATA=DIR                                         # everything
    PYTHONPATH=bench .venv/bin/python -m studies.evidence --help   # parts of it

Runs lie in ``runs/evidence``, so whatever is interrupted goes on where it stopped. The rows of a
study are written to ``bench/results/evidence.jsonl`` when it is done, those of the baselines after
every seed; what is only drawn to ``evidence.curves.jsonl``, and the page ``docs/evidence.md`` with
its pictures is made from those files alone.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from studies.evidence import arithmetic, page, sources, studies
from studies.evidence.chance import Chance
from studies.evidence.runs import NAMES, Cell, Data
from studies.evidence.stages import Plan, stages
from studies.trials import command, files
from studies.trials.arithmetic import Row
from studies.trials.command import Stage

ORDER = [study.name for study in studies.STUDIES]
SEEDS = 5
QUICK = (
    *("run.rounds=2", "synthesis.critic_warmup=2", "synthesis.candidates=512"),
    "synthesis.shared=256",
)


def main() -> None:
    """Measure what is asked for, write, draw."""
    about = __doc__.splitlines()[0]
    quick = "glyphs and faces, 2 rounds, 1 seed"
    asked = command.arguments("evidence", about, ORDER, studies.DATA, quick, seeds=SEEDS)
    command.main(asked, "evidence.jsonl", "evidence.md", NAMES, measure, page.write)


def measure(asked: argparse.Namespace, path: Path) -> None:
    """Run the studies asked for, one after another; a study's rows take the place of older ones."""
    plan = Plan(available(asked), asked.runs, asked.seeds, QUICK if asked.quick else ())
    result = command.known(path, NAMES, ORDER)

    def finished(stage: Stage[Cell | Chance], failures: Mapping[Path, str]) -> None:
        if not stage.cells:
            return
        rows, failed = command.outcome(stage.cells, failures)
        arithmetic.relate(rows)
        failed += unaudited(stage.cells, failures)
        command.put(result, ORDER, stage.study, list(map(drawn, rows)), failed)
        files.write(path, result, NAMES)

    command.carry_out(stages(plan, asked.only), finished, asked.workers)


def unaudited(cells: Sequence[Cell | Chance], failures: Mapping[Path, str]) -> list[Row]:
    """What is said where the runs of a row are there, and one that was to be audited is not."""
    return [
        cell.failure(failures[job.out])
        for cell in cells
        if isinstance(cell, Cell)
        for job in cell.audited
        if job.out in failures and job not in cell.jobs
    ]


def drawn(row: Row) -> Row:
    """The row with curves where these are drawn: those of the plain baseline."""
    kept = row["study"] == studies.BASELINE_STUDY.name and (
        (row["method"], row["objective"]) == studies.PLAIN
    )
    return row if kept else {name: row[name] for name in row if not name.endswith("curve")}


def available(asked: argparse.Namespace) -> Data:
    """The data sets that are there, as overrides; what is made of others is made now."""
    folder = asked.runs / "data"
    found = command.available(studies.DATA, asked.data)
    found["faces"] = [f"data.path={sources.faces(folder)}"]
    if "flickr8k_clip" in found:
        clip = asked.data / studies.DATA["flickr8k_clip"]
        found["flickr8k_clip"] = [f"data.path={sources.photos(clip, folder)}"]
    return {name: [*words, *studies.READ.get(name, ())] for name, words in found.items()}


if __name__ == "__main__":
    main()

"""The related methods: every study, its rows in a file, and the page that shows them.

    make evidence-related DATA=DIR                                # everything
    make evidence-related DATA=DIR ARGS=--tuning                  # to choose settings by
    PYTHONPATH=bench .venv/bin/python -m studies.related --help   # parts of it

Runs lie in ``runs/related``, so whatever is interrupted goes on where it stopped. The rows of a
study are written to ``bench/results/related.jsonl`` when it is done, what is only drawn to
``related.curves.jsonl``, and the page ``docs/related-methods.md`` with its pictures is made from
those files alone.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

from studies.related import page, rows, teacher
from studies.related.runs import NAMES, Cell, cells
from studies.related.studies import DATA, STUDIES, Study
from studies.trials import command, files
from studies.trials.command import Stage

ORDER = [study.name for study in STUDIES]
QUICK = ("run.rounds=2", "run.evaluate_every=1")


def main() -> None:
    """Measure what is asked for, write, draw."""
    asked = command.arguments(
        "related", __doc__.splitlines()[0], ORDER, DATA, "glyphs, 2 rounds, 1 seed",
        tuning="on data sets without the rows that are tested on",
    )  # fmt: skip
    command.main(asked, "related.jsonl", "related-methods.md", NAMES, measure, page.write)


def measure(asked: argparse.Namespace, path: Path) -> None:
    """Run the studies asked for, one after another; a study's rows take the place of older ones."""
    data = sources(asked)
    extra = QUICK if asked.quick else ()
    planned = {
        study.name: cells(study, data, asked.runs, seeds(study, asked), extra)
        for study in STUDIES
        if study.name in asked.only
    }
    result = command.known(path, NAMES, ORDER)

    def finished(stage: Stage[Cell], failures: Mapping[Path, str]) -> None:
        found, failed = command.outcome(stage.cells, failures)
        refused = planned[stage.study][1]
        command.put(result, ORDER, stage.study, found, [*refused, *failed])
        files.write(path, result, NAMES)

    stages = (
        Stage(name, name, [job for cell in found for job in cell.jobs], found)
        for name, (found, _) in planned.items()
    )
    command.carry_out(stages, finished, asked.workers)


def seeds(study: Study, asked: argparse.Namespace) -> int:
    """How many runs there are of a setting."""
    return int(asked.seeds) if asked.quick else max(asked.seeds, study.seeds)


def sources(asked: argparse.Namespace) -> dict[str, list[str]]:
    """The data sets that are there, as overrides; those of emoji also name their teacher."""
    data = command.available(DATA, asked.data)
    taught = teacher.of_emoji(asked.data / DATA["emoji"], asked.runs) if "emoji" in data else []
    if asked.tuning:
        for name in data:
            file = asked.runs / f"{name}.npz"
            rows.without_tests(asked.data / DATA[name] if DATA[name] else None, file)
            data[name] = [f"data.path={file}"]
    return {name: [*words, *taught] if name == "emoji" else words for name, words in data.items()}


if __name__ == "__main__":
    main()

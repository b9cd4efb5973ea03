"""The related methods: every study, its rows in a file, and the page that shows them.

    make evidence-related                                    # everything
    make evidence-related ARGS=--tuning                      # to choose settings by
    PYTHONPATH=bench .venv/bin/python -m studies.related --help      # parts of it

Runs lie in ``runs/related``, so whatever is interrupted goes on where it stopped. The rows of a
study are written to ``bench/results/related.json`` when it is done, and the page
``docs/related-methods.md`` with its pictures is made from that file alone.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedsyn.engine import records
from studies.related import arithmetic, page, rows, teacher
from studies.related.runs import Cell, Failure, cells
from studies.related.studies import DATA, STUDIES, Study
from studies.trials import command

QUICK = ("run.rounds=2", "run.evaluate_every=1")


def main() -> None:
    """Measure what is asked for, write, draw."""
    names = [study.name for study in STUDIES]
    asked = command.arguments(
        "related", __doc__.splitlines()[0], names, "glyphs, 2 rounds, 1 seed",
        tuning="on data sets without the rows that are tested on",
    )  # fmt: skip
    path, docs = asked.results / "related.json", asked.docs
    if not asked.page:
        with command.ending():
            measure(asked, path)
    result = json.loads(path.read_text("utf-8"))
    result["verdicts"] = arithmetic.verdicts(result["rows"], STUDIES)
    records.write_json(path, result)
    page.write(result, docs / "related-methods.md", docs / "images")
    command.console.print(f"{path}\n{docs / 'related-methods.md'}", soft_wrap=True)
    sys.exit(bool(result["failures"]))


def measure(asked: argparse.Namespace, path: Path) -> None:
    """Run the studies asked for, one after another; a study's rows take the place of older ones."""
    data = sources(asked)
    extra = QUICK if asked.quick else ()
    planned = {
        study.name: cells(study, data, asked.runs, seeds(study, asked), extra)
        for study in STUDIES
        if study.name in asked.only
    }
    result = command.known(path)

    def finished(name: str, done: Sequence[Cell], failures: dict[Path, str]) -> None:
        add(result, name, done, failures, planned[name][1])
        records.write_json(path, result)

    command.carry_out(
        {name: found for name, (found, _) in planned.items()}, finished, asked.workers
    )


def seeds(study: Study, asked: argparse.Namespace) -> int:
    """How many runs there are of a setting."""
    return int(asked.seeds) if asked.quick else max(asked.seeds, study.seeds)


def sources(asked: argparse.Namespace) -> dict[str, list[str]]:
    """The data sets that are there, as overrides; those of emoji also name their teacher."""
    data = command.available(DATA, asked.data)
    if asked.quick:
        return {"glyphs": data["glyphs"]}
    taught = teacher.of_emoji(asked.data / DATA["emoji"], asked.runs) if "emoji" in data else []
    if asked.tuning:
        for name in data:
            file = asked.runs / f"{name}.npz"
            rows.without_tests(asked.data / DATA[name] if DATA[name] else None, file)
            data[name] = [f"data.path={file}"]
    return {name: [*words, *taught] if name == "emoji" else words for name, words in data.items()}


def add(
    result: dict[str, Any],
    study: str,
    done: Sequence[Cell],
    failures: dict[Path, str],
    refused: Sequence[Failure],
) -> None:
    """Put the rows of a study, where no run of them failed, in the place of those before."""
    rows, failed = [], list(refused)
    for cell in done:
        why = [failures[job.out] for job in cell.jobs if job.out in failures]
        if why:
            failed.append(cell.failure(why[0]))
        else:
            rows.append(cell.row())
    command.put(result, [each.name for each in STUDIES], study, rows, failed)


if __name__ == "__main__":
    main()

"""Whether synthesis helps: every study, its rows in a file, and the page that shows them.

    make evidence                                             # everything
    PYTHONPATH=bench .venv/bin/python -m evidence --help      # parts of it

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

from machine import facts
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.progress import TimeElapsedColumn as Passed
from rich.progress import TimeRemainingColumn as Left

import fedsyn
from evidence import arithmetic, page, picture, runs, studies
from fedsyn.engine import records
from fedsyn.engine.compare import Job
from fedsyn.errors import FedsynError

ROOT = Path(__file__).parent.parent.parent
RESULTS, DOCS = ROOT / "bench" / "results", ROOT / "docs"
RUNS = ROOT / "runs" / "evidence"
QUICK = (
    *("run.rounds=2", "synthesis.steps=2", "synthesis.critic_warmup=2"),
    *("synthesis.candidates=512", "synthesis.server_steps=4"),
)
console = Console(stderr=True)


def main() -> None:
    """Measure what is asked for, write, draw."""
    arguments = parse()
    results, docs = (arguments.runs, arguments.runs) if arguments.quick else (RESULTS, DOCS)
    path = results / "evidence.json"
    try:
        if not arguments.page:
            measure(arguments, path)
    except KeyboardInterrupt:
        console.print("Interrupted; the same command goes on.")
        sys.exit(130)
    except FedsynError as error:
        console.print(f"Error: {error}", style="red", markup=False)
        sys.exit(1)
    result = json.loads(path.read_text("utf-8"))
    result["summary"] = arithmetic.summary(result["rows"])
    records.write_json(path, result)
    page.write(result, docs / "evidence.md", docs / "images")
    console.print(f"{path}\n{docs / 'evidence.md'}", soft_wrap=True)
    sys.exit(bool(result["failures"]))


def parse() -> argparse.Namespace:
    """What is asked for."""
    names = [study.name for study in studies.STUDIES]
    parser = argparse.ArgumentParser(prog="evidence", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(names), help="studies, e.g. losses,filters")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--runs", type=Path, default=RUNS)
    parser.add_argument("--workers", type=int, help="runs at a time; by default one a core")
    parser.add_argument("--page", action="store_true", help="the page alone, from the results")
    parser.add_argument(
        "--quick", action="store_true", help="glyphs, 2 rounds, 1 seed; results stay in --runs"
    )
    arguments = parser.parse_args()
    arguments.only = arguments.only.split(",")
    if unknown := set(arguments.only) - set(names):
        parser.error(f"--only: no study {', '.join(sorted(unknown))}; expected some of {names}")
    if arguments.seeds < 1:
        parser.error(f"--seeds {arguments.seeds}: expected at least 1")
    if arguments.quick:
        arguments.seeds, arguments.runs = 1, arguments.runs.with_name("evidence-quick")
    return arguments


def measure(arguments: argparse.Namespace, path: Path) -> None:
    """Run the studies asked for, one after another; a study's rows take the place of older ones."""
    data = studies.sources(arguments.data)
    for name in studies.DATA.keys() - data.keys():
        console.print(f"{name} is not in {arguments.data}: skipped", soft_wrap=True)
    if arguments.quick:
        data = {"glyphs": data["glyphs"]}
    extra = QUICK if arguments.quick else ()
    chosen = [study for study in studies.STUDIES if study.name in arguments.only]
    plan = {
        study.name: runs.cells(study, data, arguments.runs, arguments.seeds, extra)
        for study in chosen
    }
    drawn = pictured(data, arguments.runs, extra)
    result = json.loads(path.read_text("utf-8")) if path.exists() else {"rows": [], "failures": []}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Passed(),
        Left(),
    )
    with Progress(*columns, console=console) as bars:
        tasks = {
            name: bars.add_task(f"{name}, rounds", total=rounds(cells), start=False)
            for name, cells in plan.items()
        }
        for name, cells in plan.items():
            bars.start_task(tasks[name])
            failures = runs.execute(
                cells,
                drawn,
                lambda done, task=tasks[name]: bars.update(task, completed=done),
                arguments.workers,
            )
            bars.update(tasks[name], completed=rounds(cells))
            add(result, name, cells, failures)
            if name == "baselines" and drawn.out not in failures:
                result["picture"] = picture.points(drawn)
            records.write_json(path, result)


def rounds(cells: list[runs.Cell]) -> int:
    """How many there are to do, over all runs."""
    return sum(job.config.run.rounds for job in runs.mixed(cells))


def add(
    result: dict[str, Any], study: str, cells: list[runs.Cell], failures: dict[Path, str]
) -> None:
    """Put the rows of a study, where no run of them failed, in the place of those before."""
    failed = [cell for cell in cells if any(job.out in failures for job in cell.jobs)]
    rows = [cell.row() for cell in cells if cell not in failed]
    arithmetic.relate(rows)
    for row in rows:
        if study != "baselines":
            del row["curve"]
    order = [each.name for each in studies.STUDIES]
    others = [row for row in result["rows"] if row["study"] != study]
    result["rows"] = sorted([*others, *rows], key=lambda row: order.index(row["study"]))
    result["failures"] = [one for one in result["failures"] if one["study"] != study] + [
        {
            "study": study,
            "cell": f"{cell.data}, {cell.setting}, {'+'.join(cell.jobs[0].setting)}",
            "why": next(failures[job.out] for job in cell.jobs if job.out in failures),
        }
        for cell in failed
    ]
    result |= {**facts(), "version": fedsyn.__version__}


def pictured(data: dict[str, list[str]], folder: Path, extra: Sequence[str]) -> Job:
    """The run whose pairs are drawn: the first one of the plain baseline on glyphs, with skew."""
    whole = next(study for study in studies.STUDIES if study.name == "baselines")
    study = replace(whole, data=("glyphs",), baselines=(studies.PLAIN,), alphas=(studies.SKEWED,))
    (cell,) = (
        cell
        for cell in runs.cells(study, data, folder, 1, extra)
        if cell.jobs[0].config.synthesis_mode == "on"
    )
    return cell.jobs[0]


if __name__ == "__main__":
    main()

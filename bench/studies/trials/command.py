"""The command of a set of studies: its arguments, its progress, and how it ends."""

import argparse
import json
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.progress import TimeElapsedColumn as Passed
from rich.progress import TimeRemainingColumn as Left

from fedsyn.errors import FedsynError
from machine import facts
from studies.trials import runs
from studies.trials.arithmetic import Row
from studies.trials.runs import Cell

ROOT = Path(__file__).parents[3]
RESULTS, DOCS = ROOT / "bench" / "results", ROOT / "docs"
console = Console(stderr=True)
C = TypeVar("C", bound=Cell)
# finished(study, its cells, why runs failed by folder)
Finished = Callable[[str, Sequence[C], dict[Path, str]], None]


def arguments(
    name: str, description: str, studies: Sequence[str], quick: str, tuning: str = ""
) -> argparse.Namespace:
    """What is asked for; there is ``--tuning`` where it is said what it does.

    ``results`` and ``docs`` are the folders to write to, with ``--quick`` and with ``--tuning``
    those of the runs.
    """
    parser = argparse.ArgumentParser(prog=name, description=description)
    parser.add_argument("--only", default=",".join(studies), help=f"some of {', '.join(studies)}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / name)
    parser.add_argument("--workers", type=int, help="runs at a time; by default one a core")
    parser.add_argument("--page", action="store_true", help="the page alone, from the results")
    parser.add_argument("--quick", action="store_true", help=f"{quick}; results stay in --runs")
    if tuning:
        parser.add_argument("--tuning", action="store_true", help=f"{tuning}; results stay so too")
    asked = parser.parse_args()
    asked.only = asked.only.split(",")
    if unknown := set(asked.only) - set(studies):
        parser.error(f"--only: no study {', '.join(sorted(unknown))}; expected some of {studies}")
    if asked.seeds < 1:
        parser.error(f"--seeds {asked.seeds}: expected at least 1")
    asked.results, asked.docs = RESULTS, DOCS
    if asked.quick:
        asked.seeds = 1
    for trial in ("quick", "tuning"):
        if getattr(asked, trial, False):
            asked.runs = asked.runs.with_name(f"{asked.runs.name}-{trial}")
            asked.results = asked.docs = asked.runs
    return asked


@contextmanager
def ending() -> Iterator[None]:
    """End the program with a sentence where measuring is interrupted or cannot be done."""
    try:
        yield
    except KeyboardInterrupt:
        console.print("Interrupted; the same command goes on.")
        sys.exit(130)
    except FedsynError as error:
        console.print(f"Error: {error}", style="red", markup=False)
        sys.exit(1)


def known(path: Path) -> dict[str, Any]:
    """The results so far."""
    return json.loads(path.read_text("utf-8")) if path.exists() else {"rows": [], "failures": []}


def put(
    result: dict[str, Any],
    order: Sequence[str],
    study: str,
    rows: Sequence[Row],
    failures: Sequence[Row],
) -> None:
    """Put what a study has found in the place of what was there of it; studies in this order.

    ``measured`` says of each study when, on what and by which program.
    """
    for name, new in (("rows", rows), ("failures", failures)):
        others = [one for one in result[name] if one["study"] != study]
        result[name] = sorted([*others, *new], key=lambda one: order.index(one["study"]))
    measured = {**result.get("measured", {}), study: {**facts(), "code": runs.code()}}
    result["measured"] = {name: measured[name] for name in order if name in measured}


def available(files: Mapping[str, str], folder: Path) -> dict[str, list[str]]:
    """The data sets that are there, as overrides; ``files`` lie below the folder, "" nowhere."""
    there = {}
    for name, file in files.items():
        if file and not (folder / file).exists():
            console.print(f"{name} is not in {folder}: skipped", soft_wrap=True)
        else:
            there[name] = [f"data.path={folder / file}"] if file else []
    return there


def carry_out(
    plan: Mapping[str, Sequence[C]],
    finished: Finished[C],
    workers: int | None = None,
    keep: Collection[Path] = (),
) -> None:
    """Run the studies one after another; ``finished`` is told of each."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Passed(),
        Left(),
    )
    with Progress(*columns, console=console) as bars:
        tasks = {
            name: bars.add_task(f"{name}, rounds", total=runs.rounds(cells), start=False)
            for name, cells in plan.items()
        }
        for name, cells in plan.items():
            bars.start_task(tasks[name])

            def progress(done: int, task: Any = tasks[name]) -> None:
                bars.update(task, completed=done)

            failures = runs.execute(cells, progress, workers, keep)
            bars.update(tasks[name], completed=runs.rounds(cells))
            finished(name, cells, failures)

"""The command of a set of studies: its arguments, its progress, and how it ends."""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.progress import TimeElapsedColumn as Passed
from rich.progress import TimeRemainingColumn as Left

import results
from fedsyn.errors import FedsynError
from fedsyn.federation.compare import Job
from machine import facts
from studies.trials import files, runs
from studies.trials.arithmetic import Row
from studies.trials.files import Result
from studies.trials.runs import Cell

ROOT = Path(__file__).parents[3]
console = Console(stderr=True)
C = TypeVar("C", bound=Cell)


@dataclass(frozen=True)
class Stage(Generic[C]):
    """Runs of a study that are done before others.

    Attributes
    ----------
    study : str
    title : str
        What is said while it is being done.
    jobs : sequence of Job
    cells : sequence of Cell
        Whose rows can be told when they are done; they may be of earlier stages' runs too.
    """

    study: str
    title: str
    jobs: Sequence[Job]
    cells: Sequence[C] = ()


# finished(stage, why runs failed by folder, in earlier stages of the study too)
Finished = Callable[[Stage[C], Mapping[Path, str]], None]


def arguments(
    name: str,
    description: str,
    studies: Sequence[str],
    data: Mapping[str, str],
    quick: str,
    tuning: str = "",
    seeds: int = 3,
) -> argparse.Namespace:
    """What is asked for; there is ``--tuning`` where it is said what it does.

    ``data`` names the files that the studies read, below the folder that is asked for. ``results``
    and ``docs`` are the folders to write to, with ``--quick`` and with ``--tuning`` those of the
    runs.
    """
    parser = argparse.ArgumentParser(prog=name, description=description)
    parser.add_argument("--only", default=",".join(studies), help=f"some of {', '.join(studies)}")
    parser.add_argument("--seeds", type=int, default=seeds, help=f"from 0; by default {seeds}")
    add_data(parser, data)
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
    if not (asked.page or asked.quick):
        check_data(parser, asked.data, data)
    asked.results, asked.docs = results.FOLDER, ROOT / "docs"
    if asked.quick:
        asked.seeds, asked.data = 1, None
    for trial in ("quick", "tuning"):
        if getattr(asked, trial, False):
            asked.runs = asked.runs.with_name(f"{asked.runs.name}-{trial}")
            asked.results = asked.docs = asked.runs
    return asked


def add_data(parser: argparse.ArgumentParser, data: Mapping[str, str]) -> None:
    """The argument for the folder with these files."""
    said = f"the folder with {_files(data)}"
    parser.add_argument("--data", type=_place, metavar="DIR", help=said)


def check_data(
    parser: argparse.ArgumentParser, folder: Path | None, data: Mapping[str, str]
) -> None:
    """Refuse to measure without the folder, rather than on the embedded data alone."""
    if folder is None or not folder.is_dir():
        said = "--data:" if folder is None else f"--data {folder}: no such folder;"
        parser.error(f"{said} expected the folder with {_files(data)}; absent ones are skipped")


def _place(text: str) -> Path:
    """Absolute, as runs are named by where their data lie too."""
    return Path(text).resolve()


def _files(data: Mapping[str, str]) -> str:
    return ", ".join(filter(None, data.values()))


def main(
    asked: argparse.Namespace,
    name: str,
    page: str,
    names: Sequence[str],
    measure: Callable[[argparse.Namespace, Path], None],
    write: Callable[[Result, Path, Path], None],
) -> NoReturn:
    """Measure unless the page alone is asked for, and make the page from the files alone."""
    path, made = asked.results / name, asked.docs / page
    with ending():
        if not asked.page:
            measure(asked, path)
        result = files.read(path, names)
    write(result, made, asked.docs / "images")
    console.print(f"{path}\n{made}", soft_wrap=True)
    sys.exit(bool(result.failures))


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


def known(path: Path, names: Sequence[str], order: Sequence[str]) -> Result:
    """The results so far, of the studies that there still are."""
    if not path.exists():
        return Result()
    found = files.read(path, names)
    rows, failures = (
        [row for row in part if row["study"] in order] for part in (found.rows, found.failures)
    )
    return Result(rows, failures, {k: v for k, v in found.measured.items() if k in order})


def outcome(cells: Sequence[C], failures: Mapping[Path, str]) -> tuple[list[Row], list[Row]]:
    """The rows of the cells of which no run failed, and what is said of the others."""
    rows, failed = [], []
    for cell in cells:
        why = [failures[job.out] for job in cell.jobs if job.out in failures]
        if why:
            failed.append(cell.failure(why[0]))
        else:
            rows.append(cell.row())
    return rows, failed


def put(
    result: Result,
    order: Sequence[str],
    study: str,
    rows: Sequence[Row],
    failures: Sequence[Row],
) -> None:
    """Put what a study has found in the place of what was there of it; studies in this order.

    ``measured`` says of each study when, on what and by which program.
    """

    def placed(old: Sequence[Row], new: Sequence[Row]) -> list[Row]:
        others = [one for one in old if one["study"] != study]
        return sorted([*others, *new], key=lambda one: order.index(one["study"]))

    result.rows = placed(result.rows, rows)
    result.failures = placed(result.failures, failures)
    measured = {**result.measured, study: {**facts(), "code": runs.code()}}
    result.measured = {name: measured[name] for name in order if name in measured}


def available(data: Mapping[str, str], folder: Path | None) -> dict[str, list[str]]:
    """The data sets that are there, as overrides; their files lie below the folder, "" nowhere.

    Without a folder only the embedded ones.
    """
    there = {}
    for name, file in data.items():
        if not file:
            there[name] = list[str]()
        elif folder is not None and (folder / file).exists():
            there[name] = [f"data.path={folder / file}"]
        elif folder is not None:
            console.print(f"{name} is not in {folder}: skipped", soft_wrap=True)
    return there


def carry_out(
    stages: Iterable[Stage[C]], finished: Finished[C], workers: int | None = None
) -> None:
    """Do the stages one after another; ``finished`` is told of each.

    A stage is asked for when those before it are done, so that it may depend on what they found.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Passed(),
        Left(),
    )
    failures: dict[str, dict[Path, str]] = {}
    with Progress(*columns, console=console) as bars:
        for stage in stages:
            total = runs.rounds(stage.jobs)
            task = bars.add_task(f"{stage.title}, rounds", total=total)

            def progress(done: int, task: Any = task) -> None:
                bars.update(task, completed=done)

            known = failures.setdefault(stage.study, {})
            known |= runs.execute(stage.jobs, progress, workers)
            bars.update(task, completed=total)
            finished(stage, known)

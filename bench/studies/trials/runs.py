"""The runs behind rows: where they lie, running what is missing, and what they say.

A run lies in a folder named by a digest of its configuration, so studies share runs, a study that
was interrupted goes on, and a setting added later finds what is there. The digest is also of the
package's version and of its sources: after a change of code, an old run would else stand beside
new ones as if it had been made by the same program. Comments and docstrings do not count, nor do
the rooms that only read what a run left. Compiled kernels do not count either: they are held to
their Python references by tests.
"""

import ast
import hashlib
import json
import random
import shutil
from collections.abc import Callable, Collection, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Protocol

import fedsyn
from fedsyn.federation import compare, records
from fedsyn.federation.compare import Job
from fedsyn.federation.config import Config
from fedsyn.federation.runner import digest
from fedsyn.tasks import TASKS
from studies.trials.arithmetic import Row

READERS = ("cli", "conformance", "report")  # make nothing that a run computes


class Cell(Protocol):
    """The runs of one row."""

    @property
    def jobs(self) -> Sequence[Job]:
        """A seed each."""

    def row(self) -> Row:
        """What the runs, all finished, say."""

    def failure(self, why: str) -> Row:
        """What is said in the place of its row."""


def key(configuration: Config) -> str:
    """Names the folder of a run."""
    parts = (digest(configuration), str(configuration.run.rounds), code())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:20]


@cache
def code() -> str:
    """Identifies the program that runs."""
    found = hashlib.sha256(fedsyn.__version__.encode())
    package = Path(fedsyn.__file__).parent
    for path in sorted(package.rglob("*.py")):
        place = path.relative_to(package)
        if place.parts[0] not in READERS:
            found.update(f"{place}\n{meaning(path.read_text('utf-8'))}\n".encode())
    return found.hexdigest()[:12]


def meaning(source: str) -> str:
    """A Python source without comments, layout and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = None
    return ast.dump(tree)


def execute(
    cells: Sequence[Cell],
    progress: Callable[[int], None],
    workers: int | None = None,
    keep: Collection[Path] = (),
) -> dict[Path, str]:
    """Run what is missing; why the runs failed that did, by folder.

    Of a finished run the checkpoint goes, but for those in ``keep``: those of all runs would take
    tens of gigabytes.
    """
    failures = {}

    def ended(job: Job, error: Exception | None) -> None:
        if error is not None:
            failures[job.out] = str(error)
        elif job.out not in keep:
            shutil.rmtree(job.out / records.CHECKPOINT.parent)

    compare.execute(mixed(cells), workers=workers, progress=progress, ended=ended)
    return failures


def mixed(cells: Sequence[Cell]) -> list[Job]:
    """Every run once, in a fixed random order: so what is done foretells what is left."""
    jobs = list({job.out: job for cell in cells for job in cell.jobs}.values())
    random.Random(0).shuffle(jobs)
    return jobs


def rounds(cells: Sequence[Cell]) -> int:
    """How many there are to do, over all runs."""
    return sum(job.config.run.rounds for job in mixed(cells))


def row_of(jobs: Sequence[Job]) -> Row:
    """What the runs of one setting, all finished, say; bytes are a round's."""
    found = compare.row_of(jobs)
    for name in TASKS.find(found["task"]).metrics.apart:
        found[f"{name}_curve"] = compare.curve(jobs, name)
    del found["bytes_up_mean"]  # of all rounds and what came before them
    each = [_traffic(job) for job in jobs]
    return {
        "clients": jobs[0].config.partition.clients,
        "rounds": jobs[0].config.run.rounds,
        "runs": [job.out.name for job in jobs],
        **found,
        **{name: fmean(one[name] for one in each) for name in ("bytes_up", "bytes_down")},
    }


def _traffic(job: Job) -> dict[str, float]:
    """Mean bytes each way in a round."""
    lines = (job.out / records.METRICS).read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return {name: fmean(row[name] for row in rows) for name in ("bytes_up", "bytes_down")}

"""The runs behind rows: where they lie, running what is missing, and what they say.

A run lies in a folder named by a digest of its configuration, so studies share runs, a study that
was interrupted goes on, and a setting added later finds what is there. The digest is also of the
package's version and of its sources: after a change of code, an old run would else stand beside
new ones as if it had been made by the same program. Comments and docstrings do not count, nor do
the rooms that only read what a run left. Compiled kernels do not count either: they are held to
their Python references by tests.

Of a run that records its uploads the audit stays, and what it read goes: that of all runs would
take tens of gigabytes. So such a run is also one of the program that audits it.
"""

import ast
import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterable, Sequence
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
from studies.trials import audits
from studies.trials.arithmetic import Row

AUDITING = "audit"
PACKAGE = Path(fedsyn.__file__).parent
READERS = ("cli", "conformance", "report", AUDITING)  # make nothing that a run computes


class Cell(Protocol):
    """The runs of one row of the results."""

    @property
    def jobs(self) -> Sequence[Job]:
        """The runs of the row, a seed each."""

    def row(self) -> Row:
        """What the runs, all finished, say."""

    def failure(self, why: str) -> Row:
        """What is said in the place of its row."""


def key(configuration: Config) -> str:
    """Names the folder of a run."""
    parts = [digest(configuration), str(configuration.run.rounds), code()]
    if configuration.run.record_uploads:
        parts += ["recorded", auditor()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:20]


@cache
def code() -> str:
    """Identifies the program that runs."""
    return _digest(path for path in _sources() if path.parts[0] not in READERS)


@cache
def auditor() -> str:
    """Identifies the program that audits runs."""
    return _digest(path for path in _sources() if path.parts[0] == AUDITING)


def _sources() -> list[Path]:
    return [path.relative_to(PACKAGE) for path in sorted(PACKAGE.rglob("*.py"))]


def _digest(paths: Iterable[Path]) -> str:
    found = hashlib.sha256(fedsyn.__version__.encode())
    for path in paths:
        source = (PACKAGE / path).read_text("utf-8")
        found.update(f"{path}\n{meaning(source)}\n".encode())
    return found.hexdigest()[:12]


def meaning(source: str) -> str:
    """A Python source without comments, layout and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = None
    return ast.dump(tree)


def execute(
    jobs: Sequence[Job],
    progress: Callable[[int], None],
    workers: int | None = None,
) -> dict[Path, str]:
    """Run what is missing, and audit what is recorded; why runs failed that did, by folder.

    Of a finished run the checkpoint goes.
    """
    failures = {}

    def ended(job: Job, error: Exception | None) -> None:
        if error is not None:
            failures[job.out] = str(error)
        else:
            shutil.rmtree(job.out / records.CHECKPOINT.parent)

    compare.execute(mixed(jobs), workers=workers, progress=progress, ended=ended)
    done = [job.out for job in jobs if job.out not in failures]
    return failures | audits.execute(done, workers)


def mixed(jobs: Iterable[Job]) -> list[Job]:
    """Every run once, in a fixed random order: so what is done foretells what is left."""
    once = list({job.out: job for job in jobs}.values())
    random.Random(0).shuffle(once)
    return once


def rounds(jobs: Iterable[Job]) -> int:
    """How many there are to do, the start of each run counted as one, over all runs."""
    return sum(job.config.rounds + 1 for job in mixed(jobs))


def row_of(jobs: Sequence[Job]) -> Row:
    """What the runs of one setting, all finished, say; bytes are a round's."""
    found = compare.row_of(jobs)
    for name in TASKS.find(found["task"]).metrics.apart:
        found[f"{name}_curve"] = compare.curve(jobs, name)
    del found["bytes_up_mean"]  # of all rounds and what came before them
    each = [_traffic(job) for job in jobs]
    return {
        "clients": jobs[0].config.partition.clients,
        "rounds": jobs[0].config.rounds,
        "runs": [job.out.name for job in jobs],
        **found,
        **{name: fmean(one[name] for one in each) for name in ("bytes_up", "bytes_down")},
    }


def _traffic(job: Job) -> dict[str, float]:
    """Mean bytes each way in a round; of the start, where there is no other."""
    lines = (job.out / records.METRICS).read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    rows = rows[1:] or rows
    return {name: fmean(row[name] for row in rows) for name in ("bytes_up", "bytes_down")}

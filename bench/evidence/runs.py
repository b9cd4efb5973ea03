"""The runs behind the rows: which there are, where they lie, and running what is missing.

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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import fedsyn
from evidence.studies import Study
from fedsyn import config
from fedsyn.config import Config
from fedsyn.engine import compare, records
from fedsyn.engine.compare import Job
from fedsyn.engine.runner import digest

READERS = ("cli.py", "cli_flower.py", "terminal.py", "report")  # make nothing that a run computes


@dataclass(frozen=True)
class Cell:
    """The runs of one row, a seed each."""

    study: str
    data: str
    setting: str
    against: str
    jobs: tuple[Job, ...]

    def row(self) -> dict[str, Any]:
        """What the runs, all finished, say."""
        found = compare.row_of(self.jobs)
        del found["bytes_up_mean"]  # of all rounds and what came before them
        rounds = [_rounds(job) for job in self.jobs]
        return {
            "study": self.study,
            "data": self.data,
            "setting": self.setting,
            "against": self.against,
            "alpha": self.jobs[0].config.partition.alpha,
            "clients": self.jobs[0].config.partition.clients,
            "rounds": self.jobs[0].config.run.rounds,
            "code": code(),
            "runs": [job.out.name for job in self.jobs],
            **found,
            **{
                f"bytes_{way}": fmean(run[f"bytes_{way}"] for run in rounds)
                for way in ("up", "down")
            },
        }


def cells(
    study: Study, data: dict[str, list[str]], runs: Path, seeds: int, extra: Sequence[str] = ()
) -> list[Cell]:
    """The rows of a study on the data sets that are there; ``extra`` overrides come last."""
    found = []
    for name in (name for name in study.data if name in data):
        for alpha in study.alphas:
            for method, objective in study.baselines:
                for setting in study.settings:
                    overrides = [*data[name], f"partition.alpha={alpha}", *setting.overrides]
                    base = config.load(None, [*overrides, *extra])
                    for mode in setting.modes:
                        jobs = compare.plan(base, runs, [method], [objective], [mode], seeds)
                        placed = tuple(Job(job.config, runs / key(job.config)) for job in jobs)
                        found.append(Cell(study.name, name, setting.name, setting.against, placed))
    return found


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
    found: Sequence[Cell],
    kept: Job,
    progress: Callable[[int], None],
    workers: int | None = None,
) -> dict[Path, str]:
    """Run what is missing; why the runs failed that did, by folder.

    Of a finished run the checkpoint goes, but for that of ``kept``: those of all runs would take
    tens of gigabytes.
    """
    failures = {}

    def ended(job: Job, error: Exception | None) -> None:
        if error is not None:
            failures[job.out] = str(error)
        elif job.out != kept.out:
            shutil.rmtree(job.out / records.CHECKPOINT.parent)

    compare.execute(mixed(found), workers=workers, progress=progress, ended=ended)
    return failures


def mixed(found: Sequence[Cell]) -> list[Job]:
    """Every run once, in a fixed random order: so what is done foretells what is left."""
    jobs = list({job.out: job for cell in found for job in cell.jobs}.values())
    random.Random(0).shuffle(jobs)
    return jobs


def _rounds(job: Job) -> dict[str, float]:
    """Mean bytes each way in a round."""
    lines = (job.out / records.METRICS).read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return {name: fmean(row[name] for row in rows) for name in ("bytes_up", "bytes_down")}

"""The rows of the studies: which runs are behind each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedsyn.federation import compare, config
from fedsyn.federation.compare import Job
from studies.evidence.studies import Study
from studies.trials.arithmetic import Row
from studies.trials.runs import key, row_of

# What tells rows apart.
NAMES = ("study", "data", "alpha", "setting", "method", "objective", "synthesis")


@dataclass(frozen=True)
class Cell:
    """The runs of one row, a seed each."""

    study: str
    data: str
    setting: str
    against: str
    jobs: tuple[Job, ...]

    def row(self) -> Row:
        """What the runs, all finished, say."""
        return {
            "study": self.study,
            "data": self.data,
            "setting": self.setting,
            "against": self.against,
            "alpha": self.jobs[0].config.partition.alpha,
            **row_of(self.jobs),
        }

    def failure(self, why: str) -> Row:
        """What is said in the place of its row."""
        cell = f"{self.data}, {self.setting}, {'+'.join(self.jobs[0].setting)}"
        return {"study": self.study, "cell": cell, "why": why}


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

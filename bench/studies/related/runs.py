"""The rows of the studies: which runs are behind each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedsyn.errors import ConfigError
from fedsyn.federation import config
from fedsyn.federation.compare import Job
from studies.related.studies import Study
from studies.trials.arithmetic import Row
from studies.trials.runs import key, row_of

NAMES = ("study", "case", "contender")  # that tell rows apart


@dataclass(frozen=True)
class Cell:
    """The runs of one contender in one case, a seed each."""

    study: str
    case: str
    data: str
    contender: str
    jobs: tuple[Job, ...] = ()

    def row(self) -> Row:
        """What the runs, all finished, say."""
        names = {"study": self.study, "case": self.case, "data": self.data}
        return {**names, "contender": self.contender, **row_of(self.jobs)}

    def failure(self, why: str) -> Row:
        """What is said in the place of its row."""
        return {"study": self.study, "cell": f"{self.case}, {self.contender}", "why": why}


def cells(
    study: Study,
    data: Mapping[str, Sequence[str]],
    runs: Path,
    seeds: int,
    extra: Sequence[str] = (),
) -> tuple[list[Cell], list[Row]]:
    """The cells of a study on the data sets that are there, and those that cannot be configured.

    Overrides of the case come after those of the study, then those of the contender, then
    ``extra``.
    """
    found, refused = [], []
    for case in (case for case in study.cases if case.data in data):
        for contender in study.contenders:
            cell = Cell(study.name, case.name, case.data, contender.name)
            words = [*data[case.data], *study.overrides, *case.overrides, *contender.overrides]
            try:
                jobs = tuple(_job([*words, *extra], seed, runs) for seed in range(seeds))
            except ConfigError as error:
                refused.append(cell.failure(str(error)))
            else:
                found.append(replace(cell, jobs=jobs))
    return found, refused


def _job(overrides: Sequence[str], seed: int, runs: Path) -> Job:
    settings = config.load(None, [*overrides, f"run.seed={seed}", "engine.threads=1"])
    return Job(settings, runs / key(settings))

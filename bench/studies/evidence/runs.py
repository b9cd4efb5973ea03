"""The rows of the studies: which runs are behind each."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from fedsyn.federation import compare, config, records
from fedsyn.federation.compare import Job
from studies.evidence import leaks
from studies.evidence.studies import Baseline, Setting, Study
from studies.trials.arithmetic import Row
from studies.trials.runs import key, row_of

# What tells rows apart.
NAMES = ("study", "data", "alpha", "setting", "method", "objective", "synthesis")
RECORDED = "run.record_uploads=true"
SOME = ("best_map", "best_r10")  # of the metrics of rounds that nobody without labels can choose
Data = Mapping[str, Sequence[str]]  # overrides of the data sets that are there


@dataclass(frozen=True)
class Cell:
    """The runs of one row, a seed each."""

    study: str
    data: str
    setting: str
    against: str
    jobs: tuple[Job, ...]
    audited: tuple[Job, ...] = ()  # runs that were recorded, whose audits the row tells

    def upto(self, seeds: int) -> "Cell":
        """The same with fewer seeds."""
        return replace(self, jobs=self.jobs[:seeds])

    def row(self) -> Row:
        """What the runs, all finished, say."""
        config = self.jobs[0].config.model_dump()
        found = row_of(self.jobs) | {"r10_curve": compare.curve(self.jobs, "recall@10")}
        row = {
            "study": self.study,
            "data": self.data,
            "setting": self.setting,
            "against": self.against,
            "alpha": config["partition"]["alpha"],
            "lr": config["method"]["lr"],
            "temperature": config["objective"]["temperature"],
            **{name: value for name, value in found.items() if _told(name)},
            **{f"{name}_total": self._total(name) for name in ("bytes_up", "bytes_down")},
        }
        audits = [job.out / leaks.FILE for job in self.audited]
        if audits and all(audit.exists() for audit in audits):
            row["audit"] = leaks.summary(audits)
        return row

    def failure(self, why: str) -> Row:
        """What is said in the place of its row."""
        cell = f"{self.data}, {self.setting}, {'+'.join(self.jobs[0].setting)}"
        return {"study": self.study, "cell": cell, "why": why}

    def _total(self, name: str) -> float:
        """Mean over the runs of all that was sent one way, from the start to the end."""
        every = [json.loads((job.out / records.SUMMARY).read_text("utf-8")) for job in self.jobs]
        return fmean(one[name] for one in every)


def _told(name: str) -> bool:
    return not name.startswith(("best_", "last_")) or name.startswith(SOME)


def cells(
    study: Study, data: Data, runs: Path, seeds: int, extra: Sequence[str] = ()
) -> list[Cell]:
    """The rows of a study on the data sets that are there; ``extra`` overrides come last."""
    seeds = min(seeds, study.seeds or seeds)
    recorded = [RECORDED] if study.recorded else []
    found = []
    for name in (name for name in study.data if name in data):
        for alpha in study.alphas:
            words = [*data[name], f"partition.alpha={alpha}", *recorded]
            for setting in study.settings:
                for baseline in setting.baselines or study.baselines:
                    for mode in setting.modes:
                        cell = cell_of(
                            study.name, name, setting, words, baseline, mode, runs, seeds, extra
                        )
                        audited = cell.jobs if study.recorded else ()
                        found.append(replace(cell, audited=audited))
    return found


def cell_of(
    study: str,
    data: str,
    setting: Setting,
    words: Sequence[str],
    baseline: Baseline,
    mode: str,
    runs: Path,
    seeds: int,
    extra: Sequence[str] = (),
) -> Cell:
    """One row; the setting's overrides come after those of the data set."""
    made = jobs([*words, *setting.overrides, *extra], baseline, mode, runs, seeds)
    return Cell(study, data, setting.name, setting.against, made)


def jobs(
    overrides: Sequence[str], baseline: Baseline, mode: str, runs: Path, seeds: int
) -> tuple[Job, ...]:
    """A run for each seed from 0."""
    base = config.load(None, overrides)
    method, objective = baseline
    planned = compare.plan(base, runs, [method], [objective], [mode], seeds)
    return tuple(Job(job.config, runs / key(job.config)) for job in planned)

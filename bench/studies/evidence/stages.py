"""In which order runs are made: the baselines first, seed by seed, so that what is interrupted has
whole seeds.

What a baseline is tuned to, and how many rounds take as much time as synthesis, is known when the
runs of the first seed are done.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedsyn.federation.compare import Job, finished
from studies.evidence import studies, tuning
from studies.evidence.chance import Chance
from studies.evidence.runs import RECORDED, Cell, Data, cell_of, cells, jobs
from studies.evidence.studies import Baseline, Overrides, Setting
from studies.trials.command import Stage

Stages = Iterator[Stage[Cell | Chance]]
OFF, ON = "off", "on"


@dataclass(frozen=True)
class Plan:
    """What is asked for.

    Attributes
    ----------
    data : mapping of str to sequence of str
        Overrides of the data sets that are there.
    runs : Path
        The folder of runs.
    seeds : int
    extra : sequence of str
        Overrides that come last.
    """

    data: Data
    runs: Path
    seeds: int
    extra: Sequence[str] = ()


def stages(plan: Plan, names: Sequence[str]) -> Stages:
    """Of the studies of these names."""
    for study in studies.STUDIES:
        if study.name not in names:
            continue
        if study is studies.BASELINE_STUDY:
            yield from _baselines(plan)
        elif study.recorded:
            yield from _recorded(plan, study)
        else:
            found = cells(study, plan.data, plan.runs, plan.seeds, plan.extra)
            yield Stage(study.name, study.name, _jobs(found), found)


def _recorded(plan: Plan, study: studies.Study) -> Stages:
    """A few runs at a time: what they record is large until it is audited."""
    found = cells(study, plan.data, plan.runs, plan.seeds, plan.extra)
    for name in dict.fromkeys(cell.data for cell in found):
        mine = [cell for cell in found if cell.data == name]
        for seed in range(len(mine[0].jobs)):
            title = f"{study.name}, {name}, seed {seed}"
            yield Stage(study.name, title, [cell.jobs[seed] for cell in mine])
    yield Stage(study.name, study.name, [], found)


def _baselines(plan: Plan) -> Stages:
    study = studies.BASELINE_STUDY
    plain = [*_plain(plan), *_zero_shot(plan)]
    places = [_Place(plan, name, alpha, baseline) for name in study.data if name in plan.data
              for alpha in study.alphas for baseline in study.baselines]  # fmt: skip
    chance = [Chance(study.name, name, alpha, (*plan.data[name], *plan.extra))
              for name in study.data if name in plan.data for alpha in study.alphas]  # fmt: skip
    derived: list[Cell] = []
    for seed in range(plan.seeds):
        first = [cell.jobs[seed] for cell in plain]
        if seed == 0:
            first += [job for place in places for job in place.tried.values()]
            first += [job for cell in plain for job in cell.audited]
        yield Stage(study.name, f"{study.name}, seed {seed}", first)
        if seed == 0:
            derived = [cell for place in places for cell in place.derived()]
        title = f"{study.name}, seed {seed}, tuned"
        told = [cell.upto(seed + 1) for cell in (*plain, *derived)]
        yield Stage(study.name, title, [cell.jobs[seed] for cell in derived], [*chance, *told])


def _plain(plan: Plan) -> list[Cell]:
    """What depends on nothing; of the plain baseline under skew some runs are recorded."""
    found = cells(studies.BASELINE_STUDY, plan.data, plan.runs, plan.seeds, plan.extra)
    return [
        replace(cell, audited=_again(plan, cell, cell.jobs[0].setting[2]))
        if _is_audited(cell)
        else cell
        for cell in found
    ]


def _is_audited(cell: Cell) -> bool:
    method, objective, mode = cell.jobs[0].setting
    skewed = cell.jobs[0].config.partition.alpha == studies.SKEWED
    return skewed and (method, objective) == studies.PLAIN and mode in (OFF, ON)


def _again(plan: Plan, cell: Cell, mode: str) -> tuple[Job, ...]:
    """The run of the first seed, recorded."""
    words = [*plan.data[cell.data], f"partition.alpha={studies.SKEWED}", *plan.extra, RECORDED]
    return jobs(words, studies.PLAIN, mode, plan.runs, 1)


def _zero_shot(plan: Plan) -> list[Cell]:
    """Aligned embeddings as they are."""
    setting = Setting(studies.ZERO_SHOT, ("model.start=identity", "run.rounds=0"))
    return [
        cell_of(
            studies.BASELINE_STUDY.name, name, setting,
            [*plan.data[name], f"partition.alpha={alpha}", *plan.extra],
            studies.PLAIN, OFF, plan.runs, plan.seeds,
        )
        for name in studies.ALIGNED if name in plan.data
        for alpha in studies.BASELINE_STUDY.alphas
    ]  # fmt: skip


@dataclass(frozen=True)
class _Place:
    """A baseline on a data set at a concentration, without synthesis."""

    plan: Plan
    data: str
    alpha: float
    baseline: Baseline

    @property
    def tried(self) -> dict[Overrides, Job]:
        """Runs of the first seed, by what is tried in them."""
        return {
            overrides: self._jobs(overrides, OFF, 1)[0] for overrides in tuning.grid(self.baseline)
        }

    def derived(self) -> list[Cell]:
        """As tuned, and as tuned at equal compute; nothing where the runs to choose by failed."""
        done = {overrides: job.out for overrides, job in self.tried.items() if finished(job)}
        off, on = (self._jobs((), mode, 1)[0] for mode in (OFF, ON))
        if not (done and finished(off) and finished(on)):
            return []
        tuned = tuning.chosen(done)
        rounds = tuning.factor(off.out, on.out) * off.config.rounds
        longer = (*tuned, f"run.rounds={rounds}")
        return [self._cell(studies.TUNED, tuned), self._cell(studies.COMPUTE, longer)]

    def _cell(self, name: str, overrides: Overrides) -> Cell:
        made = self._jobs(overrides, OFF, self.plan.seeds)
        return Cell(studies.BASELINE_STUDY.name, self.data, name, "", made)

    def _jobs(self, overrides: Overrides, mode: str, seeds: int) -> tuple[Job, ...]:
        plan = self.plan
        words = [*plan.data[self.data], f"partition.alpha={self.alpha}", *plan.extra, *overrides]
        return jobs(words, self.baseline, mode, plan.runs, seeds)


def _jobs(found: Sequence[Cell]) -> list[Job]:
    return [job for cell in found for job in cell.jobs]

"""Settings side by side over seeds: the runs of a comparison and its table.

Every run is a run directory of its own under ``runs/``, made by a worker process on one thread, so
that a comparison uses all cores, can be interrupted, and goes on where it stopped.
"""

import json
import multiprocessing
import os
import shutil
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from fedsyn.errors import ConfigError, FedsynError, RunError
from fedsyn.federation import config as configuration
from fedsyn.federation import records
from fedsyn.federation.config import Config
from fedsyn.federation.runner import run

MODES = ("off", "on", "oracle")
RESULT = "comparison.json"


@dataclass(frozen=True)
class Job:
    """One run of a comparison, and where it lies."""

    config: Config
    out: Path

    @property
    def setting(self) -> tuple[str, str, str]:
        """Method, objective, synthesis: what a row of the table stands for."""
        plugins = self.config.plugins
        return plugins.method.name, plugins.objective.name, self.config.synthesis_mode


def plan(
    base: Config,
    out: Path,
    methods: Sequence[str],
    objectives: Sequence[str],
    modes: Sequence[str],
    seeds: int,
) -> list[Job]:
    """The runs of a comparison: every combination, seeds counted up from ``run.seed``.

    A method that extensions cannot change (``local``, ``centralised``) appears once a seed.

    Raises
    ------
    ConfigError
        If a name is unknown, a list is empty, or a method cannot learn the task.
    """
    for mode in modes:
        if mode not in MODES:
            raise ConfigError(f"--synthesis {mode!r} is not valid; expected some of {MODES}")
    if base.run.ranking != "full":
        raise ConfigError("run.ranking = 'top' has no mAP to compare; expected 'full'")
    if not (methods and objectives and modes) or seeds < 1:
        raise ConfigError("a comparison needs a method, an objective, a synthesis mode and a seed")
    jobs: dict[str, Job] = {}
    for seed in range(base.run.seed, base.run.seed + seeds):
        for method in methods:
            for objective in objectives:
                for mode in modes:
                    config = configuration.with_overrides(
                        base,
                        method={"name": method},
                        objective={"name": objective},
                        synthesis={"enabled": mode != "off", "oracle": mode == "oracle"},
                        run={"seed": seed},
                        engine={"threads": 1},
                    )
                    plugins = config.plugins
                    parts = (plugins.method.name, plugins.objective.name, config.synthesis_mode)
                    name = "-".join((*parts, f"seed{seed}"))
                    jobs.setdefault(name, Job(config, out / "runs" / name))
    return list(jobs.values())


def compare(
    jobs: Sequence[Job],
    out: Path,
    *,
    workers: int | None = None,
    progress: Callable[[int], None] = lambda rounds: None,
) -> dict[str, Any]:
    """Run what is not done yet and write ``comparison.json``.

    Parameters
    ----------
    jobs : sequence of Job
        As `plan` makes them.
    out : Path
        Made if absent; finished runs of the same configuration in it are not run again.
    workers : int, optional
        Processes at a time; all cores by default.
    progress : callable
        Told the number of rounds done over all runs, about twice a second.

    Returns
    -------
    dict
        What ``comparison.json`` holds.

    Raises
    ------
    FedsynError
        The first failure of a run; the others' results stay.
    """
    if out.is_dir() and any(out.iterdir()) and not (out / "runs").is_dir():
        raise RunError(f"output folder {str(out)!r} is not empty and holds no comparison")
    execute(jobs, workers=workers, progress=progress)
    table, rows = jobs[0].config.plugins.task.metrics, _rows(jobs)
    result = {"rows": rows, "gap_closed": gaps(rows, [table.compared[name] for name in table.gaps])}
    records.write_json(out / RESULT, result)
    return result


def _raise(job: Job, error: FedsynError | None) -> None:
    if error is not None:
        raise error


def execute(
    jobs: Sequence[Job],
    *,
    workers: int | None = None,
    progress: Callable[[int], None] = lambda rounds: None,
    ended: Callable[[Job, FedsynError | None], None] = _raise,
) -> None:
    """Run what is not done yet, each run in a worker process.

    ``ended`` is told of every run that ends, and of why it failed; what it raises ends the others.
    ``workers`` and ``progress`` are as in `compare`.
    """
    for job in jobs:
        _check_same(job)
    missing = iter([job for job in jobs if not finished(job)])
    at_once = workers or os.cpu_count() or 1
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(at_once, mp_context=context) as pool:
        running: dict[Future[None], Job] = {}
        while True:
            # None waits in the pool, so none begins after an exception here.
            for job in islice(missing, at_once - len(running)):
                running[pool.submit(_run, job)] = job
            if not running:
                return
            for future in wait(running, timeout=0.5, return_when=FIRST_COMPLETED).done:
                ended(running.pop(future), _failure(future))
            progress(sum(_rounds(job) for job in jobs))


def _failure(future: Future[None]) -> FedsynError | None:
    """Why a run failed; what is no failure of a run, but of the program, is raised."""
    try:
        future.result()
    except FedsynError as error:
        return error
    return None


def _run(job: Job) -> None:
    run_on(job.config, job.out)


def run_on(config: Config, out: Path) -> dict[str, Any]:
    """Run as configured, or go on with what is in ``out``; what ``summary.json`` holds.

    A run that stopped before its first checkpoint begins anew.
    """
    resumable = (out / records.CHECKPOINT).exists()
    if not resumable and not (out / records.SUMMARY).exists():
        shutil.rmtree(out, ignore_errors=True)
    return run(config, out, resume=resumable)


def finished(job: Job) -> bool:
    """Whether the run has done all its rounds."""
    return (job.out / records.SUMMARY).exists() and _rounds(job) > job.config.rounds


def _rounds(job: Job) -> int:
    path = job.out / records.METRICS
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _check_same(job: Job) -> None:
    """Refuse to mix runs of different configurations in one table."""
    path = job.out / records.CONFIG
    if not path.exists():
        return
    there = configuration.load(path, **job.config.given)
    if there.model_dump(exclude={"engine"}) != job.config.model_dump(exclude={"engine"}):
        raise RunError(
            f"{str(job.out)!r} holds a run of another configuration; choose another --out"
        )


def _rows(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """One row a setting, over its seeds."""
    groups: dict[tuple[str, str, str], list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.setting, []).append(job)
    return [row_of(group) for group in groups.values()]


def row_of(jobs: Sequence[Job]) -> dict[str, Any]:
    """One row: the finished runs of one setting over its seeds."""
    summaries = [json.loads((job.out / records.SUMMARY).read_text("utf-8")) for job in jobs]
    task = jobs[0].config.plugins.task
    names = ("method", "objective", "synthesis")
    row: dict[str, Any] = {
        "task": jobs[0].config.task.name,
        **dict(zip(names, jobs[0].setting, strict=True)),
    }
    row["seeds"] = len(jobs)
    for at in ("selected", "best", "last"):
        chosen = [summary[at]["metrics"] for summary in summaries]
        prefix = "" if at == "selected" else f"{at}_"
        for metric, name in task.metrics.compared.items():
            values = [metrics.get(metric) for metrics in chosen]
            mean, std = spread(values)
            row |= {f"{prefix}{name}_mean": mean, f"{prefix}{name}_std": std}
            if at == "selected":
                row[f"{name}_runs"] = values
    row["seconds_mean"] = statistics.fmean(summary["seconds"] for summary in summaries)
    row["bytes_up_mean"] = statistics.fmean(summary["bytes_up"] for summary in summaries)
    row["curve"] = curve(jobs, task.metrics.headlines[0])
    return row


def spread(values: Iterable[float | None]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation; ``None`` where a value is missing, 0 for one value."""
    known = list(values)
    numbers = [value for value in known if value is not None]
    if len(numbers) < len(known):
        return None, None
    return statistics.fmean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else 0.0


def curve(jobs: Sequence[Job], metric: str) -> dict[str, list[Any]]:
    """A metric of the rounds that were evaluated: mean and deviation over the runs."""
    runs = []
    for job in jobs:
        lines = (job.out / records.METRICS).read_text("utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        runs.append({row["round"]: row["metrics"][metric] for row in rows if "metrics" in row})
    points = [spread(run[number] for run in runs) for number in runs[0]]
    return {
        "rounds": list(runs[0]),
        "mean": [mean for mean, _ in points],
        "std": [std for _, std in points],
    }


def gaps(rows: Sequence[dict[str, Any]], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """(on − off) / (oracle − off) of each method and objective that has all three.

    By metric, as rows name them, of the round selected without labels, whose model is kept;
    ``best_`` and ``last_`` of those rounds. ``None``, as a ratio of noise, where the oracle is not
    above the method by more than both standard deviations.
    """
    found = []
    for key in dict.fromkeys((row["method"], row["objective"]) for row in rows):
        modes = {row["synthesis"]: row for row in rows if (row["method"], row["objective"]) == key}
        if not modes.keys() >= set(MODES):
            continue
        entry: dict[str, Any] = {"method": key[0], "objective": key[1]}
        for prefix in ("", "best_", "last_"):
            entry |= {f"{prefix}{one}": gap_closed(modes, f"{prefix}{one}") for one in metrics}
        found.append(entry)
    return found


def gap_closed(
    modes: Mapping[str, Mapping[str, Any]], metric: str, deviations: float = 1.0
) -> float | None:
    """(on − off) / (oracle − off) of a metric of three rows.

    ``None`` where one is absent, or where the oracle is not above the method by more than
    ``deviations`` times both standard deviations.
    """
    if not modes.keys() >= set(MODES):
        return None
    means = [modes[mode][f"{metric}_mean"] for mode in MODES]
    if None in means:
        return None
    off, on, oracle = means
    noise = max(modes[mode][f"{metric}_std"] for mode in ("off", "oracle"))
    return (on - off) / (oracle - off) if oracle - off > deviations * noise else None

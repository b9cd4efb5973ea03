"""Settings chosen without labels: runs in turn, of which clients' held-out pairs like one best.

One key after another takes each of the values that are to be tried, the others at the best so far;
a key whose values are none better keeps the one it had. It ends when a whole pass over the keys has
changed nothing, or with the budget. What is compared is the criterion of the round that a run has
selected (``run.criterion``), so that the number of rounds is chosen as well. The test rows have no
say.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedsyn.errors import ConfigError, RunError
from fedsyn.federation import records
from fedsyn.federation.config import Config
from fedsyn.settings.plugins import FLAT
from fedsyn.settings.sections import Section, Tried

RESULT = "tuning.json"
Keys = dict[str, Any]  # values by ``section.key``


@dataclass(frozen=True)
class Trial:
    """A run with some keys set.

    Attributes
    ----------
    keys : dict
    criterion : float
        Of the round that was selected, on held-out rows; infinite where there are none.
    recall : float, optional
        Of the same rows, where the task has one.
    round : int
        The round that was selected.
    seconds : float
    out : str
        The run's directory.
    """

    keys: Keys
    criterion: float
    recall: float | None
    round: int
    seconds: float
    out: str


# Makes a run with these keys in a directory, or goes on with it; what ``summary.json`` holds.
Run = Callable[[Keys, Path], Mapping[str, Any]]


def candidates(config: Config) -> dict[str, tuple[Any, ...]]:
    """The keys that are marked as worth trying (`fedsyn.settings.sections.Tried`), and values.

    Of the sections of the plug-ins in force.
    """
    active, plain = [own for _, own in config.active], config.plugins.objective.options.get(FLAT)
    objective = set(plain.model_fields if plain else ())
    found: dict[str, tuple[Any, ...]] = {}
    for name in ("objective", "method", *type(config).model_fields):
        section = getattr(config, name)
        if name in ("objective", "method") or section in active:
            found |= _tried(section, name, objective if name == "objective" else None)
    return found


def _tried(section: Section, name: str, only: set[str] | None) -> dict[str, tuple[Any, ...]]:
    return {
        f"{name}.{key}": mark.values
        for key, field in type(section).model_fields.items()
        for mark in field.metadata
        if isinstance(mark, Tried) and (only is None or key in only)
    }


def tune(
    tried: Mapping[str, Sequence[Any]],
    start: Mapping[str, Any],
    run: Run,
    out: Path,
    *,
    runs: int,
    seconds: float = math.inf,
    told: Callable[[Trial], None] = lambda trial: None,
) -> list[Trial]:
    """Try settings within a budget; the best is the first of the trials that are returned.

    Parameters
    ----------
    tried : mapping of str to sequence
        Values to try, by key.
    start : mapping of str to value
        The values that these keys have where nothing is changed.
    run : callable
        Makes a run; is asked once for each combination.
    out : Path
        Directory of the runs and of ``tuning.json``. What is done there is not done again.
    runs : int
        Most runs, at least 1.
    seconds : float
        No run begins after so many.
    told : callable
        Told of every trial as it ends.

    Raises
    ------
    ConfigError
        If there is nothing to try.
    RunError
        If no client holds rows out: there would be nothing to choose by.
    """
    if not any(set(values) - {start[key]} for key, values in tried.items()):
        raise ConfigError("there is nothing to try: expected a key with another value than it has")
    began, trials = time.perf_counter(), list[Trial]()
    for keys in _walk(tried, dict(start), trials):
        if len(trials) >= runs or (trials and time.perf_counter() - began > seconds):
            break
        trial = _trial(keys, run, out / "runs" / _name(keys))
        if math.isinf(trial.criterion):
            raise RunError(
                f"{trial.out!r}: no client holds rows out, so there is nothing to choose by; "
                "expected data.holdout > 0 and clients of ten pairs or more"
            )
        trials.append(trial)
        told(trial)
        best = sorted(trials, key=lambda one: one.criterion)
        records.write_json(out / RESULT, {"trials": [asdict(one) for one in best]})
    return sorted(trials, key=lambda one: one.criterion)


def _walk(
    tried: Mapping[str, Sequence[Any]], start: Keys, trials: Sequence[Trial]
) -> Iterator[Keys]:
    """Combinations, each once, as the ``trials`` so far suggest."""
    seen = [start]
    yield start
    while True:
        before = _best(trials)
        for key, values in tried.items():
            around = _best(trials)
            for value in values:
                keys = {**around, key: value}
                if keys not in seen:
                    seen.append(keys)
                    yield keys
        if _best(trials) == before:
            return


def _best(trials: Sequence[Trial]) -> Keys:
    return min(trials, key=lambda one: one.criterion).keys


def _trial(keys: Keys, run: Run, out: Path) -> Trial:
    """A run, or what is known of it."""
    path = out / records.SUMMARY
    summary = json.loads(path.read_text("utf-8")) if path.exists() else run(keys, out)
    lines = (out / records.METRICS).read_text("utf-8").splitlines()
    number = summary["selected"]["round"]
    row = next(one for one in map(json.loads, lines) if one["round"] == number)
    return Trial(
        keys, records.held_out_loss(row), row.get("holdout_recall@10"), number,
        summary["seconds"], str(out),
    )  # fmt: skip


def _name(keys: Keys) -> str:
    """A directory's name: the keys' own, without their sections."""
    return ",".join(f"{key.rpartition('.')[2]}={value}" for key, value in keys.items())

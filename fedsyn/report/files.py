"""Reading the files of a run: what is absent stays absent, what is broken is named.

A report must also be possible for a run that was interrupted, that has no labels, or whose loss
went to infinity. So every number passes `_numbers`, which drops what is missing or not finite, and
the rest of the report only ever sees numbers that can be shown.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsyn.errors import ConfigError, RunError
from fedsyn.federation import config
from fedsyn.federation.config import Config
from fedsyn.metrics.table import MetricTable
from fedsyn.synthesis.extension import SYNTHESIS
from fedsyn.tasks import TASKS
from fedsyn.tasks.base import Task

Numbers = dict[str, float]


@dataclass(frozen=True)
class Round:
    """One line of ``metrics.jsonl``."""

    number: int
    seconds: Numbers  # per phase
    traffic: Numbers  # bytes "up" and "down"
    losses: Numbers
    metrics: Numbers
    client_metrics: Numbers  # means over clients
    server: Numbers  # candidates, kept; the share of the fine-tuned model that was taken
    start: str  # in round 0, what all begin with


@dataclass(frozen=True)
class Outcome:
    """The metrics of one distinguished round."""

    name: str  # "start", "last", "best" or "selected"
    round: int | None
    metrics: Numbers


@dataclass(frozen=True)
class Partition:
    """Who has what: ``counts[c][l]`` training pairs of client ``c`` with label ``l``."""

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    sizes: dict[str, tuple[int, ...]]  # per client, by kind: pairs, holdout, ..., test

    @property
    def labelled(self) -> tuple[tuple[int, ...], ...]:
        """The counts without those of pairs that have no label."""
        known = [index for index, label in enumerate(self.labels) if label != "unlabelled"]
        return tuple(tuple(row[index] for index in known) for row in self.counts)

    @property
    def clients(self) -> int:
        """How many clients there are."""
        return max(map(len, (self.counts, *self.sizes.values())))


@dataclass(frozen=True)
class Item:
    """A picture, a caption or both, as a query or a search result."""

    caption: str
    image: str  # base64 of a PNG, or ""
    label: str
    score: float | None = None
    relevant: bool = False
    same_pair: bool = False


@dataclass(frozen=True)
class Query:
    """A query of the gallery and what it found, best first."""

    kind: str  # "text" or "image"
    item: Item
    results: tuple[Item, ...]


@dataclass(frozen=True)
class Run:
    """Everything a report shows of one run."""

    path: Path
    config: Config
    rounds: tuple[Round, ...]
    outcomes: dict[str, Outcome]
    totals: Numbers  # seconds, bytes_up, bytes_down
    partition: Partition | None
    gallery: tuple[Query, ...]
    versions: dict[str, str]

    @property
    def kept(self) -> Outcome | None:
        """The round whose model the run kept: selected by held-out rows, else the last."""
        return self.outcomes.get("selected") or self.outcomes.get("last")

    @property
    def scores(self) -> MetricTable:
        """What the task is judged by."""
        return self.config.plugins.task.metrics

    @property
    def headline(self) -> str:
        """The metric that stands for the task."""
        return self.scores.headline(self.kept.metrics if self.kept else {})

    @property
    def clients(self) -> int:
        """Clients that took part; a column partition only knows once the data are read."""
        return self.partition.clients if self.partition else self.config.partition.clients


@dataclass(frozen=True)
class Curve:
    """A metric over the rounds, over seeds."""

    rounds: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Row:
    """One setting of a comparison, over its seeds."""

    method: str
    objective: str
    synthesis: str  # "off", "on" or "oracle"
    seeds: int
    numbers: Numbers  # map_mean, map_std, map50_mean, map50_std, seconds_mean
    runs: tuple[float, ...]  # the headline of each seed
    curve: Curve | None  # of the headline

    @property
    def group(self) -> tuple[str, str]:
        """What stays the same while synthesis is switched."""
        return self.method, self.objective


@dataclass(frozen=True)
class Comparison:
    """The content of ``comparison.json``."""

    path: Path
    task: Task
    rows: tuple[Row, ...]
    gap_closed: dict[tuple[str, str], Numbers]  # of each metric, by method and objective

    @property
    def of_synthesis(self) -> bool:
        """Whether rows may differ by synthesis, which is not of every task."""
        return issubclass(self.task.problem, SYNTHESIS.problem)

    @property
    def scores(self) -> MetricTable:
        """What the task is judged by."""
        return self.task.metrics

    @property
    def headline(self) -> str:
        """The metric that stands for the task."""
        return self.scores.headlines[0]


def read_run(directory: Path | str, **plugins: Any) -> Run:
    """Read a run directory; only ``config.toml`` and ``metrics.jsonl`` are indispensable.

    Parameters
    ----------
    directory : Path or str
    **plugins
        Plug-ins of the run, by family, that were passed to it as objects and that no name of
        ``config.toml`` could be imported by.

    Raises
    ------
    RunError
        If the directory or one of these files is missing, no round is complete, or a file is
        malformed. A torn last line of ``metrics.jsonl``, as an interrupted run leaves, is ignored.
    """
    path = _existing(directory)
    settings = _read_config(path / "config.toml", plugins)
    rounds = _read_rounds(path / "metrics.jsonl")
    summary = _read_object(path / "summary.json")
    return Run(
        path=path,
        config=settings,
        rounds=rounds,
        outcomes=_outcomes(rounds, summary, settings.plugins.task.metrics),
        totals=_totals(rounds) | _numbers(summary, ("seconds", "bytes_up", "bytes_down")),
        partition=_read_partition(path / "partition.json"),
        gallery=_read_gallery(path / "gallery.json"),
        versions={key: str(summary[key]) for key in ("version", "backend") if key in summary},
    )


def read_comparison(directory: Path | str) -> Comparison:
    """Read ``comparison.json`` of a directory; raises `RunError` if it is missing or malformed."""
    path = _existing(directory) / "comparison.json"
    tree = _read_object(path)
    found = _objects(tree, "rows", path)
    if not found:
        raise RunError(f"{str(path)!r} is missing or has no rows; expected what `compare` writes")
    try:
        task = TASKS.find(_text(found[0], "task") or TASKS.default.name)
    except ConfigError as error:
        raise RunError(f"{str(path)!r}: {error}") from None
    rows = tuple(_row(row, task.metrics.headlines[0]) for row in found)
    closed = {
        (_text(gap, "method"), _text(gap, "objective")): _numbers(gap)
        for gap in _objects(tree, "gap_closed", path)
        if _numbers(gap)
    }
    return Comparison(path.parent, task, rows, closed)


def _existing(directory: Path | str) -> Path:
    path = Path(directory)
    if not path.is_dir():
        raise RunError(f"{str(path)!r} is not a directory; expected the directory of a run")
    return path


def _read_text(path: Path) -> str | None:
    """The text of a file, ``None`` where there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{str(path)!r} cannot be read: {error}") from None


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object, empty where the file does not exist."""
    text = _read_text(path)
    if text is None:
        return {}
    try:
        tree = json.loads(text)
    except json.JSONDecodeError as error:
        raise RunError(f"{str(path)!r} is not JSON: {error}") from None
    if not isinstance(tree, dict):
        raise RunError(f"{str(path)!r} holds a {type(tree).__name__}; expected a JSON object")
    return tree


def _read_config(path: Path, plugins: Mapping[str, Any]) -> Config:
    try:
        return config.load(path, **plugins)
    except ConfigError as error:
        raise RunError(f"{str(path)!r}: {error}") from None


def _read_rounds(path: Path) -> tuple[Round, ...]:
    """Rounds in order; of one written twice, before and after a resume, the later line counts."""
    text = _read_text(path)
    if text is None:
        raise RunError(f"{str(path)!r} does not exist; expected what `fedsyn run` writes")
    rounds: dict[int, Round] = {}
    for position, tree in enumerate(_lines(text, path), start=1):
        number = int(_numbers(tree, ("round",)).get("round", position))
        rounds[number] = _round(number, tree)
    if not rounds:
        raise RunError(f"{str(path)!r} holds no complete round; expected one JSON object a line")
    return tuple(rounds[number] for number in sorted(rounds))


def _lines(text: str, path: Path) -> Iterator[dict[str, Any]]:
    lines = [line for line in text.splitlines() if line.strip()]
    for number, line in enumerate(lines, start=1):
        try:
            tree = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                return  # torn: the run was stopped while it wrote
            raise RunError(f"{str(path)!r}, line {number}, is not JSON: {error}") from None
        if not isinstance(tree, dict):
            raise RunError(f"{str(path)!r}, line {number}, is not a JSON object")
        yield tree


def _round(number: int, tree: Mapping[str, Any]) -> Round:
    traffic = _numbers(tree, ("bytes_up", "bytes_down"))
    return Round(
        number=number,
        seconds=_numbers(tree.get("seconds")),
        traffic={key.removeprefix("bytes_"): value for key, value in traffic.items()},
        losses=_numbers(tree.get("losses")),
        metrics=_numbers(tree.get("metrics")),
        client_metrics=_numbers(tree.get("client_metrics")),
        server=_numbers(tree.get("server")),
        start=_text(tree.get("server") or {}, "start"),
    )


def _numbers(tree: Any, keys: tuple[str, ...] | None = None) -> Numbers:
    """The finite numbers (and booleans, as 0 or 1) among the values of a JSON object."""
    if not isinstance(tree, Mapping):
        return {}
    return {
        key: float(value)
        for key, value in tree.items()
        if (keys is None or key in keys) and isinstance(value, int | float) and math.isfinite(value)
    }


def _outcomes(
    rounds: tuple[Round, ...], summary: Mapping[str, Any], scores: MetricTable
) -> dict[str, Outcome]:
    """The start, the last and best rounds, and the one selected by held-out rows, if there was a
    choice.
    """

    def score(number: int) -> float:
        metrics = evaluated[number]
        return metrics.get(scores.headline(metrics), -math.inf)

    evaluated = {one.number: one.metrics for one in rounds if one.metrics}
    outcomes = {}
    if evaluated:
        outcomes["last"] = Outcome("last", *list(evaluated.items())[-1])
        if 0 in evaluated:
            outcomes["start"] = Outcome("start", 0, evaluated[0])
        best = max(evaluated, key=score)
        outcomes["best"] = Outcome("best", best, evaluated[best])
    elif last := _numbers(summary.get("metrics")):
        outcomes["last"] = Outcome("last", rounds[-1].number, last)
    for name in ("best", "selected"):
        tree = summary.get(name)
        if isinstance(tree, Mapping):
            outcome = _distinguished(name, tree, evaluated)
            if outcome.metrics:
                outcomes[name] = outcome
    return outcomes


def _distinguished(name: str, tree: Mapping[str, Any], evaluated: Mapping[int, Numbers]) -> Outcome:
    """An entry of the summary: a round with its metrics nested, beside it, or left to look up."""
    numbers = _numbers(tree)
    number = int(numbers.pop("round")) if "round" in numbers else None
    metrics = _numbers(tree.get("metrics")) or numbers
    if not metrics and number is not None:
        metrics = evaluated.get(number, {})
    return Outcome(name, number, metrics)


def _totals(rounds: tuple[Round, ...]) -> Numbers:
    totals = {"seconds": sum(sum(one.seconds.values()) for one in rounds)}
    for way in ("up", "down"):
        if any(way in one.traffic for one in rounds):
            totals[f"bytes_{way}"] = sum(one.traffic.get(way, 0.0) for one in rounds)
    return totals


def _read_partition(path: Path) -> Partition | None:
    tree = _read_object(path)
    return parse_partition(tree, str(path)) if tree else None


def parse_partition(tree: Mapping[str, Any], source: str = "partition") -> Partition:
    """Who has what, from the content of ``partition.json``.

    Raises
    ------
    RunError
        If it is malformed; the message names ``source``.
    """
    kinds = ("pairs", "holdout", "images_only", "texts_only", "test")
    try:
        labels = tuple(str(label) for label in tree.get("labels") or ())
        counts = tuple(tuple(int(n) for n in row) for row in tree.get("clients") or ())
        sizes = {kind: tuple(int(n) for n in tree[kind]) for kind in kinds if tree.get(kind)}
    except (TypeError, ValueError) as error:
        raise RunError(f"{source!r} is malformed: {error}") from None
    if any(len(row) != len(labels) for row in counts):
        raise RunError(f"{source!r}: every client needs one count for each of {len(labels)} labels")
    if len({len(row) for row in sizes.values()} | ({len(counts)} if counts else set())) > 1:
        raise RunError(f"{source!r}: the lists are for different numbers of clients")
    return Partition(labels, counts, sizes)


def _read_gallery(path: Path) -> tuple[Query, ...]:
    tree = _read_object(path)
    return tuple(
        Query(
            kind=_text(query, "kind"),
            item=_item(query),
            results=tuple(_item(result) for result in _objects(query, "results", path)),
        )
        for query in _objects(tree, "queries", path)
    )


def _item(tree: Mapping[str, Any]) -> Item:
    return Item(
        caption=_text(tree, "caption"),
        image=_text(tree, "image"),
        label=_text(tree, "label"),
        score=_numbers(tree, ("score",)).get("score"),
        relevant=tree.get("relevant") is True,
        same_pair=tree.get("same_pair") is True,
    )


def _row(tree: Mapping[str, Any], headline: str) -> Row:
    seeds, curve = tree.get("seeds"), tree.get("curve")
    return Row(
        method=_text(tree, "method"),
        objective=_text(tree, "objective"),
        synthesis=_text(tree, "synthesis"),
        seeds=len(seeds) if isinstance(seeds, list) else int(_numbers(tree).get("seeds", 1)),
        numbers=_numbers(tree),
        runs=_sequence(tree.get(f"{headline}_runs")),
        curve=_curve(curve) if isinstance(curve, Mapping) else None,
    )


def _curve(tree: Mapping[str, Any]) -> Curve | None:
    rounds, mean, std = (_sequence(tree.get(key)) for key in ("rounds", "mean", "std"))
    if not rounds or len(rounds) != len(mean):
        return None
    return Curve(rounds, mean, std if len(std) == len(mean) else (0.0,) * len(mean))


def _sequence(values: Any) -> tuple[float, ...]:
    """A list of finite numbers; empty where any of it is not, so that lists stay aligned."""
    if not isinstance(values, list):
        return ()
    numbers = _numbers(dict(enumerate(values)))
    return tuple(numbers.values()) if len(numbers) == len(values) else ()


def _objects(tree: Mapping[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    values = tree.get(key) or []
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise RunError(f"{str(path)!r}: {key!r} is not a list of JSON objects")
    return values


def _text(tree: Mapping[str, Any], key: str) -> str:
    value = tree.get(key)
    return "" if value is None else str(value)

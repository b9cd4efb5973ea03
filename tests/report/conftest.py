"""Run directories as a run would leave them, written on the spot."""

import base64
import functools
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedsyn.federation import config
from fedsyn.tasks import TASKS

LABELS = ("circle", "star", "heart", "arrow", "cloud", "moon")
PHASES = ("local", "generator", "aggregate", "filter", "finetune", "evaluate")

RunWriter = Callable[..., Path]
START = "closed form (ridge 10, 64 directions)"


def metrics_of(value: float, task: str) -> dict[str, float]:
    """A full set of a task's metrics around its headline."""
    if task != "retrieval":
        return {name: value * 0.95**n for n, name in enumerate(TASKS.find(task).metrics.labels)}
    base = {
        "map": value,
        "map50": 1.2 * value,
        "map50_min": 1.1 * value,
        "recall@1": 0.3 * value,
        "recall@5": 0.6 * value,
        "recall@10": 0.8 * value,
        "median_rank": 20 / value,
    }
    i2t = {f"{name}_i2t": 0.97 * number for name, number in base.items()}
    t2i = {f"{name}_t2i": 1.03 * number for name, number in base.items()}
    return base | i2t | t2i


def round_of(number: int, rounds: int, clients: int, task: str) -> dict[str, Any]:
    """A line of ``metrics.jsonl``: the headline rises, and falls a little at the end."""
    progress = number / max(rounds, 2)
    value = 0.15 + 0.35 * (1 - math.exp(-4 * progress)) - 0.04 * max(0.0, progress - 0.75)
    row = {
        "round": number,
        "seconds": {
            phase: 0.01 * (weight + 0.2 * math.sin(number))
            for weight, phase in enumerate(PHASES, 1)
        },
        "bytes_up": 12_345_678 * clients,
        "bytes_down": 8_345_678 * clients,
        "clients": list(range(clients)),
        "losses": {
            "local": 3 * math.exp(-progress) + 0.3,
            "holdout": 3 * math.exp(-progress) + 0.6,
        },
        "metrics": metrics_of(value, task),
        "client_metrics": metrics_of(0.9 * value, task),
    }
    if task == "retrieval":
        row["losses"]["critic"] = -2 - math.sin(3 * progress)
        row["losses"]["generator"] = 0.5 + 0.2 * math.cos(5 * progress)
        row["server"] = {"candidates": 4096, "kept": 3072, "share": 0.25 * (number % 5)}
        row["holdout_recall@10"] = 0.3 + 0.2 * progress
    if number == 0:
        row |= {"clients": [], "losses": {"holdout": 3.6}, "server": {"start": START}}
    return row


def partition_of(clients: int, labels: tuple[str, ...]) -> dict[str, Any]:
    """A skewed partition over the labels."""
    draw = np.random.default_rng(0)
    shares = draw.dirichlet([0.15] * len(labels), size=clients)
    counts = [[int(n) for n in (share * draw.integers(40, 400)).round()] for share in shares]
    pairs = [max(1, sum(row)) for row in counts]
    return {
        "clients": [[*row, 3] for row in counts],
        "labels": [*labels, "unlabelled"],
        "pairs": [n + 3 for n in pairs],
        "holdout": [n // 10 for n in pairs],
        "images_only": [n // 20 for n in pairs],
        "texts_only": [0 for _ in pairs],
        "test": [n // 4 for n in pairs],
    }


@functools.cache
def picture(seed: int) -> str:
    """A small PNG in base64: a few discs on white."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle

    draw = np.random.default_rng(seed)
    figure = Figure(figsize=(0.64, 0.64))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    for _ in range(3):
        axes.add_patch(
            Circle(draw.uniform(0.2, 0.8, 2), draw.uniform(0.1, 0.25), color=draw.random(3))
        )
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return base64.b64encode(stream.getvalue()).decode()


def gallery_of(queries: int = 4, results: int = 6) -> dict[str, Any]:
    """Text and image queries in turn."""
    pictures = [picture(seed) for seed in range(results)]

    def item(number: int, pixels: bool = True) -> dict[str, Any]:
        label = LABELS[number % len(LABELS)]
        return {
            "caption": f"a large red {label} beside a small one, number {number}",
            "image": pictures[number % results] if pixels else None,
            "label": label,
        }

    return {
        "queries": [
            {"kind": "text" if q % 2 == 0 else "image"}
            | item(q, pixels=q % 2 == 1)
            | {
                "results": [
                    item(q + r)
                    | {"score": 0.91 - 0.07 * r, "relevant": r in (0, 2), "same_pair": r == 2}
                    for r in range(results)
                ]
            }
            for q in range(queries)
        ]
    }


def _write_json(path: Path, tree: Any) -> None:
    path.write_text(json.dumps(tree), encoding="utf-8")


@pytest.fixture
def write_run(tmp_path: Path) -> RunWriter:
    """A function that writes a run directory; ``without`` drops files, ``overrides`` are config."""

    def write(
        *overrides: str,
        rounds: int = 20,
        clients: int = 10,
        labels: tuple[str, ...] = LABELS,
        without: tuple[str, ...] = (),
    ) -> Path:
        path = tmp_path / "run"
        path.mkdir()
        settings = config.load(None, [f"partition.clients={clients}", *overrides])
        task = settings.task.name
        headline = settings.plugins.task.metrics.headlines[0]
        lines = [round_of(number, rounds, clients, task) for number in range(rounds + 1)]
        best = max(lines, key=lambda line: line["metrics"][headline])
        selected = lines[max(1, rounds - 4)]
        (path / "config.toml").write_text(config.dump(settings), encoding="utf-8")
        (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        _write_json(path / "partition.json", partition_of(clients, labels))
        if task == "retrieval":
            _write_json(path / "gallery.json", gallery_of())
        _write_json(
            path / "summary.json",
            {
                "method": settings.method.name,
                "clients": clients,
                "metrics": lines[-1]["metrics"],
                "best": {"round": best["round"], "metrics": best["metrics"]},
                "selected": {"round": selected["round"], "metrics": selected["metrics"]},
                "seconds": 0.21 * rounds,
                "bytes_up": 12_345_678 * clients * rounds,
                "bytes_down": 8_345_678 * clients * rounds,
                "version": "0.1.0",
                "backend": "cpu",
            },
        )
        for name in without:
            (path / name).unlink()
        return path

    return write


def row_of(
    method: str, objective: str, synthesis: str, value: float, seeds: int, task: str
) -> dict[str, Any]:
    """A row of ``comparison.json``."""
    headline, *others = TASKS.find(task).metrics.compared.values()
    draw = np.random.default_rng(round(1000 * value))
    runs = (value + 0.01 * draw.standard_normal(seeds)).tolist()
    rounds = list(range(1, 21))
    return {
        "task": task,
        "method": method,
        "objective": objective,
        "synthesis": synthesis,
        "seeds": seeds,
        f"{headline}_mean": float(np.mean(runs)),
        f"{headline}_std": float(np.std(runs)),
        **{f"{name}_mean": 0.8 * value for name in others},
        **dict.fromkeys([f"{name}_std" for name in others], 0.01),
        "seconds_mean": 12.5,
        f"{headline}_runs": runs,
        "curve": {
            "rounds": rounds,
            "mean": [value * (1 - math.exp(-r / 4)) for r in rounds],
            "std": [0.01] * len(rounds),
        },
    }


@pytest.fixture
def write_comparison_file(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes ``comparison.json`` for methods x objectives x synthesis."""

    def write(
        methods: tuple[str, ...] = ("fedavg", "fedprox", "scaffold"),
        objectives: tuple[str, ...] = ("info_nce",),
        seeds: int = 3,
        task: str = "retrieval",
    ) -> Path:
        gains = {"off": 0.0, "on": 0.14, "oracle": 0.17} if task == "retrieval" else {"off": 0.0}
        rows = [
            row_of(method, objective, mode, 0.31 + 0.02 * m + 0.05 * o + gain, seeds, task)
            for m, method in enumerate(methods)
            for o, objective in enumerate(objectives)
            for mode, gain in gains.items()
        ]
        closed = [
            {"method": method, "objective": objective, "map": 0.14 / 0.17, "r10": 0.5}
            for method in methods
            for objective in objectives
        ]
        _write_json(tmp_path / "comparison.json", {"rows": rows, "gap_closed": closed})
        return tmp_path

    return write

"""The main job as a newcomer meets it: how long it takes, and that it repeats itself.

    PYTHONPATH=bench .venv/bin/python -m studies.main_job

Runs the default configuration (FedAvg with synthesis on glyphs) in fresh processes: once for
time, again for byte-equality of ``metrics.jsonl`` (but for times), and with other values of
``engine.stack`` for the largest difference of any metric of any round. Writes
``bench/results/main_job.jsonl``.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import results
from fedsyn.federation import records
from machine import facts

STACKS = (1, 3, 10)


def main() -> None:
    """Measure and publish."""
    with tempfile.TemporaryDirectory() as folder:
        runs = {name: train(Path(folder) / name, stack) for name, stack in plan().items()}
    first = runs["stack 10"]
    row = {
        "import_s": import_seconds(),
        "wall_s": first["wall"],
        "training_s": first["seconds"],
        "map": first["map"],
        "recall@10": first["recall@10"],
        "same_seed_same_rounds": first["rounds"] == runs["again"]["rounds"],
        "largest_metric_difference": {
            name: difference(first["rounds"], run["rounds"])
            for name, run in runs.items()
            if name != "stack 10"
        },
    }
    results.publish("main_job", facts(), [row])


def plan() -> dict[str, int]:
    """The runs by name, with their stack."""
    return {f"stack {stack}": stack for stack in reversed(STACKS)} | {"again": 10}


def train(out: Path, stack: int) -> dict[str, Any]:
    """One default run in a process of its own."""
    start = time.perf_counter()
    command = ["run", "--quiet", "--out", str(out), f"engine.stack={stack}"]
    subprocess.run([sys.executable, "-m", "fedsyn", *command], check=True)
    wall = time.perf_counter() - start
    summary = json.loads((out / records.SUMMARY).read_text())
    lines = (out / records.METRICS).read_text().splitlines()
    rounds = [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]
    metrics = {name: summary["metrics"][name] for name in ("map", "recall@10")}
    return {"wall": wall, "seconds": summary["seconds"], **metrics, "rounds": rounds}


def difference(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> float:
    """The largest difference of any retrieval metric but ranks, over all rounds."""
    return max(
        float(abs(a["metrics"][name] - b["metrics"][name]))
        for a, b in zip(one, other, strict=True)
        for name in a["metrics"]
        if not name.startswith("median_rank")
    )


def import_seconds(repeats: int = 9) -> dict[str, float]:
    """What imports add to torch's, in fresh processes (medians): the package, and what runs use."""
    code = """
import sys, time, torch
times = [time.perf_counter()]
import fedsyn
times.append(time.perf_counter())
fedsyn.run, fedsyn.load_config
times.append(time.perf_counter())
sys.stdout.write(f"{times[1] - times[0]} {times[2] - times[1]}")
"""
    command = [sys.executable, "-c", code]
    spent = [
        list(map(float, subprocess.run(command, capture_output=True, check=True).stdout.split()))
        for _ in range(repeats)
    ]
    package, runs = (statistics.median(column) for column in zip(*spent, strict=True))
    return {"fedsyn": package, "then fedsyn.run": runs}


if __name__ == "__main__":
    main()

"""One measurement: a system in a fresh process on files made before."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from simulator.memory import Peak
from simulator.workload import Task, command_line, write

BENCH = Path(__file__).parent.parent
SYSTEMS = ("fedsyn", "loop", "pfl", "flower")


@dataclass(frozen=True)
class Case:
    """A workload of some size."""

    workload: str
    clients: int
    pairs: int
    rounds: int
    seed: int = 0
    extra: Sequence[str] = field(default=())  # overrides, for fedsyn only
    device: str = "cpu"


@dataclass(frozen=True)
class Layout:
    """How a system uses the cores."""

    processes: int
    threads: int  # of each process


def layouts(system: str, workload: str) -> list[Layout]:
    """The layouts that are tried; the fastest is reported.

    Flower has its two workers in every case. pfl's processes divide the clients anew in every
    round, so that what synthesis keeps on a client allows only one.
    """
    if system == "loop":
        return [Layout(1, 1), Layout(1, 2)]
    if system == "pfl":
        several = [Layout(2, 1)] if workload == "local" else []
        return [Layout(1, 1), Layout(1, 2), *several]
    return [Layout(1, 2)]


class SystemFailedError(Exception):
    """A system did not finish; the message is the end of what it said."""


def measure(system: str, case: Case, layout: Layout, python: str, data: Path) -> dict[str, Any]:
    """Run one system once; times of its rounds, peak memory and metric."""
    with tempfile.TemporaryDirectory() as folder:
        result, said = Path(folder, "result.json"), Path(folder, "said")
        task = Task(
            case.workload, case.clients, case.pairs, case.rounds, layout.threads, case.seed,
            str(data), str(result), list(case.extra), case.device,
        )  # fmt: skip
        # The workers of Ray and of torch find this package by the path.
        path = os.pathsep.join(filter(None, (str(BENCH), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": path, "FLWR_HOME": folder}
        if system != "fedsyn":  # which divides the cores itself
            environment["OMP_NUM_THREADS"] = str(layout.threads)
        with said.open("wb") as output:
            process = subprocess.Popen(
                command(system, task, layout, python),
                env=environment, cwd=folder, stdout=output, stderr=output,
            )  # fmt: skip
            peak = Peak(process)
            status = peak.wait()
        if status or not result.exists():
            raise SystemFailedError(said.read_text(errors="replace")[-2000:])
        found = json.loads(result.read_text())
    ends = found["ends"]
    laps = [after - before for before, after in pairwise(ends)]
    return {
        "workload": case.workload,
        "system": system,
        "clients": case.clients,
        "pairs": case.pairs,
        "rounds": case.rounds,
        **asdict(layout),
        "seconds_round": statistics.median(laps),
        "seconds_rounds": laps,
        "first_round_s": ends[0],
        "peak_mib": peak.mib,
        "metric": found["metric"],
        "versions": found["versions"],
    }


def command(system: str, task: Task, layout: Layout, python: str) -> list[str]:
    """The command line of a system."""
    module = {"loop": "simulator.loop"}.get(system, f"simulator.{system}_system")
    launcher = ["-m", module]
    if layout.processes > 1:
        several = ["--standalone", f"--nproc-per-node={layout.processes}"]
        launcher = ["-m", "torch.distributed.run", *several, *launcher]
    return [python, *launcher, command_line(task)]


def fastest(system: str, case: Case, python: str, data: Path, all_layouts: bool) -> dict[str, Any]:
    """The best of the layouts by the median round; the others' medians are kept beside it."""
    tried = layouts(system, case.workload)[: None if all_layouts else 1]
    found = [measure(system, case, layout, python, data) for layout in tried]
    best = min(found, key=lambda row: row["seconds_round"])
    others = {f"{row['processes']}x{row['threads']}": row["seconds_round"] for row in found}
    return {**best, "processes_x_threads": others}


def python_of(system: str, peers: str) -> str:
    """The interpreter of a system: the frameworks live in an environment of their own."""
    return peers if system in ("pfl", "flower") else sys.executable


def made(folder: Path, clients: int, pairs: int) -> Path:
    """The folder with the pairs of a case, made if absent."""
    data = folder / f"{clients}x{pairs}"
    if not data.exists():
        write(data, clients, pairs)
    return data

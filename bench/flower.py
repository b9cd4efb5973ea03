"""What a round costs on real nodes: Flower on the loopback, with TLS and authentication.

    make bench-flower      # some minutes; bench/results/flower.jsonl

Each case runs over nodes and in one process, which must find the same. *Overhead* is what a round
takes longer over nodes; on one machine the nodes share its cores, so it is the most it can be.
"""

import argparse
import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import results
from fedsyn.deployment.cluster import commands
from fedsyn.deployment.flower import project, runs
from fedsyn.federation import config as configuration
from fedsyn.federation import records
from fedsyn.federation.runner import Silent, run
from machine import facts

PORT = 23_480
CASES: dict[str, tuple[int, list[str]]] = {
    # nodes, and what differs from the default configuration on three clients
    "three silos, without synthesis": (3, ["synthesis.enabled=false"]),
    "three silos": (3, []),  # one exchange a round
    "three silos, steps on the server and a line search": (  # two
        3,
        ["synthesis.server_steps=40", "synthesis.line_search=[0, 0.25, 0.5, 0.75, 1]"],
    ),
    "three silos, 64 MB models": (
        3,
        ["synthesis.enabled=false", "model.hidden=[4096, 1800]", "run.rounds=3"],
    ),
    "1,000 silos on four nodes": (
        4,
        [
            *("partition.clients=1000", "partition.scheme=iid", "partition.min_size=2"),
            *("synthesis.enabled=false", "data.name=", "data.path={pairs}"),
        ],
    ),
    "1,000 silos on four nodes, with synthesis": (
        4,
        [
            *("partition.clients=1000", "partition.scheme=iid", "partition.min_size=2"),
            *("data.name=", "data.path={pairs}", "synthesis.prototypes=8", "synthesis.noise=16"),
        ],
    ),
}
COMMON = ["partition.clients=3", "run.rounds=6"]
console = Console(stderr=True)


def main() -> None:
    """Measure all cases, or those asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="a part of the names of cases")
    parser.add_argument("--out", type=Path, default=results.FOLDER / "flower.jsonl")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        pairs = made(Path(folder) / "pairs.npz")
        for number, (name, (nodes, words)) in enumerate(CASES.items()):
            if arguments.only in (None, "") or arguments.only in name:
                console.print(name)
                overrides = [word.format(pairs=pairs) for word in (*COMMON, *words)]
                where = Path(folder) / str(number)
                rows.append({"case": name, "nodes": nodes, **measure(where, nodes, overrides)})
                show(rows)
    found = facts()
    found["versions"]["flwr"] = version("flwr")
    results.write(arguments.out, {results.ABOUT: [found], "row": rows})


def made(path: Path) -> Path:
    """40,000 pairs of 64 and 64 features in ten classes."""
    draw = np.random.default_rng(0)
    label = draw.integers(0, 10, 40_000)
    hidden = draw.normal(size=(10, 8))[label] * 2 + draw.normal(size=(40_000, 8))
    image, text = (
        (hidden @ draw.normal(size=(8, 64)) + draw.normal(size=(40_000, 64))).astype(np.float32)
        for _ in range(2)
    )
    np.savez(path, image=image, text=text, label=label)
    return path


def measure(folder: Path, nodes: int, overrides: list[str]) -> dict[str, Any]:
    """Both runs, compared."""
    config = configuration.load(None, [*overrides, f"flower.nodes={nodes}", "engine.threads=1"])
    here = folder / "here"
    run(config, here)
    where = project.create(folder / "federation", config, nodes)
    commands.up(where, port=PORT)
    try:
        submitted = runs.submit(where, [], folder / "there", resume=False)
        end = runs.follow(where, submitted, Silent())
    finally:
        commands.down(where)
    if end.state != "done" or end.missing:
        raise RuntimeError(f"{end.state}: {end.error}; missing: {end.missing}")
    one, other = (read(out) for out in (here, folder / "there"))
    apart = max(
        abs(a["metrics"]["map"] - b["metrics"]["map"]) for a, b in zip(one, other, strict=True)
    )
    return {
        "clients": config.partition.clients,
        "rounds": config.run.rounds,
        "seconds_local": typical(one),
        "seconds_nodes": typical(other),
        "seconds_start_local": sum(one[0]["seconds"].values()),
        "seconds_start_nodes": sum(other[0]["seconds"].values()),
        "bytes_up": median(row["bytes_up"] for row in other[2:]),
        "bytes_down": median(row["bytes_down"] for row in other[2:]),
        "bytes_up_start": other[0]["bytes_up"],
        "bytes_down_start": other[0]["bytes_down"],
        "map_apart": apart,
    }


def read(out: Path) -> list[dict[str, Any]]:
    """The rows of a run: the start, and the rounds."""
    return [json.loads(line) for line in (out / records.METRICS).read_text().splitlines()]


def typical(rows: list[dict[str, Any]]) -> float:
    """Seconds of a round but the first, sent no pairs yet, and the last, which is judged apart."""
    return float(median(sum(row["seconds"].values()) for row in rows[2:-1]))


def show(rows: list[dict[str, Any]]) -> None:
    table = Table("case", "local s", "nodes s", "overhead s", "MB up", "MB down", "mAP apart")
    for row in rows:
        over = row["seconds_nodes"] - row["seconds_local"]
        table.add_row(
            row["case"], f"{row['seconds_local']:.2f}", f"{row['seconds_nodes']:.1f}",
            f"{over:.1f}", f"{row['bytes_up'] / 1e6:.2f}", f"{row['bytes_down'] / 1e6:.2f}",
            f"{row['map_apart']:.1e}",
        )  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    main()

"""Simulators side by side: the same federated rounds in fedsyn, a plain loop, pfl and Flower.

    make bench-simulator                                            # everything
    PYTHONPATH=bench .venv/bin/python -m simulator --help           # parts of it

Every measurement runs in a fresh process, one after another. Rows are merged into
``bench/results/simulator.jsonl`` as they are made, so a part can be measured again, and an
interrupted run goes on with ``--missing``. docs/simulator.md says what is measured and how.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import results
from machine import facts
from results import ABOUT, Row
from simulator import arithmetic, plot
from simulator.measure import (
    SYSTEMS,
    Case,
    Layout,
    SystemFailedError,
    fastest,
    made,
    measure,
    python_of,
)

ROOT = Path(__file__).parent.parent.parent
RESULTS = results.FOLDER / "simulator.jsonl"
IMAGES = ROOT / "docs" / "images"
PEERS = ROOT / ".venv" / "simulator-peers" / "bin" / "python"
Result = dict[str, list[Row]]  # lines by kind

# Fewer rounds where they are long: the median is of the rounds after the first.
CASES = (
    Case("local", 10, 320, 20),
    Case("local", 100, 320, 20),
    Case("local", 1000, 320, 6),
    Case("local", 1000, 50, 6),
    Case("synthesis", 10, 320, 8),
    Case("synthesis", 100, 320, 5),
    Case("synthesis", 1000, 320, 3),
)
ONLY_FEDSYN = CASES[-1]  # the others would take most of an hour
QUICK = (Case("local", 4, 320, 2), Case("synthesis", 4, 320, 2))
AGREEMENT = 0.05  # largest difference of the metric that two seeds may make
WIDE = 120  # columns where the output is a file
# Sampled clients of many: the cost of a round against their number, and what the others weigh.
CROWD, CROWD_PAIRS, CROWD_ROUNDS, CROWD_STACK = 10_000, 50, 5, 8
CROWD_MEMORY = 64  # engine.memory: MiB of features, and of clients' state, that are not in files
SAMPLED = (100, 250, 500, 1000)


def main() -> None:
    """Measure what is asked for, write, show and draw."""
    arguments = parse()
    systems, workloads = arguments.systems.split(","), arguments.workloads.split(",")
    # Not resolved: a virtual environment's python is a link, and known by where the link lies.
    peers = str(Path(arguments.peers).absolute())
    console = Console(width=None if sys.stdout.isatty() else WIDE)
    failures = []
    result: Result = {ABOUT: [{"versions": {}}], "row": [], "arithmetic": []}
    if arguments.out.exists() and not arguments.quick:
        result |= results.read(arguments.out)
    folder = Path(tempfile.mkdtemp(prefix="simulator-"))
    try:
        for system, case in jobs(arguments, systems, workloads, result):
            console.print(
                f"{case.workload}, {case.clients} clients with {case.pairs} pairs: {system}"
            )
            data = made(folder, case.clients, case.pairs)
            python = python_of(system, peers)
            try:
                row = fastest(system, case, python, data, all_layouts=not arguments.quick)
            except SystemFailedError as failure:
                failures.append(f"{system}, {case.workload}, {case.clients}: {failure}")
                continue
            add(result, row)
            write(result, arguments)
        known = arguments.missing and "memory" in result
        if "crowd" in workloads and "fedsyn" in systems and not (arguments.quick or known):
            console.print(f"fedsyn: some of {CROWD} clients")
            result |= crowd(folder)
            write(result, arguments)
    finally:
        shutil.rmtree(folder)
    show(result, console)
    if arguments.out == RESULTS and not arguments.quick:
        plot.draw(result, IMAGES)
    failures += disagreements(result["row"])
    for said in failures:
        console.print(said, style="red", markup=False)
    sys.exit(bool(failures))


def parse() -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(prog="simulator", description=__doc__.splitlines()[0])
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--workloads", default="local,synthesis,crowd")
    parser.add_argument("--clients", default="10,100,1000")
    parser.add_argument("--rounds", type=int, help="instead of each case's own number; 2 or more")
    parser.add_argument("--missing", action="store_true", help="only rows that are not there yet")
    parser.add_argument("--quick", action="store_true", help="4 clients, 2 rounds; nothing is kept")
    parser.add_argument("--device", default="cpu", help="of fedsyn and the loop, e.g. cuda")
    parser.add_argument("--fedsyn", nargs="*", default=[], help="key=value, overrides for fedsyn")
    parser.add_argument("--out", type=Path, default=RESULTS, help="result file to write or add to")
    parser.add_argument("--peers", default=str(PEERS), help="python with pfl and flwr")
    arguments = parser.parse_args()
    if arguments.rounds is not None and arguments.rounds < 2:
        parser.error("--rounds: expected 2 or more; the first round is not in the median")
    return arguments


def jobs(
    arguments: argparse.Namespace, systems: list[str], workloads: list[str], result: Result
) -> Iterator[tuple[str, Case]]:
    """What to measure, in the order in which it is."""
    clients = [int(number) for number in arguments.clients.split(",")]
    there = {key(row) for row in result["row"]} if arguments.missing else set()
    cases = QUICK if arguments.quick else [case for case in CASES if case.clients in clients]
    for case in cases:
        rounds = arguments.rounds or case.rounds
        for system in systems:
            known = (case.workload, system, case.clients, case.pairs) in there
            alone = case == ONLY_FEDSYN and system != "fedsyn"
            if case.workload in workloads and not known and not alone:
                yield (
                    system,
                    replace(case, rounds=rounds, device=arguments.device, extra=arguments.fedsyn),
                )


def key(row: Row) -> tuple[Any, ...]:
    """What a row is about."""
    return tuple(row[name] for name in ("workload", "system", "clients", "pairs"))


def add(result: Result, row: Row) -> None:
    """Put a row, with its overhead, in the place of the one before."""
    row["overhead_ms_client"] = None
    if row["workload"] == "local":
        known = {line["pairs"]: line["seconds_client"] for line in result["arithmetic"]}
        pairs = row["pairs"]
        if pairs not in known:
            known[pairs] = arithmetic.client_seconds(pairs)
            result["arithmetic"].append({"pairs": pairs, "seconds_client": known[pairs]})
        overhead = row["seconds_round"] / row["clients"] - known[pairs]
        row["overhead_ms_client"] = 1000 * overhead
    result[ABOUT][0]["versions"] |= row.pop("versions")
    rows = [old for old in result["row"] if key(old) != key(row)]
    order = {name: place for place, name in enumerate(SYSTEMS)}
    result["row"] = sorted(
        [*rows, row],
        key=lambda r: (r["workload"], -r["pairs"], r["clients"], order[r["system"]]),
    )


def write(result: Result, arguments: argparse.Namespace) -> None:
    """Write the file anew, with the machine and the date of this part."""
    result[ABOUT] = [{**facts(), "versions": result[ABOUT][0]["versions"]}]
    if not arguments.quick:
        results.write(arguments.out, result)


def crowd(folder: Path) -> Result:
    """A round of fedsyn against the clients sampled of many, and what the others weigh.

    ``memory`` compares as many clients in a round, once sampled out of many and once all there are,
    at the same ``engine.stack`` and ``engine.memory``; ``data_mib`` is what the features of all
    pairs take by themselves.
    """
    few = SAMPLED[0]
    return {
        "linearity": [sampled(folder, "local", CROWD, number) for number in SAMPLED],
        "memory": [
            sampled(folder, workload, clients, few)
            for workload in ("local", "synthesis")
            for clients in (few, CROWD)
        ],
    }


def sampled(folder: Path, workload: str, clients: int, number: int) -> Row:
    """Rounds of ``number`` clients, sampled out of ``clients``."""
    extra = (
        f"run.fraction={number / clients}",
        f"engine.stack={CROWD_STACK}",
        f"engine.memory={CROWD_MEMORY}",
    )
    case = Case(workload, clients, CROWD_PAIRS, CROWD_ROUNDS, extra=extra)
    data = made(folder, clients, CROWD_PAIRS)
    row = measure("fedsyn", case, Layout(1, 2), sys.executable, data)
    size = sum((data / f"{part}.npy").stat().st_size for part in ("image", "text"))
    row |= {"sampled": number, "stack": CROWD_STACK, "data_mib": size / 2**20}
    row |= {"memory_mib": CROWD_MEMORY}
    names = ("workload", "clients", "sampled", "pairs", "stack", "memory_mib", "seconds_round")
    return {name: row[name] for name in (*names, "first_round_s", "peak_mib", "data_mib")}


def show(result: Result, console: Console) -> None:
    """The rows as a table; ratios are to fedsyn's round."""
    own = {
        (row["workload"], row["clients"], row["pairs"]): row["seconds_round"]
        for row in result["row"]
        if row["system"] == "fedsyn"
    }
    table = Table(
        *("workload", "clients", "pairs", "system", "layout", "s a round", "ratio", "first, s"),
        *("overhead, ms", "peak, MiB", "recall"),
        title="layout: processes by threads; ratio: to fedsyn's round; overhead: a client",
        title_justify="left",
    )
    for row in result["row"]:
        base = own.get((row["workload"], row["clients"], row["pairs"]))
        overhead = row["overhead_ms_client"]
        table.add_row(
            *(row["workload"], str(row["clients"]), str(row["pairs"]), row["system"]),
            f"{row['processes']} by {row['threads']}",
            f"{row['seconds_round']:.3g}",
            "" if base is None else f"{row['seconds_round'] / base:.2f}",
            f"{row['first_round_s']:.3g}",
            "" if overhead is None else f"{overhead:.2f}",
            f"{row['peak_mib']:.0f}",
            f"{row['metric']:.3f}",
        )
    console.print(table)


def disagreements(rows: list[Row]) -> list[str]:
    """Where a system's metric is not that of the plain loop."""
    loops = {
        (row["workload"], row["clients"], row["pairs"], row["rounds"]): row["metric"]
        for row in rows
        if row["system"] == "loop"
    }
    found = []
    for row in rows:
        case = (row["workload"], row["clients"], row["pairs"], row["rounds"])
        metric = loops.get(case, row["metric"])
        if abs(row["metric"] - metric) > AGREEMENT:
            found.append(f"{row['system']}: recall@10 {row['metric']:.3f}, the loop's {metric:.3f}")
    return found


if __name__ == "__main__":
    main()

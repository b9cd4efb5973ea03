"""Whether a change makes the simulator slower: two checkouts in turn, on the same pairs.

    PYTHONPATH=bench .venv/bin/python bench/old_and_new.py OLD NEW [--turns 8]

OLD and NEW are checkouts, each with its own ``.venv``. In every turn both do the same rounds of 100
clients, in a fresh process each, the one first in even turns and the other in odd ones; a row is a
workload's ratio of seconds a round, NEW over OLD, with the interval of its mean over turns. Both
must come to the same metric, to the last digit. Written to ``bench/results/old_and_new.jsonl``.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import results
from machine import facts
from results import ABOUT
from simulator.measure import Case, Layout, made, measure
from studies.trials.arithmetic import interval

RESULTS = results.FOLDER / "old_and_new.jsonl"
CASES = (Case("local", 100, 320, 20), Case("synthesis", 100, 320, 5))
SLOWER = 0.05  # that is allowed


def main() -> int:
    """Measure both in turn, write and print the ratios; 1 where NEW is slower than allowed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkouts", nargs=2, type=Path, metavar="OLD NEW")
    parser.add_argument("--turns", type=int, default=8)
    given = parser.parse_args()
    pythons = [
        str(checkout.absolute() / ".venv" / "bin" / "python") for checkout in given.checkouts
    ]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            data = made(Path(folder), case.clients, case.pairs)
            rows.append(_row(case, data, pythons, given.turns))
            print(_said(rows[-1]), flush=True)
    results.write(RESULTS, {ABOUT: [facts()], "row": rows})
    return int(any(row["ratio"] > 1 + SLOWER for row in rows))


def _row(case: Case, data: Path, pythons: list[str], turns: int) -> dict[str, Any]:
    """Both checkouts in turn on one workload."""
    found: list[list[dict[str, Any]]] = [[], []]
    for turn in range(turns):
        for which in (0, 1) if turn % 2 == 0 else (1, 0):
            row = measure("fedsyn", case, Layout(1, 2), pythons[which], data)
            found[which].append(row)
    if len({row["metric"] for rows in found for row in rows}) != 1:
        sys.exit(f"{case.workload}: the checkouts come to different metrics")
    old, new = ([row["seconds_round"] for row in rows] for rows in found)
    ratios = [mine / theirs for mine, theirs in zip(new, old, strict=True)]
    effect = interval(ratios)
    return {
        "workload": case.workload, "clients": case.clients, "pairs": case.pairs,
        "rounds": case.rounds, "turns": turns, "old_s": statistics.median(old),
        "new_s": statistics.median(new), "ratio": effect["mean"], "ratio_ci95": effect["half"],
        "ratios": ratios, "old_mib": statistics.median(row["peak_mib"] for row in found[0]),
        "new_mib": statistics.median(row["peak_mib"] for row in found[1]),
        "metric": found[0][0]["metric"],
    }  # fmt: skip


def _said(row: dict[str, Any]) -> str:
    return (
        f"{row['workload']:<10} {row['clients']} clients: {row['old_s']:.4f} s a round before, "
        f"{row['new_s']:.4f} now, ratio {row['ratio']:.3f} ± {row['ratio_ci95']:.3f}; "
        f"{row['old_mib']:.0f} and {row['new_mib']:.0f} MiB; recall@10 {row['metric']:.4f}"
    )


if __name__ == "__main__":
    sys.exit(main())

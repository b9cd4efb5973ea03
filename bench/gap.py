"""How much of the gap to the oracle synthesis closes, on real data, over seeds.

    python bench/gap.py [--data DIR] [--seeds 3] [--alphas 0.1,1.0] [--only glyphs,emoji]

Runs FedAvg without synthesis, with it, and with the oracle (the server fine-tunes on the pooled
real pairs) on the embedded glyphs and on the files of ``--data`` that are there, and writes
``bench/results/gap.json``. Interrupted, it goes on where it stopped.
"""

import argparse
from pathlib import Path
from typing import Any

from machine import facts
from rich.console import Console
from rich.table import Table

from fedsyn import config
from fedsyn.engine import compare, records

HERE = Path(__file__).parent
# Overrides that say which arrays of a file are the pairs; nothing about training differs.
FILES = {
    "emoji": ("emoji/emoji.npz", []),
    "uci_mfeat": ("uci_mfeat/uci_mfeat.npz", []),
    "wikipedia": ("wikipedia/wikipedia.npz", ["data.text=text_tfidf"]),
    "wikipedia-lda": ("wikipedia/wikipedia.npz", []),
}


def sources(folder: Path) -> dict[str, list[str]]:
    """The data sets that are there, as overrides."""
    found: dict[str, list[str]] = {"glyphs": []}
    for name, (file, overrides) in FILES.items():
        if (folder / file).exists():
            found[name] = [f"data.path={folder / file}", *overrides]
    return found


def measure(
    name: str, overrides: list[str], alpha: float, seeds: int, runs: Path
) -> list[dict[str, Any]]:
    """One row a synthesis mode, and the gap closed on each."""
    base = config.load(None, [*overrides, f"partition.alpha={alpha}"])
    out = runs / f"{name}-{alpha}"
    jobs = compare.plan(base, out, ["fedavg"], ["info_nce"], compare.MODES, seeds)
    result = compare.compare(jobs, out)
    gap = result["gap_closed"][0]
    rows = []
    for row in result["rows"]:
        kept = {key: value for key, value in row.items() if key not in ("curve", "map_runs")}
        rows.append({"data": name, "alpha": alpha, **kept, "gap_closed": gap})
    return rows


def main() -> None:
    """Measure, write and show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--runs", type=Path, default=HERE.parent / "runs" / "gap")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--alphas", default="0.1,1.0")
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    only = [name for name in arguments.only.split(",") if name]
    rows = []
    for name, overrides in sources(arguments.data).items():
        if only and name not in only:
            continue
        for alpha in map(float, arguments.alphas.split(",")):
            rows += measure(name, overrides, alpha, arguments.seeds, arguments.runs)
            records.write_json(HERE / "results" / "gap.json", {**facts(), "rows": rows})
    show(rows)


def show(rows: list[dict[str, Any]]) -> None:
    """The table: mAP of the best round, mean ± standard deviation over seeds."""
    table = Table("data", "Dirichlet", "off", "on", "oracle", "gap closed: best", "selected")
    for name, alpha in dict.fromkeys((row["data"], row["alpha"]) for row in rows):
        mine = {r["synthesis"]: r for r in rows if (r["data"], r["alpha"]) == (name, alpha)}
        cells = [f"{r['best_map_mean']:.4f} ± {r['best_map_std']:.4f}" for r in mine.values()]
        gap = mine["on"]["gap_closed"]
        shares = ["-" if gap[key] is None else f"{gap[key]:.2f}" for key in ("best", "value")]
        table.add_row(name, str(alpha), *cells, *shares)
    Console().print(table)


if __name__ == "__main__":
    main()

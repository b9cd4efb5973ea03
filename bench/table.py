"""The figures of ``make bench`` as one table: medians, ratios, peak memory and errors."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def rows(results: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row a contender; the ratio is its median over the kernel's of the same group."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for benchmark in results["benchmarks"]:
        groups.setdefault(benchmark["group"], []).append(benchmark)
    found = []
    for group, members in groups.items():
        members.sort(key=lambda member: member["params"]["name"] != "kernel")
        own = members[0]["stats"]["median"]
        for position, member in enumerate(members):
            median, extra = member["stats"]["median"], member["extra_info"]
            error = extra.get("gradient_error", extra.get("error"))
            found.append(
                (
                    "" if position else group,
                    member["params"]["name"],
                    f"{median * 1e3:.3g}",
                    f"{median / own:.2f}",
                    "" if "peak_mib" not in extra else f"{extra['peak_mib']:.0f}",
                    "" if error is None else f"{error:.1e}",
                )
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="JSON of pytest-benchmark")
    path = parser.parse_args().results
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        sys.exit(f"{path}: {error}")
    title = f"{results['date']}, {results['machine']}, torch {results['versions']['torch']}"
    table = Table(title=title)
    for column in ("operator and size", "by", "median ms", "times the kernel", "peak MiB", "error"):
        table.add_column(
            column, justify="left" if column in ("operator and size", "by") else "right"
        )
    for row in rows(results):
        table.add_row(*row, end_section=False)
    Console().print(table)


if __name__ == "__main__":
    main()

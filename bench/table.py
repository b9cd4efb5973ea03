"""The figures of ``make bench`` as one table: medians, ratios, peak memory and errors."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

import results
from results import ABOUT, ResultError, Row


def lines_of(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """One line a contender; the ratio is its median over the kernel's of the same group."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    found: list[tuple[str, ...]] = []
    for group, members in groups.items():
        members.sort(key=lambda member: member["params"]["name"] != "kernel")
        own = members[0]["median"]
        for position, member in enumerate(members):
            median, extra = member["median"], member["extra_info"]
            error = extra.get("gradient_error")
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
    parser.add_argument("results", type=Path, help="what `pytest bench --results` has written")
    try:
        lines = results.read(parser.parse_args().results)
    except ResultError as error:
        sys.exit(str(error))
    (about,) = lines[ABOUT]
    title = f"{about['date']}, {about['machine']}, torch {about['versions']['torch']}"
    table = Table(title=title)
    for column in ("operator and size", "by", "median ms", "times the kernel", "peak MiB", "error"):
        table.add_column(
            column, justify="left" if column in ("operator and size", "by") else "right"
        )
    for line in lines_of(lines["row"]):
        table.add_row(*line)
    Console().print(table)


if __name__ == "__main__":
    main()

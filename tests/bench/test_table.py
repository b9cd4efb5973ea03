"""The table of ``make bench``."""

import results
from table import lines_of


def row(group, name, median, **extra):
    return {
        "group": group, "params": {"name": name, "size": [1, 2]}, "median": median,
        "extra_info": {"peak_mib": 1.0, **extra},
    }  # fmt: skip


def test_contenders_are_told_beside_the_kernel_of_their_group():
    rows = [row("a", "eager", 0.002), row("b", "kernel", 1.0), row("a", "kernel", 0.001)]
    assert lines_of(rows) == [
        ("a", "kernel", "1", "1.00", "1", ""),
        ("", "eager", "2", "2.00", "1", ""),
        ("b", "kernel", "1e+03", "1.00", "1", ""),
    ]
    (line,) = lines_of([row("a", "kernel", 0.001, gradient_error=1.23e-7)])
    assert line[-1] == "1.2e-07"


def test_the_stored_benchmarks_make_a_table():
    rows = results.read(results.FOLDER / "operators.jsonl")["row"]
    assert len(lines_of(rows)) == len(rows)

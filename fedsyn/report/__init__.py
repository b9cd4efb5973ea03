"""Showing a run: tables, plots and a self-contained page, made from the files of its directory."""

from fedsyn.report.comparison import write_comparison
from fedsyn.report.files import parse_partition, read_comparison, read_run
from fedsyn.report.html import write

__all__ = [
    "parse_partition",
    "read_comparison",
    "read_run",
    "write",
    "write_comparison",
]

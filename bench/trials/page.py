"""Pages of Markdown out of rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fedsyn.report import tables
from trials.arithmetic import Row


def render(template: Path, **values: Any) -> str:
    """The template with these values."""
    environment = Environment(
        loader=FileSystemLoader(template.parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown
    )
    return environment.get_template(template.name).render(**values)


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """As Markdown."""
    every = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in every)


def several(rows: Sequence[Row], name: str) -> str:
    """A number and what is counted, or all numbers that there are."""
    *others, last = map(str, sorted({row[name] for row in rows}))
    return (f"{', '.join(others)} or " if others else "") + f"{last} {name}"


def hours(rows: Sequence[Row]) -> str:
    """Seconds of all runs, each once."""
    seconds = {tuple(row["runs"]): row["seeds"] * row["seconds_mean"] for row in rows}
    return tables.seconds(sum(seconds.values()))

"""Pages of Markdown out of rows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fedsyn.report import tables
from studies.trials.arithmetic import Row


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
    """A table of texts as Markdown."""
    every = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in every)


def several(rows: Sequence[Row], name: str) -> str:
    """A number and what is counted, or all numbers that there are."""
    *others, last = map(str, sorted({row[name] for row in rows}))
    return (f"{', '.join(others)} or " if others else "") + f"{last} {name}"


def measured(studies: Mapping[str, Mapping[str, Any]]) -> str:
    """When, on what and by which program: of all studies, or a line for each different answer."""
    names: dict[str, list[str]] = {}
    for study, facts in studies.items():
        versions, device = facts["versions"], facts["device"]
        place = facts["machine"] + ("" if device == "cpu" else f", {device}")
        program = f"fedsyn {versions['fedsyn']} ({facts['code']}), PyTorch {versions['torch']}"
        names.setdefault(f"{facts['date']} on {place}; {program}", []).append(study)
    if len(names) == 1:
        return f"Measured {next(iter(names))}."
    lines = [f"* {', '.join(each)}: {said}" for said, each in names.items()]
    return "\n".join(["Not all was measured at once:", "", *lines])


def hours(rows: Sequence[Row]) -> str:
    """Seconds of all runs, each once."""
    seconds = {tuple(row["runs"]): row["seeds"] * row["seconds_mean"] for row in rows}
    return tables.seconds(sum(seconds.values()))

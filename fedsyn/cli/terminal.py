"""What the commands share: options, consoles, progress and tables.

Results go to stdout, progress and errors to stderr.
"""

import json
import signal
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import tomli_w
import typer
from rich.console import Console
from rich.text import Text

from fedsyn.settings import presets
from fedsyn.settings.catalogue import refuse_unknown
from fedsyn.settings.loading import over, read_tree

if TYPE_CHECKING:
    from fedsyn.federation.catalogue import Key
    from fedsyn.federation.config import Config
    from fedsyn.report.tables import Grid

stdout = Console()
stderr = Console(stderr=True)

Settings = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CONFIG.toml] [key=value]...",
        help="A configuration file, and keys that override it: run.rounds=50 method=local "
        "data.path=pairs.npz. Without a file, the defaults. All keys: fedsyn config.",
    ),
]
Preset = Annotated[
    str,
    typer.Option(
        help="Keys that stand between the defaults and yours: "
        f"{', '.join(presets.names())} (docs/synthesis.md)."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no table.")]


def say(message: str) -> None:
    """A sentence for people, on stderr."""
    stderr.print(message, highlight=False, markup=False, soft_wrap=True)


def load(settings: list[str] | None, resumed: Path | None = None, preset: str = "") -> "Config":
    """The configuration of a command line; of the resumed run where it names no file."""
    tree = known(settings, resumed, preset)

    from fedsyn.federation import config as configuration

    return configuration.parse(tree)


def known(
    settings: list[str] | None, resumed: Path | None = None, preset: str = ""
) -> dict[str, Any]:
    """The tree of a command line, whose keys there are; without importing torch.

    A preset's keys stand between the defaults and those that are given.
    """
    words = list(settings or [])
    path: Path | None = None
    if words and "=" not in words[0]:
        path = Path(words.pop(0))
    elif resumed is not None:
        path = resumed / "config.toml"
    tree = read_tree(path, words)
    refuse_unknown(tree)
    return over(presets.read(preset), tree) if preset else tree


def show(*grids: "Grid") -> None:
    """Print tables to stdout, each followed by an empty line."""
    from fedsyn.report.tables import to_rich

    for grid in grids:
        stdout.print(to_rich(grid))
        stdout.print()


def put_lines(*lines: object) -> None:
    """Lines on stdout, as they are."""
    for line in lines:
        stdout.print(str(line), highlight=False, markup=False, soft_wrap=True)


def put_keys(keys: "Iterable[Key]") -> None:
    """Keys on stdout, as TOML whose comments say what they are for; section by section."""
    section = ""
    for key in keys:
        parent, _, name = key.path.rpartition(".")
        if parent != section:
            section = parent
            stdout.print(Text(f"\n[{section}]", style="bold"))
        comment = key.description + (f" ({', '.join(key.choices)})" if key.choices else "")
        for line in textwrap.wrap(comment, max(40, stdout.width - 2)):
            stdout.print(Text(f"# {line}", style="dim"))
        stdout.print(Text(tomli_w.dumps({name: key.value}).strip()))


def show_run(
    out: Path, summary: Mapping[str, Any], quiet: bool, as_json: bool, *more: Path
) -> None:
    """End a run: write its report, then show its summary as JSON, or its tables and files."""
    from fedsyn import report
    from fedsyn.report import tables

    page = report.write(out)
    if as_json:
        typer.echo(json.dumps(summary))
    elif not quiet:
        found = report.read_run(out)
        show(tables.results(found), tables.costs(found))
        put_lines(page, *more)


class RunProgress:
    """A run's progress bar: round, phase, time left, the last value of the task's headline."""

    def __init__(self, bars: Any, config: "Config") -> None:
        self._bars, self._rounds = bars, config.rounds
        self._metrics, self._score = config.plugins.task.metrics, ""
        self._interrupted = False
        self._bar = bars.add_task("data", total=self._rounds)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let Ctrl-C end the run for certain.

        Python drops a KeyboardInterrupt that is raised while it tidies up an object, so the next
        phase raises it again.
        """

        def interrupt(number: int, frame: FrameType | None) -> None:
            self._interrupted = True
            signal.default_int_handler(number, frame)

        before = signal.getsignal(signal.SIGINT)
        if before is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def phase(self, round_number: int, name: str) -> None:
        """A phase of a round begins."""
        if self._interrupted:
            raise KeyboardInterrupt
        where = f"round {round_number}/{self._rounds}" if round_number else "loading"
        self._bars.update(self._bar, description=f"{where}  {name:<9}{self._score}")

    def row(self, row: dict[str, Any]) -> None:
        """Show the headline of a round that is done."""
        metrics = row.get("metrics", {})
        name = self._metrics.headline(metrics)
        if metrics.get(name) is not None:  # read from a file, it is None where it is no number
            self._score = f"  {self._metrics.labels[name]} {metrics[name]:.4f}"
        self._bars.update(self._bar, completed=row["round"])


@contextmanager
def progress(silent: bool) -> Iterator[Any]:
    """Progress bars on stderr; nothing where stderr is not a terminal."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as Left

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), Left())
    off = silent or not stderr.is_terminal
    with Progress(*columns, console=stderr, transient=True, disable=off) as bars:
        yield bars


def grid(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> "Grid":
    """A table of facts; ``None`` is an empty cell."""
    from fedsyn.report.tables import Grid

    def cell(value: Any) -> str:
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

    shown = tuple(tuple("" if v is None else cell(v) for v in row) for row in rows)
    names = tuple(header)
    return Grid(names, shown, words=frozenset(range(len(names))))

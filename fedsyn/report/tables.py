"""The tables of a report, once as plain cells, rendered for the terminal, Markdown or the page."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedsyn.report.files import Comparison, Numbers, Partition, Row, Run
from fedsyn.tasks.retrieval import RetrievalProblem

if TYPE_CHECKING:
    from rich.table import Table

# Headers break at plain spaces only.
_NO_BREAK = "\N{NO-BREAK SPACE}"
ABSENT = "\N{EN DASH}"
SIZES = {
    "pairs": "training pairs",
    "holdout": "held out",
    "images_only": "images only",
    "texts_only": "texts only",
    "test": "test pairs",
}

GAP = (
    " Gap closed, of mAP and of recall: (on - off) / (oracle - off), where the oracle has pooled "
    "real pairs in the place of synthetic ones, which no federation could."
)


@dataclass(frozen=True)
class Grid:
    """A table as text; ``words`` are the columns that are not numbers."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""
    note: str = ""
    words: frozenset[int] = frozenset([0])
    strong: frozenset[int] = frozenset()  # rows to emphasise


def results(run: Run) -> Grid:
    """Every metric of the kept model, beside those of the last and best rounds."""
    scores = run.scores
    columns: list[tuple[str, Numbers, str]] = []
    kept = run.kept
    if kept:
        for title, suffix in scores.sides.items():
            columns.append((title, kept.metrics, suffix))
    clients = {one.number: one.client_metrics for one in run.rounds if one.client_metrics}
    if kept and kept.round in clients:
        columns.append((f"mean{_NO_BREAK}of clients", clients[kept.round], ""))
    compared = ("start", "best") if "start" in run.outcomes else ("last", "best")
    for name in compared:
        if (outcome := run.outcomes.get(name)) and outcome is not kept:
            columns.append((f"{name} ({_round_name(outcome.round)})", outcome.metrics, ""))
    rows = [
        (title, *(metric(name, numbers.get(name + suffix)) for _, numbers, suffix in columns))
        for name, title in scores.labels.items()
        if any(name + suffix in numbers for _, numbers, suffix in columns)
    ]
    return Grid(
        header=("", *(title for title, _, _ in columns)),
        rows=tuple(rows),
        title=f"{scores.title} after {_round_name(kept.round)}" if kept else scores.title,
        note=_results_note(run),
    )


def costs(run: Run) -> Grid:
    """Seconds of each phase and bytes each way, a round and in total."""
    phases = dict.fromkeys(phase for one in run.rounds for phase in one.seconds)
    trained = [one for one in run.rounds if one.number > 0]
    count, rows = max(len(trained), 1), []
    for phase in phases:
        spent = sum(one.seconds.get(phase, 0.0) for one in run.rounds)
        rows.append((phase, seconds(spent / count), seconds(spent)))
    if "seconds" in run.totals:
        total = run.totals["seconds"]
        rows.append(("time in all", seconds(total / count), seconds(total)))
    for way, title in (("up", "clients → server"), ("down", "server → clients")):
        if f"bytes_{way}" not in run.totals:
            continue
        rounds = sum(one.traffic.get(way, 0.0) for one in trained)
        rows.append((title, size(rounds / count), size(rounds)))
        before = run.totals[f"bytes_{way}"] - rounds
        if before > 0:
            rows.append(("… before round 1", ABSENT, size(before)))
    return Grid(
        ("", f"a{_NO_BREAK}round", f"in{_NO_BREAK}total"), tuple(rows), title="Time and traffic"
    )


def who_has_what(partition: Partition, limit: int | None = None) -> Grid:
    """The sizes and most frequent labels of each client, and their sums; at most ``limit`` rows."""
    kinds = [kind for kind in SIZES if any(partition.sizes.get(kind, ()))]
    shown = range(min(partition.clients, limit or partition.clients))
    rows = [
        (str(c), *(f"{partition.sizes[kind][c]:,}" for kind in kinds), frequent(partition, c))
        for c in shown
    ]
    rows.append(("all", *(f"{sum(partition.sizes[kind]):,}" for kind in kinds), ""))
    hidden = partition.clients - len(shown)
    return Grid(
        header=("client", *(SIZES[kind] for kind in kinds), "most frequent labels"),
        rows=tuple(rows),
        title="Who has what",
        note=f"{hidden} more clients not shown" if hidden else "",
        words=frozenset([0, len(kinds) + 1]),
        strong=frozenset([len(rows) - 1]),
    )


def comparison(results: Comparison) -> Grid:
    """One row a setting: mean ± standard deviation over seeds, and the share of the gap closed.

    An objective or a number of seeds that all rows share stands in the title instead; synthesis
    has columns where the task can have it.
    """
    rows, scores = results.rows, results.scores
    columns = {
        "method": [row.method for row in rows],
        "objective": [row.objective for row in rows],
        "synthesis": [row.synthesis for row in rows],
        "seeds": [str(row.seeds) for row in rows],
        **{
            scores.labels[name]: [
                # A terminal has no room for the spread of all.
                _spread_of(row, scores.compared[name], name in (*scores.headlines, *scores.gaps))
                for row in rows
            ]
            for name in scores.columns
        },
        "gap closed": [_gap_closed(row, results) for row in rows],
        "time": [seconds(row.numbers.get("seconds_mean")) for row in rows],
    }
    if not results.of_synthesis:
        del columns["synthesis"], columns["gap closed"]
    shared = []
    for name, unit in (("objective", ""), ("seeds", f"{_NO_BREAK}seeds")):
        if len(set(columns[name])) == 1:
            shared.append(columns.pop(name)[0] + unit)
    words = [i for i, name in enumerate(columns) if name in ("method", "objective", "synthesis")]
    return Grid(
        header=tuple(columns),
        rows=tuple(zip(*columns.values(), strict=True)),
        title=": ".join(["Comparison", *filter(None, [", ".join(shared)])]),
        note="Mean ± standard deviation over seeds." + (GAP if results.of_synthesis else ""),
        words=frozenset(words),
        strong=_best_rows(results),
    )


def to_rich(grid: Grid) -> "Table":
    """The table as a terminal shows it."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(grid.title, style="bold"),
        caption=Text(grid.note, style="dim") if grid.note else None,
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        title_justify="left",
        caption_justify="left",
        pad_edge=False,
    )
    for index, name in enumerate(grid.header):
        words = index in grid.words
        heading = Text(name if words else name.replace(" ", "\n"))
        # Numbers and the names of rows stay whole; a narrow terminal wraps other words.
        table.add_column(
            heading, justify="left" if words else "right", no_wrap=index == 0 or not words
        )
    for index, row in enumerate(grid.rows):
        style = "bold" if index in grid.strong else None
        table.add_row(*(Text(cell) for cell in row), style=style)
    return table


def to_markdown(grid: Grid) -> str:
    """The table as GitHub-flavoured Markdown, its title a heading and its note below."""
    rule = [":---" if index in grid.words else "---:" for index in range(len(grid.header))]
    lines = [_markdown_row(grid.header), _markdown_row(rule)]
    for index, row in enumerate(grid.rows):
        cells = [_escape_markdown(cell) for cell in row]
        if index in grid.strong:
            cells = [f"**{cell}**" if cell else "" for cell in cells]
        lines.append(_markdown_row(cells))
    parts = [f"## {grid.title}"] if grid.title else []
    parts += ["\n".join(lines)] + ([grid.note] if grid.note else [])
    return "\n\n".join(parts) + "\n"


def metric(name: str, value: float | None) -> str:
    """A metric as text: ranks with one decimal, the others with three."""
    if value is None:
        return ABSENT
    return f"{value:,.1f}" if name.startswith("median_rank") else f"{value:.3f}"


def seconds(value: float | None) -> str:
    """A duration in the unit that suits it."""
    if value is None:
        return ABSENT
    if value < 1:
        return f"{value * 1000:.0f}{_NO_BREAK}ms"
    if value < 120:
        return f"{value:.1f}{_NO_BREAK}s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 120:
        return f"{minutes}{_NO_BREAK}min {rest:02d}{_NO_BREAK}s"
    return f"{minutes // 60}{_NO_BREAK}h {minutes % 60:02d}{_NO_BREAK}min"


def size(value: float) -> str:
    """A number of bytes in decimal units, to three digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.3g}{_NO_BREAK}{unit}"
        value /= 1000
    return f"{value:,.0f}{_NO_BREAK}TB"


def spread(mean: float | None, std: float | None, seeds: int) -> str:
    """``mean ± std``; the mean alone where a single seed says nothing about the spread."""
    if mean is None:
        return ABSENT
    if std is None or seeds < 2:
        return f"{mean:.3f}"
    return f"{mean:.3f}{_NO_BREAK}±{_NO_BREAK}{std:.3f}"


def frequent(partition: Partition, client: int, most: int = 2) -> str:
    """The client's most frequent labels with their shares, e.g. ``heart 71%, star 20%``."""
    if client >= len(partition.counts) or not sum(partition.counts[client]):
        return ABSENT
    counts = partition.counts[client]
    order = sorted(range(len(counts)), key=lambda label: -counts[label])[:most]
    return ", ".join(
        f"{partition.labels[label]}{_NO_BREAK}{counts[label] / sum(counts):.0%}"
        for label in order
        if counts[label]
    )


def _round_name(number: int | None) -> str:
    return f"round{_NO_BREAK}{'?' if number is None else number}"


def _results_note(run: Run) -> str:
    notes = []
    pairs = issubclass(run.config.plugins.task.problem, RetrievalProblem)
    if pairs and run.partition and not any(sum(row) for row in run.partition.labelled):
        notes.append("Without labels, only the query's own pair counts as relevant.")
    if any("map50_min" in outcome.metrics for outcome in run.outcomes.values()):
        notes.append(
            "mAP@50 divides by the relevant items among the first 50, its variant min by as many "
            "as could be there."
        )
    if "best" in run.outcomes:
        label = run.scores.labels[run.headline]
        notes.append(f"Best: by the test set's own {label}, so optimistic.")
    if "selected" in run.outcomes:
        by = "pairs, without labels" if pairs else "rows"
        notes.append(f"The round was selected by held-out {by}.")
    if first := next((one.start for one in run.rounds if one.start), ""):
        notes.append(f"All began with the {first}.")
    return " ".join(notes)


def _best_rows(results: Comparison) -> frozenset[int]:
    """The best by the headline, but for the oracle, which sees what no method may."""
    name = f"{results.headline}_mean"
    contenders = {
        i: row.numbers[name]
        for i, row in enumerate(results.rows)
        if row.synthesis != "oracle" and name in row.numbers
    }
    best = max(contenders.values(), default=None)
    return frozenset(i for i, value in contenders.items() if value == best)


def _spread_of(row: Row, name: str, with_deviation: bool) -> str:
    mean, std = (row.numbers.get(f"{name}_{what}") for what in ("mean", "std"))
    return spread(mean, std if with_deviation else None, row.seeds)


def _gap_closed(row: Row, results: Comparison) -> str:
    """Of each metric that has one, in the order of the table's columns."""
    closed = results.gap_closed.get(row.group) if row.synthesis == "on" else None
    if closed is None:
        return ""
    names = [results.scores.compared[name] for name in results.scores.gaps]
    shares = [f"{100 * closed[name]:.0f}" if name in closed else ABSENT for name in names]
    return "/".join(shares) + "%" * any(name in closed for name in names)


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _escape_markdown(cell: str) -> str:
    return cell.replace("\\", "\\\\").replace("|", "\\|").replace("_", "\\_").replace("*", "\\*")

"""What a task is judged by: the names of its metrics for people, and which of them stands for it.

Each task has one such table, from which records, comparisons, progress and reports take what they
show.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

NO_BREAK = "\N{NO-BREAK SPACE}"  # headers of tables break at plain spaces only


@dataclass(frozen=True)
class MetricTable:
    """The metrics of a task.

    Attributes
    ----------
    title : str
        Of a table of them.
    labels : mapping
        What each is called, in the order of tables.
    headlines : tuple of str
        What stands for the task: the first of these that a model was judged by.
    compared : mapping
        Those that a comparison reports, and the beginnings of their keys in ``comparison.json``.
    columns : tuple of str
        Those in the table of a comparison.
    drawn : tuple of str
        Those drawn over the rounds; where there are none, the headline's sides.
    apart : tuple of str
        Those drawn over the rounds on a scale of their own.
    sides : mapping
        What a metric may be of, and the end of its name then.
    nouns : mapping
        What some are called in a sentence.
    gaps : tuple of str
        Those of which a comparison says how much of the gap to the oracle is closed.
    """

    title: str
    labels: Mapping[str, str]
    headlines: tuple[str, ...]
    compared: Mapping[str, str]
    columns: tuple[str, ...]
    drawn: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    sides: Mapping[str, str] = field(default_factory=lambda: {"all test rows": ""})
    nouns: Mapping[str, str] = field(default_factory=dict)
    gaps: tuple[str, ...] = ()

    def headline(self, metrics: Mapping[str, float | None]) -> str:
        """The name of the metric that stands for the task, among those that there are."""
        found = (name for name in self.headlines if name in metrics)
        return next(found, self.headlines[0])

    def lines(self, headline: str) -> dict[str, str]:
        """Metrics drawn over the rounds, by what they are called there, the headline first."""
        lines = {self.labels[name]: name for name in self.drawn} or {
            side: f"{headline}{end}" for side, end in self.sides.items()
        }
        return dict(sorted(lines.items(), key=lambda line: line[1] != headline))

    def noun(self, name: str) -> str:
        """A metric's name in a sentence."""
        return self.nouns.get(name, self.labels[name])


def of_rows(
    title: str,
    labels: Mapping[str, str],
    nouns: Mapping[str, str] | None = None,
    apart: tuple[str, ...] = (),
) -> MetricTable:
    """Shares of the test rows, the first the headline; ``apart`` are those on another scale."""
    names = tuple(labels)
    drawn = tuple(name for name in names if name not in apart)
    compared = {name: name for name in names}
    return MetricTable(title, labels, names[:1], compared, names, drawn, apart, nouns=nouns or {})

"""The page of a run: one self-contained file, without scripts or anything fetched."""

from pathlib import Path
from typing import Any

from fedsyn.federation import config
from fedsyn.report import audit, files, plots, tables
from fedsyn.report.files import Run
from fedsyn.tasks import TASKS
from fedsyn.tasks.retrieval import RetrievalProblem

NAME = "report.html"


def write(run_dir: Path | str, **plugins: Any) -> Path:
    """Write ``report.html`` into a run directory and return its path.

    Parameters
    ----------
    run_dir : Path or str
    **plugins
        As for `fedsyn.report.read_run`.

    Raises
    ------
    RunError
        If the directory does not hold a run, or one of its files is malformed.
    """
    run = files.read_run(run_dir, **plugins)
    path = run.path / NAME
    path.write_text(render(run), encoding="utf-8")
    return path


def render(run: Run) -> str:
    """The page as text; every name and caption of the data is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("fedsyn.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(_context(run))


def headline(run: Run) -> str:
    """The essential result in one sentence."""
    settings = run.config
    synthesis = {"off": "", "on": " with synthesis", "oracle": " with real pairs (oracle)"}
    who = f"{settings.plugins.method.name}{synthesis[settings.synthesis_mode]}"
    count = run.rounds[-1].number
    where = f"{count} {'round' if count == 1 else 'rounds'} over {run.clients} clients"
    kept = run.kept
    name = run.headline
    if kept is None or name not in kept.metrics:
        return f"{who} ran {where}."
    best = run.outcomes.get("best")
    reached = tables.metric(name, kept.metrics[name])
    peak = tables.metric(name, best.metrics.get(name)) if best else reached
    aside = f" (best {peak} in round {best.round})" if best and peak != reached else ""
    more = [one for one in run.scores.gaps if one != name and one in kept.metrics]
    parts = [(name, reached), *((one, tables.metric(one, kept.metrics[one])) for one in more)]
    found = " and ".join(f"{_with_article(run.scores.noun(one))} of {n}" for one, n in parts)
    return f"{who} reached {found} in {where}{aside}."


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def facts(run: Run) -> list[tuple[str, str]]:
    """The setting at a glance: what was trained, on what, and what the server made of it."""
    settings = run.config
    bits, task = settings.model.bits, settings.plugins.task
    embedding = f"{bits}-bit codes" if bits else f"{settings.model.embedding} dimensions"
    pairs = [
        ("data", settings.data.path or settings.data.name),
        ("task", "" if task is TASKS.default else task.name.replace("_", " ")),
        ("partition", _partition_name(run)),
        ("objective", settings.plugins.objective.name),
        ("embedding", embedding if issubclass(task.problem, RetrievalProblem) else ""),
        ("start", next((one.start for one in run.rounds if one.start), "")),
        ("seed", str(settings.run.seed)),
        *run.versions.items(),
    ]
    return [(name, value) for name, value in pairs if value] + _server_facts(run)


def _partition_name(run: Run) -> str:
    partition = run.config.partition
    alpha = f", alpha {partition.alpha:g}" if "dirichlet" in partition.scheme else ""
    return f"{partition.scheme}{alpha}, {run.clients} clients"


def _server_facts(run: Run) -> list[tuple[str, str]]:
    """How much synthetic data passed the filter, and how much of what was learnt from it stayed."""
    found = []
    drawn = sum(one.server.get("candidates", 0.0) for one in run.rounds)
    if drawn:
        kept = sum(one.server.get("kept", 0.0) for one in run.rounds)
        found.append(("synthetic pairs kept", f"{kept:,.0f} of {drawn:,.0f} ({kept / drawn:.0%})"))
    shares = [one.server["share"] for one in run.rounds if "share" in one.server]
    if shares:
        found.append(("fine-tuned model's share", f"{sum(shares) / len(shares):.0%} on average"))
    return found


def _context(run: Run) -> dict[str, Any]:
    figures = {
        "curves": plots.curves(run),
        "losses": plots.losses(run),
        "phases": plots.phases(run),
        "partition": plots.who_has_what(run.partition) if run.partition else None,
    }
    data, attacked = run.config.data, audit.read(run.path)
    return {
        "title": f"{run.config.plugins.method.name} · {data.path or data.name}",
        "headline": headline(run),
        "facts": facts(run),
        "results": tables.results(run),
        "costs": tables.costs(run),
        "partition": tables.who_has_what(run.partition) if run.partition else None,
        "headline_noun": run.scores.noun(run.headline).capitalize(),
        "figures": {name: plots.svg(figure, name) for name, figure in figures.items() if figure},
        "queries": run.gallery,
        "audit": audit.table(attacked) if attacked else None,
        "audit_words": audit.words(attacked) if attacked else [],
        "config": config.dump(run.config),
    }

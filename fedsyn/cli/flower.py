"""``fedsyn flower init | up | run | status | down``: the same runs on real nodes."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedsyn.cli import tune
from fedsyn.cli.terminal import (
    Json,
    Quiet,
    RunProgress,
    Settings,
    grid,
    load,
    progress,
    put_lines,
    say,
    show,
    show_run,
)
from fedsyn.errors import ConfigError, RunError
from fedsyn.settings.catalogue import refuse_unknown
from fedsyn.settings.loading import read_tree

if TYPE_CHECKING:
    from fedsyn.deployment.cluster.commands import ProcessStatus

app = typer.Typer(
    help="The same runs on real nodes, on Flower: docs/flower.md is the guide.",
    no_args_is_help=True,
)

SILOS = 3  # of a federation to try out
MISSING = 5  # missing replies in a table

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder that `init` has made.")]


@app.command()
def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make.")],
    settings: Settings = None,
    silos: Annotated[
        int | None,
        typer.Option(min=1, help=f"How many: partition.clients (default: that, or {SILOS})."),
    ] = None,
    nodes: Annotated[
        int | None, typer.Option(min=1, help="Nodes that hold them (default: one a silo).")
    ] = None,
) -> None:
    """Write the folder of a federation: app, configurations, scripts for keys, services, README."""
    config = load(settings)

    from fedsyn.deployment.flower import project
    from fedsyn.federation import config as configuration

    given = config.partition.clients if config.gives("partition", "clients") else SILOS
    silos = silos or given
    nodes = nodes or silos
    whole = configuration.with_overrides(
        config, partition={"clients": silos}, flower={"nodes": nodes}
    )
    made = project.create(directory, whole, nodes)
    put_lines(made.path / "README.md")


@app.command()
def up(
    directory: Folder,
    nodes: Annotated[
        int | None, typer.Option(min=1, help="How many of the configured (default: all).")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="No encryption, no authentication of nodes.")
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, help="Of the SuperLink; nodes take the next (default: 8000)."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Start a SuperLink and nodes on this machine, or those of them that do not run.

    On the loopback, with TLS and authenticated nodes; certificates and keys are made where they
    are missing. It is for trying out: DIR/README.md says what runs where in earnest.
    """
    from fedsyn.deployment.cluster import commands
    from fedsyn.deployment.flower import project

    where = project.find(directory)
    with progress(as_json) as bars:
        task = bars.add_task("", total=None)

        def waiting(what: str) -> None:
            bars.update(task, description=f"waiting for {what}")

        try:
            commands.up(where, nodes, insecure, port, waiting)
        except RunError as error:
            say(f"failed: {error}")
            raise typer.Exit(1) from None
    _show_status(commands.status(where), None, as_json)


@app.command()
def run(
    directory: Folder,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[key=value]...", help="Keys that override DIR/run.toml."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run directory to make (default: DIR/runs/DATE-TIME).")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the run in --out, or the last, from its state."),
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train on the nodes, follow it, and end with the same table as `fedsyn run`.

    Ctrl-C ends the following, not the run.
    """
    words = overrides or []
    refuse_unknown(read_tree(None, words))

    from fedsyn.deployment.flower import project, runs
    from fedsyn.federation import records

    where = project.find(directory)
    if out is None:
        before = runs.last(where)
        if resume and before is None:
            raise ConfigError("--resume: there was no run in this folder; name one with --out")
        new = where.runs / time.strftime("%Y%m%d-%H%M%S")
        out = before.out if resume and before else new
    config = runs.load(where, words, out if resume else None)
    submitted = runs.submit(where, words, out, resume)
    with progress(quiet or as_json) as bars:
        try:
            end = runs.follow(where, submitted, RunProgress(bars, config))
        except KeyboardInterrupt:
            say(
                f"the run goes on; look at it with: fedsyn flower status {directory}\n"
                f"stop it with: {where.path / 'flwr.sh'} stop {submitted.id}"
            )
            raise typer.Exit(1) from None
    if end.missing:
        say(f"{len(end.missing)} replies were missing: fedsyn flower status {directory}")
    if end.state != "done":
        say(f"{end.state}: {end.error}")
        raise typer.Exit(1)
    summary = json.loads((out / records.SUMMARY).read_text(encoding="utf-8"))
    show_run(out, summary, quiet, as_json)


@app.command("tune")
def tune_command(
    directory: Folder,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[key=value]...", help="Keys that override DIR/run.toml."),
    ] = None,
    attempts: tune.Try = None,
    runs: tune.Runs = 12,
    minutes: tune.Minutes = 0,
    out: tune.Out = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Choose settings without labels, as `fedsyn tune` does, by runs over the nodes."""
    words = overrides or []
    refuse_unknown(read_tree(None, words))

    from fedsyn.deployment.flower import project
    from fedsyn.deployment.flower import runs as submitted
    from fedsyn.federation import records
    from fedsyn.federation.runner import Silent

    where = project.find(directory)

    def make(keys: list[str], folder: Path) -> dict[str, Any]:
        run = submitted.submit(where, [*words, *keys], folder, folder.exists())
        end = submitted.follow(where, run, Silent())
        if end.state != "done":
            raise RunError(f"{str(folder)!r}: {end.state}: {end.error}")
        found: dict[str, Any] = json.loads((folder / records.SUMMARY).read_text(encoding="utf-8"))
        return found

    config = submitted.load(where, words, None)
    out = out or where.runs / f"tune-{time.strftime('%Y%m%d-%H%M%S')}"
    tune.search(config, attempts or [], tune.by_words(make), out, runs, minutes, quiet, as_json)


@app.command()
def status(directory: Folder, as_json: Json = False) -> None:
    """Which processes are alive, which nodes are online, and how far the last run is."""
    from fedsyn.deployment.cluster import commands
    from fedsyn.deployment.flower import project, runs

    where = project.find(directory)
    seen = commands.status(where)
    submitted = runs.last(where)
    facts = None
    if submitted is not None:
        said = runs.confirmed(where, submitted)
        facts = {"id": submitted.id, "out": str(submitted.out), **asdict(said)}
    _show_status(seen, facts, as_json)


@app.command()
def down(directory: Folder) -> None:
    """Stop all that `up` has started, and see that it is gone."""
    from fedsyn.deployment.cluster import commands
    from fedsyn.deployment.flower import project

    where = project.find(directory)
    try:
        stopped = commands.down(where)
    except RunError as error:
        say(f"failed: {error}")
        raise typer.Exit(1) from None
    say(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running")


def _show_status(
    seen: Sequence["ProcessStatus"], run: dict[str, Any] | None, as_json: bool
) -> None:
    if as_json:
        typer.echo(json.dumps({"processes": [asdict(one) for one in seen], "run": run}))
        return
    alive = {True: "yes", False: "no", None: None}
    online = {True: "online", False: "not online", None: None}
    rows = [(s.name, s.pid, alive[s.alive], s.node, online[s.online]) for s in seen]
    show(grid(("process", "pid", "alive", "node", "to the SuperLink"), rows))
    put_lines(*(f"{one.name}: {one.why}" for one in seen if one.why))
    if run is not None:
        gaps = [f"round {m['round']}, node {m['node']}: {m['why']}" for m in run["missing"]]
        facts = {
            "run": run["id"],
            "directory": run["out"],
            "state": run["state"],
            "round": f"{run['round']} of {run['rounds']}",
            "error": run["error"],
            "missing replies": "\n".join([str(len(gaps)), *gaps[-MISSING:]]),
        }
        show(grid(("fact", "value"), facts.items()))

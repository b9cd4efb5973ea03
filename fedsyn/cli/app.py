"""The command line: ``fedsyn run | compare | report | config | check | data | flower | info``.

Exit codes: 0 done, 1 failed or interrupted, 2 wrong usage or input. Results go to stdout, progress
and errors to stderr; ``--debug`` anywhere shows tracebacks.
"""

import dataclasses
import json
import logging
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.logging import RichHandler

from fedsyn.cli import audit, flower, tune
from fedsyn.cli.terminal import (
    Json,
    Preset,
    Quiet,
    RunProgress,
    Settings,
    grid,
    known,
    load,
    progress,
    put_keys,
    put_lines,
    say,
    show,
    show_run,
    stderr,
)
from fedsyn.errors import ConfigError, FedsynError

app = typer.Typer(
    help="Unsupervised federated cross-modal retrieval with synthetic data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Look at data before training on it.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(flower.app, name="flower")
app.command()(audit.audit)


@app.command()
def run(
    settings: Settings = None,
    out: Annotated[
        Path | None, typer.Option(help="Run directory to make (default: runs/DATE-TIME).")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out from its checkpoint.")
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Trace a round with torch.profiler: trace.json.")
    ] = False,
    preset: Preset = "",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train one federated model and leave its run directory.

    With no arguments: FedAvg with synthesis on the embedded glyphs data, 10 clients, Dirichlet 0.1.
    """
    if resume and out is None:
        raise ConfigError("--resume needs --out, the directory of the run to continue")
    out = out or Path("runs") / time.strftime("%Y%m%d-%H%M%S")
    config = load(settings, out if resume else None, preset)

    from fedsyn.federation.runner import run as train

    with progress(quiet or as_json) as bars:
        observer = RunProgress(bars, config)
        try:
            with observer.interruptible():
                summary = train(config, out, resume=resume, observer=observer, profile=profile)
        except KeyboardInterrupt:
            if not (out / "checkpoint").exists():
                raise
            stderr.print(f"interrupted; continue with: fedsyn run --resume --out {out}")
            raise typer.Exit(1) from None
    show_run(out, summary, quiet, as_json, *([out / "trace.json"] if profile else []))


@app.command()
def compare(
    settings: Settings = None,
    methods: Annotated[
        str, typer.Option(help="Comma-separated; default: the one set, and the closed form.")
    ] = "",
    objectives: Annotated[str, typer.Option(help="Comma-separated; default: the one set.")] = "",
    synthesis: Annotated[str, typer.Option(help="Some of off, on, oracle.")] = "off,on",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds a setting, from run.seed up.")] = 1,
    out: Annotated[
        Path | None, typer.Option(help="Directory to make or go on in (default: runs/compare-...).")
    ] = None,
    jobs: Annotated[int, typer.Option(min=0, help="Processes at a time; 0: all cores.")] = 0,
    preset: Preset = "",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Run settings side by side over seeds, and say how much of the gap to the oracle is closed.

    The oracle fine-tunes the server's model on the pooled real pairs: the upper bound that
    synthesis tries to reach. Calling it again with the same --out runs only what is missing.
    """
    known(settings)

    from fedsyn import report
    from fedsyn.federation import compare as engine
    from fedsyn.methods import METHODS
    from fedsyn.report import tables
    from fedsyn.tasks import TASKS

    names = _names(methods)
    # The task of a comparison, if it is not given, is that of the first method that cannot learn
    # the default one.
    tied = [name for name in names if TASKS.default not in (METHODS.find(name).tasks or TASKS)]
    own = [f"method={name}" for name in tied[:1]]
    config = load([*(settings or []), *own], preset=preset)
    out = out or Path("runs") / f"compare-{time.strftime('%Y%m%d-%H%M%S')}"
    simple = [one.name for one in METHODS if one.baseline and config.plugins.task in one.tasks]
    plan = engine.plan(
        config, out, names or list(dict.fromkeys([*simple, config.method.name])),
        _names(objectives) or [config.objective.name], _names(synthesis), seeds,
    )  # fmt: skip
    with progress(quiet or as_json) as bars:
        task = bars.add_task(f"{len(plan)} runs", total=sum(j.config.rounds + 1 for j in plan))
        try:
            result = engine.compare(
                plan, out, workers=jobs or None,
                progress=lambda done: bars.update(task, completed=done),
            )  # fmt: skip
        except KeyboardInterrupt:
            stderr.print("interrupted; the same command goes on where it stopped")
            raise typer.Exit(1) from None
    written = report.write_comparison(out)
    if as_json:
        typer.echo(json.dumps(result))
    elif not quiet:
        show(tables.comparison(report.read_comparison(out)))
        put_lines(*written)


@app.command("tune")
def tune_command(
    settings: Settings = None,
    attempts: tune.Try = None,
    runs: tune.Runs = 12,
    minutes: tune.Minutes = 0,
    out: tune.Out = None,
    preset: Preset = "",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Choose temperatures, rates and the number of rounds without labels, by held-out pairs.

    One key after another takes each of its values; a run is worth what clients' held-out pairs say
    of the round that it has selected. The test rows have no say.
    """
    config = load(settings, preset=preset)
    tune.search(config, attempts or [], tune.simulated(config), out, runs, minutes, quiet, as_json)


@app.command("report")
def report_command(
    directory: Annotated[Path, typer.Argument(help="A run's or a comparison's directory.")],
) -> None:
    """Write report.html of a run, or the table and plots of a comparison, anew."""
    from fedsyn import report

    if (directory / "comparison.json").exists():
        written = report.write_comparison(directory)
    else:
        written = [report.write(directory)]
    put_lines(*written)


@app.command("config")
def config_command(settings: Settings = None, preset: Preset = "", as_json: Json = False) -> None:
    """Every key of a configuration, as it is with these settings, and what it is for."""
    config = load(settings, preset=preset)

    from fedsyn.federation import catalogue

    found = list(catalogue.keys(config))
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(key) for key in found]))
        return
    put_keys(found)


@app.command()
def check(
    plugins: Annotated[
        list[str],
        typer.Argument(
            metavar="FAMILY=package.module:NAME...",
            help="A plug-in: method, task, objective, selection, generator, filter, server_step, "
            "extension; or section.key=value, with which it is tried.",
        ),
    ],
) -> None:
    """Try plug-ins in small federations: do they keep what is promised of their family?"""
    from fedsyn import conformance

    for subject in conformance.check_named(plugins):
        put_lines(f"{subject}: ok")


@app.command()
def info(as_json: Json = False) -> None:
    """Versions, back ends and devices of this installation."""
    import torch

    import fedsyn
    from fedsyn import ops

    facts: dict[str, Any] = {
        "fedsyn": fedsyn.__version__,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "backends": list(ops.backends()),
        "instruction set": ops.instruction_set(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
    }
    if as_json:
        typer.echo(json.dumps(facts))
        return
    show(grid(("fact", "value"), facts.items()))


@data_app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help=".npz, .mat, .h5, .parquet or .csv")],
    as_json: Json = False,
) -> None:
    """List the arrays or columns of a file: type, shape, range, missing values, an example."""
    from fedsyn.data.inspection import inspect as look

    rows = [dataclasses.asdict(row) for row in look(file)]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    show(grid(rows[0], (row.values() for row in rows)))


@data_app.command()
def partition(
    settings: Settings = None,
    plot: Annotated[Path | None, typer.Option(help="Write the picture here (a PNG).")] = None,
    as_json: Json = False,
) -> None:
    """Show who would have what under a configuration, without training."""
    config = load(settings)

    from fedsyn import report
    from fedsyn.data import federated
    from fedsyn.federation.config import data_settings
    from fedsyn.report import plots, tables

    found = federated.who_has_what(federated.load(data_settings(config)))
    parsed = report.parse_partition(found)
    if plot is not None and (figure := plots.who_has_what(parsed)):
        plot.write_bytes(plots.png(figure))
    if as_json:
        typer.echo(json.dumps(found))
        return
    show(tables.who_has_what(parsed))


def main() -> None:
    """Entry point: one clear sentence for every error, and the exit code."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=stderr, show_time=False, show_path=False)],
    )
    for noisy in ("matplotlib", "PIL", "fontTools"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        app(arguments, prog_name="fedsyn")
    except FedsynError as error:
        if debug:
            raise
        say(f"error: {error}")
        sys.exit(2)
    except Exception as error:
        if debug:
            raise
        say(f"failed: {type(error).__name__}: {error} (--debug shows where)")
        sys.exit(1)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]

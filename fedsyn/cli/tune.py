"""The commands that choose settings without labels: `fedsyn tune` and `fedsyn flower tune`."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedsyn.cli.terminal import grid, known, progress, put_lines, show, stderr
from fedsyn.errors import ConfigError
from fedsyn.settings.loading import literal

if TYPE_CHECKING:
    from fedsyn.federation.config import Config
    from fedsyn.federation.tuning import Run, Trial

Try = Annotated[
    list[str] | None,
    typer.Option(
        "--try",
        help="A key and the values to try: objective.temperature=0.1,0.2,1. May be repeated; "
        "default: temperatures and rates of what is configured.",
    ),
]
Runs = Annotated[int, typer.Option(min=1, help="Most runs.")]
Minutes = Annotated[float, typer.Option(min=0, help="No run begins after so many; 0: no limit.")]
Out = Annotated[
    Path | None, typer.Option(help="Directory to make or go on in (default: runs/tune-DATE-TIME).")
]


def tried(config: "Config", words: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """The keys and values to try, from ``--try`` or as the plug-ins mark them."""
    from fedsyn.federation.tuning import candidates

    if not words:
        return candidates(config)
    found = {}
    for word in words:
        key, equals, values = word.partition("=")
        if not equals or not values:
            raise ConfigError(f"--try {word!r} is not of the form section.key=value,value")
        found[key.strip()] = tuple(literal(value.strip()) for value in values.split(","))
    return found


def search(
    config: "Config",
    words: Sequence[str],
    run: "Run",
    out: Path | None,
    runs: int,
    minutes: float,
    quiet: bool,
    as_json: bool,
) -> None:
    """Try settings, and show what was tried and how to run the best."""
    from fedsyn.federation.catalogue import keys
    from fedsyn.federation.tuning import RESULT, tune

    out = out or Path("runs") / f"tune-{time.strftime('%Y%m%d-%H%M%S')}"
    values = {key.path: key.value for key in keys(config)}
    asked = tried(config, words)
    known([f"{key}={json.dumps(each[0])}" for key, each in asked.items()])
    with progress(quiet or as_json) as bars:
        task = bars.add_task(f"at most {runs} runs", total=runs)

        def told(trial: "Trial") -> None:
            bars.advance(task)

        try:
            trials = tune(
                asked, {key: values[key] for key in asked}, run, out,
                runs=runs, seconds=60 * minutes or float("inf"), told=told,
            )  # fmt: skip
        except KeyboardInterrupt:
            stderr.print("interrupted; the same command with its --out goes on where it stopped")
            raise typer.Exit(1) from None
    best = [f"{key}={json.dumps(value)}" for key, value in trials[0].keys.items()]
    if as_json:
        typer.echo((out / RESULT).read_text("utf-8").strip())
    elif not quiet:
        shown = [
            (*one.keys.values(), f"{one.criterion:.4f}", _share(one.recall), one.round,
             f"{one.seconds:.1f} s")
            for one in trials
        ]  # fmt: skip
        show(grid((*asked, "criterion", "recall@10", "round", "time"), shown))
        put_lines(f"the best, by held-out rows alone: {' '.join(best)}", out / RESULT)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def simulated(config: "Config") -> "Run":
    """Runs in this process, as configured but for the keys that are tried."""
    from fedsyn.federation import config as configuration
    from fedsyn.federation.compare import run_on

    def run(keys: dict[str, Any], out: Path) -> dict[str, Any]:
        changed: dict[str, dict[str, Any]] = {}
        for key, value in keys.items():
            section, _, name = key.partition(".")
            changed.setdefault(section, {})[name] = value
        return run_on(configuration.with_overrides(config, **changed), out)

    return run


def by_words(make: Callable[[list[str], Path], dict[str, Any]]) -> "Run":
    """Runs that are asked for by overrides on a command line."""
    return lambda keys, out: make([f"{key}={json.dumps(v)}" for key, v in keys.items()], out)

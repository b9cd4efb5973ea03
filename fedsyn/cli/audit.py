"""``fedsyn audit``: what the recorded uploads of a run tell of the pairs it was trained on."""

import json
from pathlib import Path
from typing import Annotated

import typer

from fedsyn.cli.terminal import Json, Quiet, progress, put_lines, show, stdout


def audit(
    directory: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="Directory of a run with run.record_uploads = true."),
    ],
    shadows: Annotated[
        int,
        typer.Option(
            min=0,
            help="Shadow models of each client, for the likelihood ratio; 0: none, 16 say much.",
        ),
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of samples, shadow models, intervals.")] = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Attack what the server of a retrieval run received: whose pairs were trained on?

    Members (training pairs of a client) are told from strangers (its held-out and test pairs), once
    by uploads as they arrive and once by sums added up over clients alone. AUC .5 is a coin. Leaves
    audit.json in RUN, and a section in its report. What the rows mean: docs/privacy.md.

    fedsyn run run.record_uploads=true --out runs/mine && fedsyn audit runs/mine
    """
    from fedsyn import report
    from fedsyn.audit import audit as attack
    from fedsyn.report import audit as found

    with progress(quiet or as_json) as bars:
        bar = bars.add_task("", total=None)
        document = attack(
            directory,
            shadow_models=shadows,
            seed=seed,
            told=lambda what: bars.update(bar, description=f"audit  {what}"),
        )
    page = report.write(directory)
    if as_json:
        typer.echo(json.dumps(document))
    elif not quiet:
        read = found.read(directory)
        if read is not None:
            show(found.table(read))
            for sentence in found.words(read):
                stdout.print(sentence, highlight=False, markup=False)
        put_lines(directory / found.NAME, page)

"""The audit of a run: every attack there is on what was recorded, and all of them together."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedsyn.audit import differences, models, result, shadows, shapes, sums
from fedsyn.audit.attack import BOTH, Attack
from fedsyn.audit.priors import Source
from fedsyn.audit.recorded import Recorded
from fedsyn.audit.statistics import behind_features, statistics, with_moments
from fedsyn.audit.subjects import Subject, configured, rebuilt, subjects
from fedsyn.audit.totals import together
from fedsyn.core.wire import SUMS
from fedsyn.data.pairs import Pairs
from fedsyn.errors import ConfigError, RunError
from fedsyn.federation import records
from fedsyn.federation.client import initial_model
from fedsyn.federation.devices import cpu_threads, settings
from fedsyn.federation.federation import Federation
from fedsyn.federation.local import MOMENTS
from fedsyn.privacy.combined import combine
from fedsyn.privacy.copies import Copies
from fedsyn.synthesis.extension import SYNTHESIS
from fedsyn.synthesis.generators import GENERATORS

FILE = "audit.json"
ALL, WITHOUT = "combined", "combined, without synthesis"
Told = Callable[[str], None]


def audit(
    run: Path | str,
    *,
    shadow_models: int = 0,
    seed: int = 0,
    told: Told = lambda what: None,
    data: Pairs | Mapping[str, Any] | None = None,
    **plugins: Any,
) -> dict[str, Any]:
    """Attack what the server of a run received, and leave ``audit.json`` in its directory.

    Parameters
    ----------
    run : Path or str
        The directory of a retrieval run with ``run.record_uploads = true``.
    shadow_models : int
        Models that are trained of each client and round looked at, for the likelihood ratio: 0, for
        none, or at least 2.
    seed : int
        Of samples, shadow models and intervals, and of draws where there are too many clients or
        pairs.
    told : callable
        Told what is being done.
    data, **plugins
        As of `fedsyn.run`, where the run was given some.

    Returns
    -------
    dict
        What ``audit.json`` holds: ``attacks``, ``copies``, ``clients``, and what they rest on.

    Raises
    ------
    FedsynError
        If the directory is not of such a run, or a file in it is damaged.
    """
    if shadow_models == 1 or shadow_models < 0:
        raise ConfigError(f"shadow models: expected 0, or 2 or more, got {shadow_models}")
    out = Path(run)
    config = configured(out, **plugins)
    arrived = Recorded.of(out)
    with settings(config, cpu_threads(config)):
        told("data")
        fed = rebuilt(out, config, data)
        recorded = with_moments(arrived, fed)
        asked = subjects(fed, recorded.ids, seed)
        found: list[Attack] = []
        copied: dict[int, Copies] = {}
        told("sums")
        found += _on_sums(fed, recorded, asked)
        source = _synthesis(fed, recorded)
        if source is not None:
            told("synthesis")
            every = list(source.known())
            found += (one for known in every for one in shapes.by_shape(known, asked, seed))
            found += differences.of_clusters(source, asked)
            if every:
                generator = GENERATORS.of(config.plugins.others)
                by_samples, copied = shapes.by_samples(source, every[0], generator, asked, seed)
                found.append(by_samples)
        told("models")
        start = _start(out, fed, recorded) if recorded.begins else None
        net = models.network(fed)
        sent = models.Models(recorded, net.layout.size, start, bool(fed.plan.method.sends))
        found += models.by_models(net, sent, asked)
        found += models.by_kept_model(out, fed, asked)
        if shadow_models:
            told("shadow models")
            found += shadows.by_ratio(fed, sent, asked, shadow_models, seed)
        told("all together")
        found = [one for one in found if one.scores]
        found += _combined(found, asked)
        everywhere, clients = result.rows(found, asked, seed)
    document = {
        "attacks": everywhere,
        "copies": result.copied(copied),
        "clients": clients,
        "clients_heard": len(recorded.ids),
        "rounds": list(recorded.files),
        "shadow_models": shadow_models,
        "seed": seed,
        "not_attacked": _not_attacked(recorded, found),
    }
    records.write_json(out / FILE, document)
    return document


def _synthesis(fed: Federation, recorded: Recorded) -> Source | None:
    """What was received of synthesis, where it was in force and clients had a part."""
    for extension, config in fed.plan.extensions:
        if extension.name == SYNTHESIS.name and extension.client is not None:
            run, width = fed.config.run, fed.data.features.shape[1]
            return Source(recorded, SYNTHESIS.name, config, width, run.seed, run.fraction)
    return None


def _on_sums(fed: Federation, recorded: Recorded, asked: Sequence[Subject]) -> Iterator[Attack]:
    for one in behind_features(fed):
        yield from sums.components(one, asked)
    for one in statistics(recorded, fed, asked[0].pairs, without=SYNTHESIS.name):
        yield from sums.moments(one, asked)
        yield from differences.of_statistic(one, asked)


def _start(out: Path, fed: Federation, recorded: Recorded) -> Tensor | None:
    """The model that the federation started from, where it can be made again."""
    model = initial_model(fed.problem.net, fed.plan.seed)
    if not fed.problem.asks_moments:
        return model
    moments = {
        name: together(arrived).value
        for part, kind, name in recorded.names
        if part == MOMENTS and kind == SUMS
        for arrived in recorded.totals(part, name)
    }
    name = _row_of_start(out).get("server", {}).get("start")
    starts = fed.problem.starts(model, moments) if moments else ()
    return next((one.model for one in starts if one.name == name), None)


def _row_of_start(out: Path) -> records.Row:
    path = out / records.METRICS
    try:
        with path.open(encoding="utf-8") as file:
            row: records.Row = json.loads(file.readline())
    except (OSError, ValueError) as error:
        raise RunError(f"{str(path)!r} cannot be read: {error}") from None
    return row


def _combined(found: Sequence[Attack], asked: Sequence[Subject]) -> Iterator[Attack]:
    """All attacks of a view as one, with and without those on synthesis."""
    truth = {one.client: one.truth for one in asked}
    for view in BOTH:
        seen = [one for one in found if view in one.views]
        plain = [one for one in seen if not any(part == SYNTHESIS.name for part, _ in one.on)]
        for name, chosen in ((ALL, seen), (WITHOUT, plain)):
            if chosen:
                scores = {one.client: _columns(chosen, one) for one in asked}
                on = frozenset(key for one in chosen for key in one.on)
                yield Attack(name, "all", (view,), combine(scores, truth), on)


def _columns(chosen: Sequence[Attack], subject: Subject) -> Tensor:
    """Scores ``[n, K]`` of a client's pairs; NaN by an attack that has none."""
    nothing = torch.full((len(subject.pairs),), torch.nan, dtype=torch.float64)
    found = [one.scores.get(subject.client, nothing).double() for one in chosen]
    return torch.stack(found, -1)


def _not_attacked(recorded: Recorded, found: Sequence[Attack]) -> list[str]:
    """What was received of which no attack says anything, but for single numbers: ``part/name``."""
    looked_at = {key for one in found for key in one.on}
    left = (name for name in recorded.names if (name[0], name[2]) not in looked_at)
    return sorted({f"{name[0]}/{name[2]}" for name in left if recorded.size(name) > 1})

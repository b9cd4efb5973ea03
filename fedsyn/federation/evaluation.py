"""Judging models: a task's metrics on test rows, and its loss on held-out rows."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fedsyn.core.judgement import Judgement, mixtures
from fedsyn.federation.federation import Federation
from fedsyn.metrics.retrieval import mean_over_clients
from fedsyn.tasks.base import Outputs

BLOCK = 8192  # rows at a time


def outputs(fed: Federation, model: Tensor, rows: np.ndarray) -> Outputs:
    """What one model ``[P]`` makes of rows ``[n]``, at least one."""
    found = []
    for start in range(0, len(rows), BLOCK):
        problem, (places,) = fed.near([rows[start : start + BLOCK]])
        found.append(problem.outputs(model, torch.from_numpy(places)))
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def evaluate(fed: Federation, models: Tensor) -> tuple[dict[str, float], dict[str, float]]:
    """Metrics on all test rows, and the mean over clients of each on its own test rows.

    Parameters
    ----------
    models : Tensor [M, P]
        One model, judged on the rows of the validators; or one a client, each judged on its
        own. Of several, both results are means over the models.
    """
    problem, test, one = fed.problem, fed.data.test, len(models) == 1
    rows, references = torch.from_numpy(test), problem.probed.numpy()
    clients = fed.validators if one else range(len(models))
    own = [np.searchsorted(test, fed.silos[client].test) for client in clients]
    everyone, each = [], []
    for position, model in enumerate(models):
        probed = outputs(fed, model, references) if len(references) else ()
        found = problem.probe(outputs(fed, model, test), probed)
        everyone.append(problem.score(found, rows))
        mine = own if one else [own[position]]
        each.extend(problem.score_clients(found, rows, mine))
    return mean_over_clients(everyone), mean_over_clients(each)


def held_out_losses(
    fed: Federation, models: Sequence[Tensor], ids: Sequence[int], shares: Sequence[float] = ()
) -> Judgement:
    """The criterion on the clients' held-out rows.

    Parameters
    ----------
    models : sequence of Tensor [1, P] or one a client
    ids : sequence of int
        The clients that are asked.
    shares : sequence of float
        Where there are some, mixtures of two models are judged in their place.
    """
    models = mixtures(models, shares)
    losses: list[list[float]] = [[] for _ in models]
    recalls: list[list[float]] = [[] for _ in models]
    pairs: list[int] = []
    for first in range(0, len(ids), fed.stack):
        part = ids[first : first + fed.stack]
        silos = [fed.silos[client] for client in part]
        problem, rows = fed.near([*(s.holdout for s in silos), *(s.pairs for s in silos)])
        own, among = rows[: len(part)], rows[len(part) :]
        for model, losses_of, recalls_of in zip(models, losses, recalls, strict=True):
            mine = model.expand(len(part), -1) if len(model) == 1 else model[list(part)]
            found = problem.held_out(mine, own, fed.plan.config.batch, among)
            losses_of.extend(found.criterion.tolist())
            if found.recall is not None:
                recalls_of.extend(found.recall.tolist())
        pairs.extend(found.rows.tolist())
    known = tuple(map(tuple, recalls)) if fed.problem.PARTNERS else ()
    return Judgement(tuple(ids), tuple(map(tuple, losses)), tuple(pairs), known)

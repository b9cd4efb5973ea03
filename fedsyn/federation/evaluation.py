"""Judging models: a task's metrics on test rows, and its loss on held-out rows."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fedsyn.core.judgement import Judgement
from fedsyn.federation.client import initial_model
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
    fed: Federation, models: Sequence[Tensor], ids: Sequence[int], initial: bool = False
) -> Judgement:
    """The criterion on the clients' held-out rows.

    Parameters
    ----------
    models : sequence of Tensor [1, P] or one a client
    ids : sequence of int
        The clients that are asked.
    initial : bool
        Whether the initial model is judged as well, first.
    """
    if initial:
        start = initial_model(fed.problem.net, fed.plan.seed).to(models[0])
        models = [start[None], *models]
    losses: list[list[float]] = [[] for _ in models]
    pairs: list[int] = []
    for first in range(0, len(ids), fed.stack):
        part = ids[first : first + fed.stack]
        problem, rows = fed.near([fed.silos[client].holdout for client in part])
        for model, found in zip(models, losses, strict=True):
            mine = model.expand(len(part), -1) if len(model) == 1 else model[list(part)]
            values, counts = problem.held_out(mine, rows, fed.plan.config.batch)
            found.extend(values.tolist())
        pairs.extend(counts.tolist())
    return Judgement(tuple(ids), tuple(map(tuple, losses)), tuple(pairs))

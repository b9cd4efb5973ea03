"""Judging models: retrieval metrics on test pairs, and the objective on held-out pairs."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fedsyn.engine.federation import Federation
from fedsyn.metrics import retrieval
from fedsyn.objectives.local import held_out


def evaluate(fed: Federation, models: Tensor) -> tuple[dict[str, float], dict[str, float]]:
    """Metrics on all test pairs, and the mean over clients of each on its own test pairs.

    Parameters
    ----------
    models : Tensor [M, P]
        One model, or one a client; of several, both are means over the models.
    """
    data, bits = fed.data, fed.config.model.bits
    test = torch.from_numpy(data.test)
    pairs = fed.problem.features[test.to(models.device)][None]
    label = None if data.label is None else data.label[test].to(models.device)
    own = [np.searchsorted(data.test, silo.test) for silo in data.silos]
    everyone, clients = [], []
    for position, model in enumerate(models):
        with torch.no_grad():
            image, text = fed.problem.net.embed(fed.problem.net.layout.views(model[None]), pairs)
        everyone.append(retrieval.evaluate(image[0], text[0], label, bits=bits))
        mine = own if len(models) == 1 else [own[position]]
        clients.extend(retrieval.evaluate_clients(image[0], text[0], label, mine, bits=bits))
    return retrieval.mean_over_clients(everyone), retrieval.mean_over_clients(clients)


def held_out_loss(fed: Federation, models: Tensor, ids: Sequence[int]) -> float:
    """The objective on the clients' held-out pairs: mean over pairs, NaN where there are none.

    Parameters
    ----------
    models : Tensor [1, P] or [len(ids), P]
    ids : sequence of int
        The clients that are asked.
    """
    rows = [fed.silos[client].holdout for client in ids]
    models = models.expand(len(rows), -1)
    total, pairs = 0.0, 0
    for start in range(0, len(rows), fed.config.engine.stack):
        part = slice(start, start + fed.config.engine.stack)
        losses, counts = held_out(
            fed.problem.net, fed.problem.objective, models[part], fed.problem.features, rows[part],
            fed.config.method.batch,
        )  # fmt: skip
        for loss, count in zip(losses.tolist(), counts.tolist(), strict=True):  # in client order
            total, pairs = total + loss * count, pairs + count
    return total / pairs if pairs else float("nan")

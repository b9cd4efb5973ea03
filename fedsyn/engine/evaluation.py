"""Judging models: retrieval metrics on test pairs, and the objective on held-out pairs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fedsyn.engine.client import initial_model
from fedsyn.engine.federation import Federation
from fedsyn.metrics import retrieval
from fedsyn.objectives.local import held_out

BLOCK = 8192  # pairs embedded at a time


def embeddings(fed: Federation, model: Tensor) -> tuple[Tensor, Tensor]:  # [N_test, d] each
    """Both embeddings of all test pairs under one model ``[P]``."""
    found = []
    for start in range(0, len(fed.data.test), BLOCK):
        problem, (places,) = fed.near([fed.data.test[start : start + BLOCK]])
        pairs = problem.features[torch.from_numpy(places).to(fed.device)]
        with torch.no_grad():
            found.append(fed.problem.net.embed(model[None], pairs[None]))
    image, text = (torch.cat(parts, 1)[0] for parts in zip(*found, strict=True))
    return image, text


def evaluate(fed: Federation, models: Tensor) -> tuple[dict[str, float], dict[str, float]]:
    """Metrics on all test pairs, and the mean over clients of each on its own test pairs.

    Parameters
    ----------
    models : Tensor [M, P]
        One model, judged on the pairs of the panel's clients; or one a client, each judged on its
        own. Of several, both results are means over the models.
    """
    data, bits = fed.data, fed.config.model.bits
    label = None if data.label is None else data.label[torch.from_numpy(data.test)].to(fed.device)
    one = len(models) == 1
    clients = fed.panel if one else range(len(models))
    own = [np.searchsorted(data.test, fed.silos[client].test) for client in clients]
    depth = retrieval.TOP if fed.config.run.ranking == "top" else None
    everyone, each = [], []
    for position, model in enumerate(models):
        image, text = embeddings(fed, model)
        everyone.append(retrieval.evaluate(image, text, label, bits=bits, depth=depth))
        mine = own if one else [own[position]]
        found = retrieval.evaluate_clients(image, text, label, mine, bits=bits, depth=depth)
        each.extend(found)
    return retrieval.mean_over_clients(everyone), retrieval.mean_over_clients(each)


@dataclass(frozen=True)
class Judgement:
    """What clients think of models: the criterion on the held-out pairs of each."""

    ids: tuple[int, ...]
    losses: tuple[tuple[float, ...], ...]  # [models, clients], means over a client's pairs
    pairs: tuple[int, ...]  # [clients] pairs judged
    bytes_up: int = 0
    bytes_down: int = 0

    def mean(self, model: int, ids: Iterable[int]) -> float:
        """Over the pairs of these clients, of those who were asked; NaN where there are none."""
        asked, total, pairs = set(ids), 0.0, 0
        for client, loss, count in zip(self.ids, self.losses[model], self.pairs, strict=True):
            if client in asked:
                total, pairs = total + loss * count, pairs + count
        return total / pairs if pairs else float("nan")

    def of(self, models: Sequence[int]) -> "Judgement":
        """Of these models alone."""
        return replace(self, losses=tuple(self.losses[model] for model in models))


def held_out_losses(
    fed: Federation, models: Sequence[Tensor], ids: Sequence[int], initial: bool = False
) -> Judgement:
    """The criterion on the clients' held-out pairs.

    Parameters
    ----------
    models : sequence of Tensor [1, P] or one a client
    ids : sequence of int
        The clients that are asked.
    initial : bool
        Whether the initial model is judged as well, first.
    """
    if initial:
        start = initial_model(fed.problem.net, fed.config.run.seed).to(models[0])
        models = [start[None], *models]
    losses: list[list[float]] = [[] for _ in models]
    pairs: list[int] = []
    for first in range(0, len(ids), fed.stack):
        part = ids[first : first + fed.stack]
        problem, rows = fed.near([fed.silos[client].holdout for client in part])
        for model, found in zip(models, losses, strict=True):
            mine = model.expand(len(part), -1) if len(model) == 1 else model[list(part)]
            values, counts = held_out(
                problem.net, fed.criterion, mine, problem.features, rows, fed.config.method.batch
            )
            found.extend(values.tolist())
        pairs.extend(counts.tolist())
    return Judgement(tuple(ids), tuple(map(tuple, losses)), tuple(pairs))

"""Local training by an objective: what every federated method's clients have in common."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from fedsyn import ops
from fedsyn.config import MethodConfig
from fedsyn.core import training
from fedsyn.core.batches import Batches, epochs, everything, in_order, join, steps
from fedsyn.core.cohort import Cohort
from fedsyn.core.optim import Optimizer
from fedsyn.core.training import Correction, Loss
from fedsyn.metrics.timing import phase
from fedsyn.models.retrieval import RetrievalNet
from fedsyn.objectives.base import Batch, Held, Objective
from fedsyn.objectives.info_nce import InfoNCE

# penalty(clients [c], batch) -> [c], added to the objective; positions are those in the cohort.
Penalty = Callable[[Tensor, Batch], Tensor]


def optimizer(config: MethodConfig) -> Optimizer:
    """The clients' optimiser as configured."""
    return Optimizer(
        config.optimizer, config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )


def local_training(
    net: RetrievalNet,
    objective: Objective,
    start: Tensor,  # [C, P]
    features: Tensor,  # [N, D] concatenated pairs
    cohort: Cohort,
    config: MethodConfig,
    purpose: str = "local",
    *,
    penalty: Penalty | None = None,
    correction: Correction | None = None,
) -> tuple[Tensor, Tensor]:  # [C, P], [C]
    """``config.epochs`` passes over each client's pairs from its row of ``start``.

    Where the cohort has ``extra`` pairs, some join every batch, as pairs like its own.

    InfoNCE at a fixed temperature, and nothing else, has an operator of its own on a CPU; whatever
    else is minimised, or wherever, is differentiated step by step.

    Parameters
    ----------
    penalty : callable, optional
        A method's own term of the loss, by the embeddings of a batch.
    correction : callable, optional
        A method's own term of the gradient, by the parameters.

    Returns
    -------
    trained : Tensor [C, P]
    loss : Tensor [C]
        Mean over each client's steps, with the penalty.
    """
    batches = _batches(cohort, config.batch, config.epochs, purpose)
    rule = optimizer(config)
    alone = penalty is None and correction is None and features.device.type == "cpu"
    if alone and isinstance(objective, InfoNCE) and not objective.learnable:
        return ops.train_info_nce(
            start, features, batches.index, batches.valid.sum(-1), net.towers,
            1 / objective.temperature, head=net.head, optimizer=rule.name, lr=rule.lr,
            betas=rule.betas, momentum=rule.momentum, weight_decay=rule.weight_decay, eps=rule.eps,
        )  # fmt: skip
    loss = _loss(net, objective, features, cohort, config, penalty)
    return training.train(start, loss, batches, rule, correction)


def mean_gradient(
    net: RetrievalNet,
    objective: Objective,
    models: Tensor,  # [C, P]
    features: Tensor,  # [N, D] concatenated pairs
    cohort: Cohort,
    config: MethodConfig,
    purpose: str,
) -> Tensor:  # [C, P]
    """The objective's gradient at each client's model, the mean over one pass's batches."""
    batches = _batches(cohort, config.batch, 1, purpose)
    loss = _loss(net, objective, features, cohort, config)
    return training.mean_gradient(models, loss, batches)


def _batches(cohort: Cohort, batch: int, passes: int, purpose: str) -> Batches:
    """Shuffled passes over each client's pairs; extra pairs join every batch."""
    with phase("gather"):
        generators = cohort.streams(purpose)
        batches = epochs(cohort.rows, batch, passes, generators)
        if cohort.extra is None:
            return batches
        return join(batches, cohort.extra.rows, cohort.extra.batch, generators)


def _loss(
    net: RetrievalNet,
    objective: Objective,
    features: Tensor,
    cohort: Cohort,
    config: MethodConfig,
    penalty: Penalty | None = None,
) -> Loss:
    base = _objective(objective, features, cohort, config)

    def loss(params: Tensor, clients: Tensor, index: Tensor, valid: Tensor, step: Tensor) -> Tensor:
        pairs = features[index]
        batch = Batch(*net.embed(params, pairs), pairs, valid)
        value = base(net.extras(params), batch, clients, index, step)
        return value if penalty is None else value + penalty(clients, batch)

    return loss


# base(parameters, batch, clients [c], index [c, B], step) -> [c]
_Base = Callable[[dict[str, Tensor], Batch, Tensor, Tensor, Tensor], Tensor]


def _objective(
    objective: Objective,
    features: Tensor,
    cohort: Cohort,
    config: MethodConfig,
) -> _Base:
    """The objective, with what it remembers of the cohort's pairs if it looks beyond the batch."""
    extra = np.empty(0, dtype=np.int64) if cohort.extra is None else cohort.extra.rows
    rows = [np.sort(np.concatenate([own, extra])) for own in cohort.rows]
    index, valid = everything(rows, features.device)
    once = steps(cohort.sizes, config.batch, 1).to(features.device)
    memory = objective.remember(Held(features, index, valid, once))
    if memory is None:
        return lambda params, batch, clients, index, step: objective(params, batch)
    held = index.masked_fill(~valid, len(features))  # ascending, so that places are found

    def remembering(
        params: dict[str, Tensor], batch: Batch, clients: Tensor, index: Tensor, step: Tensor
    ) -> Tensor:
        place = torch.searchsorted(held[clients], index)
        return memory(params, batch, clients, place, step)

    return remembering


def held_out(
    net: RetrievalNet,
    objective: Objective,
    models: Tensor,  # [C, P]
    features: Tensor,  # [N, D]
    rows: Sequence[np.ndarray],  # held-out pairs of each client
    batch: int,
) -> tuple[Tensor, Tensor]:  # [C], [C]
    """The objective of each client's model on its held-out pairs, and how many were judged.

    Judged in batches as in training; a client with fewer than two pairs has nothing to contrast
    and counts 0.
    """
    plan = in_order(rows, batch)
    total = torch.zeros(len(rows), dtype=torch.float64, device=features.device)
    extras = net.extras(models)
    for index, valid in zip(plan.index, plan.valid, strict=True):
        pairs, taken = features[index.to(features.device)], valid.to(features.device)
        with torch.no_grad():
            losses = objective(extras, Batch(*net.embed(models, pairs), pairs, taken))
        total += losses.double() * taken.sum(-1)
    counts = plan.valid.sum((0, 2)).to(features.device)
    return total / counts.clamp(min=1), counts

"""Local training by an objective: what every federated method's clients have in common."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fedsyn import ops
from fedsyn.config import MethodConfig
from fedsyn.core.batches import epochs, in_order
from fedsyn.core.cohort import Cohort
from fedsyn.core.optim import Optimizer
from fedsyn.core.training import train
from fedsyn.metrics.timing import phase
from fedsyn.models.retrieval import RetrievalNet
from fedsyn.objectives import Objective
from fedsyn.objectives.info_nce import InfoNCE


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
) -> tuple[Tensor, Tensor]:  # [C, P], [C]
    """``config.epochs`` passes over each client's pairs from its row of ``start``.

    InfoNCE at a fixed temperature has an operator of its own on a CPU; whatever else is minimised,
    or wherever, is differentiated step by step.
    """
    with phase("gather"):
        batches = epochs(cohort.rows, config.batch, config.epochs, cohort.streams(purpose))
    rule = optimizer(config)
    if isinstance(objective, InfoNCE) and not objective.learnable and features.device.type == "cpu":
        return ops.train_info_nce(
            start, features, batches.index, batches.valid.sum(-1), net.towers,
            1 / objective.temperature, head=net.head, optimizer=rule.name, lr=rule.lr,
            betas=rule.betas, momentum=rule.momentum, weight_decay=rule.weight_decay, eps=rule.eps,
        )  # fmt: skip

    def loss(params: Tensor, _: Tensor, index: Tensor, valid: Tensor) -> Tensor:
        return objective(net.extras(params), *net.embed(params, features[index]), valid)

    return train(start, loss, batches, rule)


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
            losses = objective(extras, *net.embed(models, pairs), taken)
        total += losses.double() * taken.sum(-1)
    counts = plan.valid.sum((0, 2)).to(features.device)
    return total / counts.clamp(min=1), counts

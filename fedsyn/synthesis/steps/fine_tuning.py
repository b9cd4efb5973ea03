"""Fine-tuning on pairs: those that the filter keeps or, for the oracle, the clients' real ones."""

from typing import Annotated

import torch
from torch import Tensor

from fedsyn import streams
from fedsyn.core.batches import draws
from fedsyn.core.extension import Pool, ServerView
from fedsyn.core.optim import Optimizer
from fedsyn.models.retrieval import RetrievalNet
from fedsyn.objectives.pairs.base import PairBatch, PairObjective
from fedsyn.objectives.pairs.info_nce import InfoNCELoss
from fedsyn.settings.plugins import FLAT
from fedsyn.settings.sections import Field, Iterations, NonNegative, Positive, Section, Tried
from fedsyn.synthesis.generators.base import Generator
from fedsyn.synthesis.steps.base import ServerStep

AT_ONCE = 1 << 14  # most pairs that fine-tuning holds


class FineTuningOptions(Section):
    """Options of fine-tuning on the server."""

    server_steps: Iterations = Field(
        0, description="steps of the model a round, on the server; 0: clients alone train on pairs"
    )
    server_batch: Annotated[int, Field(ge=2)] = Field(256, description="pairs of a step")
    server_lr: Positive = Field(1e-3, description="rate of a step")
    server_temperature: Annotated[NonNegative, Tried(0.05, 0.1, 0.2, 0.5, 1.0)] = Field(
        0.1,
        description="temperature of the InfoNCE that is minimised; 0: what clients minimise is",
    )
    proximal: NonNegative = Field(
        0.0, description="weight of the squared distance to the aggregated model"
    )


def fine_tune(
    net: RetrievalNet,
    objective: PairObjective,
    model: Tensor,  # [1, P]
    pool: Pool,  # of synthetic (or, for the oracle, real) pairs
    options: FineTuningOptions,
    generator: torch.Generator,
) -> tuple[Tensor, float]:
    """Train the aggregated model on pairs of ``pool``; the model ``[1, P]`` and the mean loss.

    ``proximal`` adds ``proximal / 2 · ‖w − w_avg‖²``. With fewer than two pairs there is nothing to
    contrast: the model comes back unchanged, as it does without steps.
    """
    if pool.size < 2 or options.server_steps == 0:
        return model, 0.0
    optimizer = Optimizer("adam", options.server_lr)
    tuned, state, total = model.clone(), optimizer.init(model), 0.0
    index = draws([pool.size], options.server_steps, options.server_batch, [generator])[:, 0]
    for steps in index.split(max(1, AT_ONCE // options.server_batch)):
        for batch in pool.take(steps.flatten()).split(options.server_batch):
            leaf = tuned.detach().requires_grad_()
            embedded = net.embed(leaf, batch[None])
            loss = objective(net.extras(leaf), PairBatch(*embedded, batch[None])).sum()
            if options.proximal:
                loss = loss + options.proximal / 2 * (leaf - model).square().sum()
            (gradient,) = torch.autograd.grad(loss, leaf)
            optimizer.step(tuned, gradient, state)
            total += float(loss.detach())
    return tuned, total / options.server_steps


def tune(view: ServerView, pool: Pool, generator: Generator | None = None) -> tuple[Tensor, float]:
    """The aggregated model, fine-tuned on a pool."""
    stream = streams.generator(view.seed, "fine-tune", view.round_number)
    options = view.config.of(FineTuningOptions)
    objective = view.problem.objective
    if options.server_temperature:
        objective = InfoNCELoss(options.server_temperature)
    return fine_tune(view.problem.net, objective, view.model, pool, options, stream)


FINE_TUNING = ServerStep(name="filter", options={FLAT: FineTuningOptions}, tune=tune, filters=True)

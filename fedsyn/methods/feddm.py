"""FedDM, distribution matching (Xiong et al. 2023, arXiv 2207.09653).

server: w ← w_0
every round:
    send w to the sampled clients
    client k: S_k ← pictures, as many of each of its classes, by descent on
                     Σ_c ‖mean h_u(x) − mean h_u(s)‖² + ‖mean f_u(x) − mean f_u(s)‖²
                     over its own x and the s of class c, for u at random around w, every step anew
              send S_k, and nothing else
    w ← E epochs on  Σ_k n_k / n  F(·; S_k)  from w, no farther from it than ρ

h is the embedding and f the logits. u is w plus a direction at random times a length, uniform below
ρ. S_k starts from noise, every round: from real pictures, as the paper also has it, some would be
sent that look like them.

Our reading, where the paper is silent: a model that ends farther than ρ from w is moved back on the
line between them.
"""

from dataclasses import replace
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from fedsyn.core import training
from fedsyn.core.batches import epochs
from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.core.wire import Upload, Uploads
from fedsyn.methods.base import MethodConfig, Update
from fedsyn.methods.fedavg import FEDAVG
from fedsyn.models.picture_classifier import PictureClassifier
from fedsyn.objectives.classes.losses import cross_entropy
from fedsyn.settings.sections import Count, Field, NonNegative, Positive, Repeated, Section
from fedsyn.tasks.image_classification import (
    IMAGE_CLASSIFICATION,
    ImageClassificationProblem,
    draw_of_each,
)


class FedDMOptions(Section):
    """Options of the method FedDM."""

    pictures: Count = Field(10, description="pictures of a class that a client sends")
    steps: Annotated[Count, Repeated()] = Field(20, description="steps of the search for them")
    lr: Positive = Field(1.0, description="rate of the search")
    draw: Count = Field(32, description="most rows of a class in a step")
    radius: NonNegative = Field(5.0, description="radius ρ of the ball around the model")


def client(
    problem: ImageClassificationProblem,
    received: Payload,
    state: Payload,
    cohort: Cohort,
    config: MethodConfig,
) -> Update:
    """Pictures ``[C, L, M, D]`` of each class that a client has, and which it has ``[C, L]``."""
    own, features = config.of(FedDMOptions), problem.features
    streams = cohort.streams("pictures")
    held = received["model"].new_zeros(len(streams), problem.net.classes)
    pictures = features.new_zeros(*held.shape, own.pictures, features.shape[1])
    losses = torch.zeros(len(streams), device=features.device)
    for place, (model, stream) in enumerate(zip(received["model"], streams, strict=True)):
        classes = problem.by_class(cohort.rows[place])
        held[place] = torch.tensor([float(len(rows) > 0) for rows in classes])
        if held[place].any():
            mine = [rows for rows in classes if len(rows)]
            found, losses[place] = condense(problem, model, mine, own, stream)
            pictures[place, held[place] > 0] = found
    sizes = torch.tensor(cohort.sizes)
    own_parts = {"pictures": pictures, "held": held, "sizes": sizes}
    return Update(Upload(own=own_parts), state, losses)


def condense(
    problem: ImageClassificationProblem,
    model: Tensor,  # [P], w
    classes: list[Tensor],  # rows of each
    config: FedDMOptions,
    stream: torch.Generator,
) -> tuple[Tensor, Tensor]:  # [classes, M, D], []
    """A client's S_k, and the mean over the steps of what was minimised."""
    features = problem.features
    noise = torch.rand(len(classes), config.pictures, features.shape[1], generator=stream)
    pictures, total = (2 * noise - 1).to(features), torch.zeros((), device=features.device)
    for _ in range(config.steps):
        direction = torch.randn(model.shape, generator=stream)
        length = config.radius * torch.rand((), generator=stream)
        around = model + (length * direction / direction.norm()).to(model)
        index, valid = (
            part.to(features.device) for part in draw_of_each(classes, config.draw, stream)
        )
        with torch.no_grad():
            real = means(problem.net, around, features[index], valid)
        leaf = pictures.detach().requires_grad_()
        made = means(problem.net, around, leaf, torch.ones_like(leaf[..., 0], dtype=torch.bool))
        loss = (real - made).square().sum()
        (slope,) = torch.autograd.grad(loss, leaf)
        pictures = (pictures - config.lr * slope).clamp(-1, 1)
        total += loss.detach() / config.steps
    return pictures, total


def means(net: PictureClassifier, model: Tensor, pixels: Tensor, valid: Tensor) -> Tensor:
    """Of each class the mean h beside the mean f ``[K, dim + L]``, of pixels ``[K, M, D]``."""
    embedding = net.embed(model[None], pixels.flatten(0, 1)[None])
    logits = net.classifier(net.split(model[None])[1], embedding)
    both = (
        torch.cat([embedding, logits], -1).view(*valid.shape, -1).masked_fill(~valid[..., None], 0)
    )
    return both.sum(1) / valid.sum(1, keepdim=True)


def server(
    problem: ImageClassificationProblem,
    state: Payload,
    uploads: Uploads,
    config: MethodConfig,
    generator: torch.Generator,
) -> Payload:
    """Training on all pictures, those of a client with a weight of n_k / n together."""
    start, net, own = state["model"], problem.net, config.of(FedDMOptions)
    sent = uploads.own
    client, label = sent["held"].nonzero(as_tuple=True)
    if not len(client):
        return state
    pictures = sent["pictures"][client, label].to(start)  # [sets, M, D]
    count, each = len(client), own.pictures
    share = sent["sizes"].double()[client] / torch.bincount(client)[client]
    weight = (share * count / share.sum()).to(start).repeat_interleave(each)
    label, pixels = label.to(start.device).repeat_interleave(each), pictures.flatten(0, 1)

    def loss(params: Tensor, clients: Tensor, index: Tensor, valid: Tensor, step: Tensor) -> Tensor:
        return cross_entropy(net(params, pixels[index]), label[index], valid, weight[index])

    plan = epochs([np.arange(len(label))], config.batch, config.epochs, [generator])
    model, _ = training.train(start, loss, plan, config.rule)
    length = (model - start).norm().clamp(min=own.radius)
    return {"model": start + own.radius * (model - start) / length}


FEDDM = replace(
    FEDAVG,
    name="feddm",
    options={"feddm": FedDMOptions},
    client=client,
    server=server,
    tasks=(IMAGE_CLASSIFICATION,),
    sends=(),
)

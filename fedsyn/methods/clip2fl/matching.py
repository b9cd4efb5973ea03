"""Federated features: what a linear classifier is re-trained on, made from its clients' gradients.

Clients of a long-tailed federation send, of each of their classes, the mean gradient that the
cross-entropy of its features has in the classifier (Shang et al. 2022, arXiv 2204.13399). The
server looks for features with the same gradients, as many of every class, and trains a classifier
on those: a balanced one, which no client's rows are enough for.

A classifier is a matrix V ``[D + 1, L]``, the weight over the bias: a flat row of
``MLP(..., (D, L))``. With x̃ = (x, 1) and one-hot e_c, the gradient of class c is in closed form

    g_c = mean over its rows of  x̃ (softmax(x̃ V) − e_c)ᵀ .
"""

from typing import Annotated

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, pad

from fedsyn import ops
from fedsyn.core.batches import epochs
from fedsyn.models.mlp import MLP
from fedsyn.settings.sections import (
    Count,
    Field,
    Iterations,
    NonNegative,
    Positive,
    Repeated,
    Section,
)


class CLIP2FLOptions(Section):
    """Options of CLIP2FL; those of the federated features are CReFF's."""

    distillation: NonNegative = Field(1.0, description="weight α of the distillation")
    temperature: Positive = Field(3.0, description="temperature T of the distillation")
    contrast: NonNegative = Field(
        0.001, description="weight β of the contrast of features with names of classes"
    )
    contrast_temperature: Positive = Field(0.1, description="temperature τ of that contrast")


class CReFFOptions(Section):
    """Options of the search for federated features, and of the classifier trained on them."""

    repeats: Annotated[Count, Repeated()] = Field(
        10, description="draws behind a client's gradient of a class"
    )
    draw: Count = Field(32, description="most rows of a class in a draw")
    features: Count = Field(100, description="federated features of a class")
    steps: Iterations = Field(100, description="steps of the search for them, a round")
    lr: Positive = Field(0.1, description="rate of the search")
    classifier_epochs: Annotated[Count, Repeated()] = Field(
        300, description="passes over the features that train the classifier"
    )
    classifier_batch: Count = Field(
        256, description="batch of that training; published: 32 at a rate of 0.01"
    )
    classifier_lr: Positive = Field(0.08, description="rate of that training")


def class_gradients(
    features: Tensor,  # [..., L, M, D], by class
    classifier: Tensor,  # [..., D + 1, L]
    valid: Tensor | None = None,  # [..., L, M] bool: rows that there are
) -> Tensor:  # [..., L, D + 1, L]
    """g_c of every class; 0 of a class without rows."""
    x = pad(features, (0, 1), value=1.0)
    residual = (x @ classifier[..., None, :, :]).softmax(-1)
    residual = residual - torch.eye(residual.shape[-1]).to(residual)[:, None]
    if valid is None:
        return x.mT @ residual / x.shape[-2]
    residual = residual.masked_fill(~valid[..., None], 0)
    return x.mT @ residual / valid.sum(-1).clamp(min=1)[..., None, None]


def distance(one: Tensor, other: Tensor) -> Tensor:
    """Σ (1 − cos) over the classifier's logits, of their weights, + (1 − cos) of the biases.

    ``[..., D + 1, L]``, both; returns ``[...]``.
    """
    weights = 1 - cosine_similarity(one[..., :-1, :], other[..., :-1, :], dim=-2)
    return weights.sum(-1) + 1 - cosine_similarity(one[..., -1, :], other[..., -1, :], dim=-1)


def match(
    features: Tensor,  # [L, M, D], where the search begins
    gradients: Tensor,  # [L, D + 1, L], of the clients
    classifier: Tensor,  # [D + 1, L], that they are gradients of
    config: CReFFOptions,
    prototypes: Tensor | None = None,  # [L, D] unit rows
    contrast: CLIP2FLOptions | None = None,  # of the features with them
) -> Tensor:  # [L, M, D]
    """Features by gradient descent on Σ_c distance(g_c of features, g_c) + β L_PCL.

    The distance does not see how long a gradient is, and one of 0, of a class that nobody has,
    leaves the class's features alone.
    L_PCL is the contrast of each feature with the prototypes, of which its class's is the target
    (Shi et al. 2024, arXiv 2312.08648).
    """
    target = torch.arange(len(features)).repeat_interleave(features.shape[1]).to(features.device)
    for _ in range(config.steps):
        leaf = features.detach().requires_grad_()
        found = class_gradients(leaf, classifier)
        loss = distance(found, gradients).sum()
        if prototypes is not None and contrast is not None:
            rows, scale = leaf.flatten(0, 1), 1 / contrast.contrast_temperature
            nce = ops.prototype_nce(rows, prototypes, target, scale)
            loss = loss + contrast.contrast * nce
        (slope,) = torch.autograd.grad(loss, leaf)
        features = features - config.lr * slope
    return features


def retrain(features: Tensor, generator: torch.Generator, config: CReFFOptions) -> Tensor:
    """A fresh classifier ``[D + 1, L]``, trained on features ``[L, M, D]`` by cross-entropy.

    By plain gradient descent, with the gradient in closed form: a step is two small products.
    """
    classes, count, dim = features.shape
    net = MLP("classifier", (dim, classes))
    x = pad(features.flatten(0, 1), (0, 1), value=1.0)
    target = torch.eye(classes).to(x).repeat_interleave(count, 0)
    classifier = net.layout.flatten(net.init(generator)).to(x).view(dim + 1, classes)
    plan = epochs(
        [np.arange(len(x))], config.classifier_batch, config.classifier_epochs, [generator]
    )
    for index, valid in zip(plan.index[:, 0].to(x.device), plan.valid[:, 0].to(x), strict=True):
        rows = x[index]
        residual = (rows @ classifier).softmax(-1) - target[index]
        step = config.classifier_lr / valid.sum() * valid[:, None]
        classifier = classifier - rows.T @ (step * residual)
    return classifier

"""FedAlign (Mendieta et al. 2022, arXiv 2111.14213).

server: as federated averaging
client k: w_k ← E epochs on  F_k + μ (F_k / D) D  from w,  D = (λ_narrow − λ)²
              with the quotient as a number: the second term is as large as the first

λ is the Lipschitz constant of the network's last block, as far as a picture tells: with F the maps
[C, HW] that go into the block, and G those that come out, ‖F Gᵀ / HW‖₂, by power iteration.
λ_narrow is that of the block of its first channels alone (``share`` of them), run on the same F.
It learns, λ is the number that it is to reach: as in the authors' code, no gradient goes through λ
or F.

Our reading, where the paper is silent: a block that halves the resolution has F averaged to the
size of G, and D is the mean over the batch. Gradients are not clipped; published: at norm 10.
"""

from dataclasses import replace
from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize

from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.core.wire import Upload
from fedsyn.methods.base import MethodConfig, Update
from fedsyn.methods.fedavg import FEDAVG
from fedsyn.objectives.similarity import masked_mean
from fedsyn.settings.sections import Field, NonNegative, Section
from fedsyn.tasks.image_classification import (
    IMAGE_CLASSIFICATION,
    ImageClassificationProblem,
    PictureBatch,
)


class FedAlignOptions(Section):
    """Options of the method FedAlign."""

    mu: NonNegative = Field(0.45, description="weight μ of the distance of Lipschitz constants")
    share: Annotated[float, Field(gt=0.0, lt=1.0, multiple_of=0.125)] = Field(
        0.25, description="share of the last block's channels, in whole groups of its normalisation"
    )


ITERATIONS = 10  # of the power iteration, as published
LEAST = 1e-12  # of D, as a divisor


def client(
    problem: ImageClassificationProblem,
    received: Payload,
    state: Payload,
    cohort: Cohort,
    config: MethodConfig,
) -> Update:
    """Local training that aligns the last block with what its first channels make of its input."""
    net, own = problem.net, config.of(FedAlignOptions)

    def penalty(clients: Tensor, batch: PictureBatch) -> Tensor:
        encoder = batch.params[:, : net.encoder.layout.size]
        with torch.no_grad():
            maps = net.encoder.body(encoder, batch.pixels)
            whole = lipschitz(maps, net.encoder.last(encoder, maps))
        narrow = lipschitz(maps, net.encoder.last(encoder, maps, own.share))
        apart = masked_mean((narrow - whole).square(), batch.valid)
        loss = problem.objective(batch.logits, batch.label, batch.valid)
        return own.mu * (loss / apart.clamp(min=LEAST)).detach() * apart

    model, losses = problem.train(received["model"], cohort, config, penalty=penalty)
    return Update(Upload(config.weighted(cohort, model=model)), state, losses)


def lipschitz(before: Tensor, after: Tensor) -> Tensor:
    """‖F Gᵀ / HW‖₂ ``[C, B]`` of maps before and after a block ``[C, B, channels, H, W]``."""
    height, width = after.shape[-2:]
    pooled = adaptive_avg_pool2d(before.flatten(0, 1), (height, width))
    pooled = pooled.unflatten(0, before.shape[:2])
    matrix = pooled.flatten(-2) @ after.flatten(-2).mT / (height * width)
    with torch.no_grad():
        # (Maps are not negative, so that the leading vector is not at right angles to this one.)
        vector = torch.ones_like(matrix[..., :1])
        for _ in range(ITERATIONS):
            vector = normalize(matrix @ (matrix.mT @ vector), dim=-2)
    constant: Tensor = torch.linalg.vector_norm(matrix.mT @ vector, dim=(-2, -1))
    return constant


FEDALIGN = replace(
    FEDAVG,
    name="fedalign",
    options={"fedalign": FedAlignOptions},
    client=client,
    tasks=(IMAGE_CLASSIFICATION,),
)

"""MFCPL, complete prototypes of the classes (Le et al. 2024, arXiv 2401.13898).

server: w ← w_0; no prototypes
every round:
    send w and the prototypes p_u^c of both modalities u and the classes c to the sampled clients
    client k: w_k ← E epochs from w on  F_k + a₁ CMPR + a₂ CMPC + a₃ CMA
              send w_k and, of the rows with both halves, by class how many there are and the sums
              of their own projections by w_k
    w ← Σ n_k w_k / Σ n_k
    p_u^c ← mean over such rows of all these clients; that of a class without any stays

With z_u the own projection of a row's half u, x_u its cross projection, y its class, v the other
modality and d the size of a projection,

CMPR = Σ_u mean ‖x_u − p_v^y‖² / d
CMPC = Σ_u mean −log [exp(cos(z_u, p_u^y) / τ) / Σ_c exp(cos(z_u, p_u^c) / τ)]
CMA  = Σ_u mean ‖x_u − z_v‖² / d

each mean over the rows that have what it names; c are the classes that have a prototype.

The terms are the paper's as others describe it; their formulas are this file's reading. Features
that modalities share are the cross projections here, and those specific to one are its own. So a
cross projection learns to be what the other half would be, in whose place it stands where that is
missing.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, one_hot

from fedsyn.core.batches import everything
from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.core.wire import Upload, Uploads
from fedsyn.methods.base import MethodConfig, Update, present, to_each
from fedsyn.methods.fedavg import FEDAVG
from fedsyn.objectives.classes.halves import HalvesBatch
from fedsyn.objectives.classes.losses import cross_entropy
from fedsyn.objectives.similarity import masked_mean
from fedsyn.settings.sections import Field, NonNegative, Positive, Section
from fedsyn.tasks.base import Penalty
from fedsyn.tasks.multimodal_classification import MULTIMODAL_CLASSIFICATION, MultimodalProblem


class MFCPLOptions(Section):
    """Options of the method MFCPL."""

    regularisation: NonNegative = Field(1.0, description="weight a₁ of CMPR")
    contrast: NonNegative = Field(1.0, description="weight a₂ of CMPC")
    alignment: NonNegative = Field(1.0, description="weight a₃ of CMA")
    temperature: Positive = Field(0.5, description="temperature τ of CMPC")


def init(problem: MultimodalProblem, model: Tensor, clients: int) -> Payload:
    """One global model, and no row behind the prototypes of any class."""
    net = problem.net
    return {
        "model": model[None],
        "prototypes": model.new_zeros(1, 2, net.classes, net.dim),
        "known": torch.zeros(1, net.classes, dtype=torch.bool, device=model.device),
    }


def client(
    problem: MultimodalProblem,
    received: Payload,
    state: Payload,
    cohort: Cohort,
    config: MethodConfig,
) -> Update:
    """Local training by the prototypes, and what new ones are made of."""
    penalty = regulariser(received["prototypes"], received["known"], config.of(MFCPLOptions))
    model, losses = problem.train(received["model"], cohort, config, penalty=penalty)
    index, valid = everything(cohort.rows, problem.features.device)
    with torch.no_grad():
        batch = problem.batch(model, index, valid)
    classes = (one_hot(batch.target, problem.net.classes) * batch.whole[..., None]).to(model)
    sums = torch.stack([classes.mT @ own for own in batch.reading.own], 1)
    made = present(cohort, sums=sums, rows=classes.sum(1))
    return Update(Upload(config.weighted(cohort, model=model) | made), state, losses)


def regulariser(prototypes: Tensor, known: Tensor, config: MFCPLOptions) -> Penalty:
    """The three terms, by prototypes ``[C, 2, K, d]`` of the classes ``known [C, K]``."""

    def penalty(clients: Tensor, batch: HalvesBatch) -> Tensor:
        reading, target, has = batch.reading, batch.target, known[clients]
        terms: list[Tensor] = []
        for one, other in ((0, 1), (1, 0)):
            own, cross = reading.own[one], reading.crossed()[one]
            mine, others = prototypes[clients, one], prototypes[clients, other]
            there = batch.labelled & batch.present[..., one] & has.gather(1, target)
            goal = others.take_along_dim(target[..., None], 1)
            near = cosine_similarity(own[:, :, None], mine[:, None], dim=-1) / config.temperature
            near = near.masked_fill(~has[:, None], -math.inf)
            terms += [
                config.regularisation * masked_mean((cross - goal).square().mean(-1), there),
                config.contrast * cross_entropy(near, target, there),
                config.alignment
                * masked_mean((cross - reading.own[other]).square().mean(-1), batch.whole),
            ]
        return torch.stack(terms).sum(0)

    return penalty


def server(
    problem: MultimodalProblem,
    state: Payload,
    uploads: Uploads,
    config: MethodConfig,
    generator: torch.Generator,
) -> Payload:
    """The mean of the models, and the prototypes of the classes that anybody has."""
    averaged = FEDAVG.server(problem, state, uploads, config, generator)["model"]
    rows, old = uploads.sums["rows"].to(averaged.device), state["prototypes"][0]
    means = uploads.sums["sums"].to(averaged.device) / rows.clamp(min=1)[:, None]
    prototypes = torch.where((rows > 0)[:, None], means, old.double()).to(old)
    known = state["known"] | (rows > 0)
    return {"model": averaged, "prototypes": prototypes[None], "known": known}


def prepare(problem: MultimodalProblem, config: MethodConfig) -> MultimodalProblem:
    """The problem with a net that has cross projectors."""
    return replace(problem, net=replace(problem.net, cross=True))


MFCPL = replace(
    FEDAVG,
    name="mfcpl",
    options={"mfcpl": MFCPLOptions},
    init=init,
    broadcast=to_each,
    client=client,
    server=server,
    tasks=(MULTIMODAL_CLASSIFICATION,),
    prepare=prepare,
    sends=("model", "sums", "rows"),
)

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

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, one_hot

from fedsyn.config import MethodConfig, MFCPLConfig
from fedsyn.core.aggregate import add_weighted
from fedsyn.core.batches import everything
from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.methods import fedavg
from fedsyn.methods.base import Method
from fedsyn.objectives.classes.cross_entropy import cross_entropy
from fedsyn.objectives.classes.halves import Batch
from fedsyn.objectives.similarity import masked_mean
from fedsyn.tasks.base import Penalty
from fedsyn.tasks.multimodal_classification import MultimodalProblem


def init(problem: MultimodalProblem, model: Tensor, clients: int) -> Payload:
    """One global model, and no row behind the prototypes of any class."""
    net = problem.net
    return {
        "model": model[None],
        "prototypes": model.new_zeros(1, 2, net.classes, net.dim),
        "known": torch.zeros(1, net.classes, dtype=torch.bool, device=model.device),
    }


def down(state: Payload, ids: tuple[int, ...]) -> Payload:
    """The model and the prototypes, to each client."""
    return {name: value.expand(len(ids), *value.shape[1:]) for name, value in state.items()}


def client(
    problem: MultimodalProblem,
    payload: Payload,
    kept: Payload,
    cohort: Cohort,
    config: MethodConfig,
) -> tuple[Payload, Payload, Tensor]:
    """Local training by the prototypes, and what new ones are made of."""
    penalty = regulariser(payload["prototypes"], payload["known"], config.mfcpl)
    model, losses = problem.train(payload["model"], cohort, config, penalty=penalty)
    index, valid = everything(cohort.rows, problem.features.device)
    with torch.no_grad():
        batch = problem.batch(model, index, valid)
    classes = (one_hot(batch.target, problem.net.classes) * batch.whole[..., None]).to(model)
    sums = torch.stack([classes.mT @ own for own in batch.reading.own], 1)
    return {"model": model, "sums": sums, "rows": classes.sum(1)}, kept, losses


def regulariser(prototypes: Tensor, known: Tensor, config: MFCPLConfig) -> Penalty:
    """The three terms, by prototypes ``[C, 2, K, d]`` of the classes ``known [C, K]``."""

    def penalty(clients: Tensor, batch: Batch) -> Tensor:
        reading, target, has = batch.reading, batch.target, known[clients]
        assert reading.cross is not None
        terms: list[Tensor] = []
        for one, other in ((0, 1), (1, 0)):
            own, cross = reading.own[one], reading.cross[one]
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


def hear(
    heard: Payload, ids: tuple[int, ...], payload: Payload, sizes: Tensor, config: MethodConfig
) -> Payload:
    """Sums over the clients' models, and over what prototypes are made of."""
    heard = fedavg.hear(heard, ids, {"model": payload["model"]}, sizes, config)
    made = {name: payload[name] for name in ("sums", "rows")}
    return add_weighted(heard, made, torch.ones(len(sizes)), total="clients")


def server(
    problem: MultimodalProblem,
    state: Payload,
    heard: Payload,
    config: MethodConfig,
    generator: torch.Generator,
) -> Payload:
    """The mean of the models, and the prototypes of the classes that anybody has."""
    averaged = fedavg.server(problem, state, heard, config, generator)["model"]
    rows, old = heard["rows"].to(averaged.device), state["prototypes"][0]
    means = heard["sums"].to(averaged.device) / rows.clamp(min=1)[:, None]
    prototypes = torch.where((rows > 0)[:, None], means, old.double()).to(old)
    known = state["known"] | (rows > 0)
    return {"model": averaged, "prototypes": prototypes[None], "known": known}


METHOD = Method(init, down, client, hear, server, tasks=("multimodal_classification",))

"""PT-FUCH, prototype transfer (Li et al. 2023, ACM Multimedia, doi 10.1145/3581783.3613837).

client k, who keeps private networks:
    1. private networks ← E epochs on  F_k + a L_clu + b L_kd / L_clu
         L_clu   cross-entropy of each embedding to the cluster that its pair belongs to
         L_kd    squared differences between the pairs' similarities and the received model's;
                 divided by L_clu as a number, it counts for more as clusters become clear
    2. w_k ← E epochs from w_t on  F_k + c [JS(local prototypes) + JS(global prototypes)]
         local prototypes are clusters of the private networks' embeddings; both terms begin
         when the server has global prototypes: in round 2
    3. send w_k, prototypes and the number of pairs behind each
server:
    w ← mean of w_k
    global prototypes ← spherical k-means of all clients' prototypes

Chosen otherwise than published:

* Clusters are of all the client's pairs, anew before each of the two trainings, not of the current
  batch in every step. Who has fewer pairs than clusters has fewer clusters.
* Embeddings are unit rows, so L_clu has them over a temperature, in place of unnormalised outputs
  at temperature 1; a margin of 0.001 on the own cluster's logit is left out.
* Private networks of different clients share no space. By default (``space = "global"``) the
  prototypes that are sent are clusters of the *received* model's embeddings; ``"private"`` sends
  the private networks', as published.
* The server weights prototypes by the pairs behind them, and models by ``weighting``.
* A third training, of the text network alone on F_k, is not copied.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from fedsyn import ops
from fedsyn.core.batches import everything
from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.core.wire import Upload, Uploads
from fedsyn.methods.base import MethodConfig, Update
from fedsyn.methods.fedavg import FEDAVG
from fedsyn.models.retrieval import fuse
from fedsyn.objectives.pairs.base import PairBatch
from fedsyn.objectives.similarity import masked_mean, present
from fedsyn.ops.prototype_nce import prototype_logits
from fedsyn.settings.sections import Count, Field, NonNegative, Positive, Section
from fedsyn.synthesis.scores import global_prototypes
from fedsyn.tasks.base import Penalty
from fedsyn.tasks.retrieval import RETRIEVAL, RetrievalProblem


class PTFUCHOptions(Section):
    """Options of the method PT-FUCH."""

    prototypes: Count = Field(24, description="clusters of a client, and global prototypes")
    temperature: Positive = Field(0.26, description="temperature of the predictions")
    target_temperature: Positive = Field(0.81, description="temperature of the targets")
    distillation: NonNegative = Field(1.0, description="weight b of the distillation L_kd")
    cluster: NonNegative = Field(1.0, description="weight a of the cluster loss L_clu")
    transfer: NonNegative = Field(
        1.0, description="weight c of each prototype term of the global model"
    )
    space: Literal["global", "private"] = Field(
        "global", description="whose embeddings the sent prototypes are of"
    )


# The least that L_kd is divided by: a client with a single cluster has L_clu = 0.
LEAST = 0.1
# Prototypes [C, M, d], unit rows, and the pairs behind each [C, M]: 0 where there is none.
Clusters = tuple[Tensor, Tensor]


def client_state(problem: RetrievalProblem, model: Tensor) -> Payload:
    """Private networks start from the initial model."""
    return {"private": model}


def broadcast(state: Payload, ids: tuple[int, ...]) -> Payload:
    """The model and, once there are any, the global prototypes ``[C, G, d]``."""
    payload = FEDAVG.broadcast(state, ids)
    if "prototypes" in state:
        payload["prototypes"] = state["prototypes"].expand(len(ids), -1, -1)
    return payload


def client(
    problem: RetrievalProblem,
    received: Payload,
    state: Payload,
    cohort: Cohort,
    config: MethodConfig,
) -> Update:
    """Private networks learn from the received model, and that from prototypes."""
    model, private, own = received["model"], state["private"], config.of(PTFUCHOptions)
    teach = _teaching(problem, model, clusters(problem, private, cohort, own, "clusters"), own)
    private, _ = problem.train(private, cohort, config, "private", penalty=teach)
    local = clusters(problem, private, cohort, own, "prototypes")
    transfer = None
    if "prototypes" in received:
        world = received["prototypes"]
        everywhere = torch.ones_like(world[..., 0], dtype=torch.long)
        transfer = _transfer([local, (world, everywhere)], own)
    trained, losses = problem.train(model, cohort, config, penalty=transfer)
    if own.space == "global":
        local = clusters(problem, model, cohort, own, "prototypes")
    prototypes = {"prototypes": local[0], "counts": local[1]}
    upload = Upload(config.weighted(cohort, model=trained), prototypes)
    return Update(upload, {"private": private}, losses)


def clusters(
    problem: RetrievalProblem, models: Tensor, cohort: Cohort, config: PTFUCHOptions, purpose: str
) -> Clusters:
    """Spherical k-means of each client's fused embeddings by its row of ``models [C, P]``."""
    index, valid = everything(cohort.rows, problem.features.device)
    with torch.no_grad():
        fused = fuse(*problem.net.embed(models, problem.features[index]))
    valid &= fused.isfinite().all(-1)  # a diverged model is for the caller to tell
    centroids, _, counts = ops.kmeans(
        fused, config.prototypes, cohort.streams(purpose), valid=valid, spherical=True
    )
    return centroids, counts


def _teaching(
    problem: RetrievalProblem, received: Tensor, known: Clusters, config: PTFUCHOptions
) -> Penalty:
    """The terms of the private networks' training, a L_clu + b L_kd / L_clu."""

    def penalty(clients: Tensor, batch: PairBatch) -> Tensor:
        with torch.no_grad():
            teacher = problem.net.embed(received[clients], batch.pairs)
        clu = cluster_loss(batch, (known[0][clients], known[1][clients]), config.temperature)
        kd = distillation(batch, teacher)
        return config.cluster * clu + config.distillation * kd / clu.detach().clamp(min=LEAST)

    return penalty


def _transfer(references: Sequence[Clusters], config: PTFUCHOptions) -> Penalty:
    """The terms of the received model's training, c times the sum of both JS."""

    def penalty(clients: Tensor, batch: PairBatch) -> Tensor:
        terms = [
            js(batch, (prototypes[clients], counts[clients]), config)
            for prototypes, counts in references
        ]
        return config.transfer * (terms[0] + terms[1])

    return penalty


def cluster_loss(batch: PairBatch, known: Clusters, temperature: float) -> Tensor:
    """L_clu ``[C]``: both embeddings against the prototype nearest to the fused one, summed."""
    prototypes, alive = known[0], known[1] > 0
    nearest = prototype_logits(fuse(batch.image, batch.text), prototypes, 1.0, alive).argmax(-1)
    if batch.valid is not None:
        nearest = nearest.masked_fill(~batch.valid, -1)
    image, text = (
        ops.prototype_nce(z, prototypes, nearest, 1 / temperature, alive)
        for z in (batch.image, batch.text)
    )
    return image + text


def distillation(batch: PairBatch, teacher: tuple[Tensor, Tensor]) -> Tensor:
    """L_kd ``[C]``: mean squared differences of the Gram matrices II, TT, IT and TI, summed."""
    student_z, teacher_z = (
        torch.cat(both, -2) for both in ((batch.image, batch.text), teacher)
    )  # [C, 2B, d]
    squares = (student_z @ student_z.mT - teacher_z @ teacher_z.mT).square()
    if batch.valid is None:
        return squares.sum((-1, -2)) / batch.image.shape[-2] ** 2
    taken = batch.valid.repeat(1, 2)
    squares = squares.masked_fill(~(taken[:, None] & taken[..., None]), 0)
    return squares.sum((-1, -2)) / batch.valid.sum(-1).clamp(min=1) ** 2


def js(batch: PairBatch, known: Clusters, config: PTFUCHOptions) -> Tensor:
    """½ [KL(m‖p_image) + KL(m‖p_text)] ``[C]``, mean over pairs; as published, m has a gradient.

    p are the embeddings' softmax assignments to the prototypes at ``temperature``, m the mean of
    those at ``target_temperature``.
    """
    prototypes, alive = known[0], known[1] > 0
    both = batch.image, batch.text
    soft = [
        prototype_logits(z, prototypes, 1 / config.target_temperature, alive).softmax(-1)
        for z in both
    ]
    target = (soft[0] + soft[1]) / 2
    log_p = [
        prototype_logits(z, prototypes, 1 / config.temperature, alive).log_softmax(-1) for z in both
    ]
    # Prototypes that do not exist have target 0, whose logarithm is to be finite.
    log_target = target.clamp_min(torch.finfo(target.dtype).tiny).log()
    divergence = (target * (log_target - (log_p[0] + log_p[1]) / 2)).sum(-1)
    return masked_mean(divergence, present(batch))


def server(
    problem: RetrievalProblem,
    state: Payload,
    uploads: Uploads,
    config: MethodConfig,
    generator: torch.Generator,
) -> Payload:
    """The mean of the clients' models, and clusters ``[G, d]`` of their prototypes."""
    state = state | FEDAVG.server(problem, state, uploads, config, generator)
    prototypes, counts = uploads.own["prototypes"], uploads.own["counts"]
    if counts.any():
        number = config.of(PTFUCHOptions).prototypes
        world = global_prototypes(prototypes, counts, number, generator)
        state["prototypes"] = world.centroids.to(state["model"])
    return state


PT_FUCH = replace(
    FEDAVG,
    name="pt_fuch",
    options={"pt_fuch": PTFUCHOptions},
    broadcast=broadcast,
    client=client,
    server=server,
    client_state=client_state,
    tasks=(RETRIEVAL,),
    private="private",
)

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

import torch
from torch import Tensor

from fedsyn import ops
from fedsyn.config import MethodConfig, PTFUCHConfig
from fedsyn.core.aggregate import add_with_rows
from fedsyn.core.batches import everything
from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload, append
from fedsyn.methods import fedavg
from fedsyn.methods.base import Method
from fedsyn.models.retrieval import fuse
from fedsyn.objectives.pairs.base import Batch
from fedsyn.objectives.similarity import masked_mean, present
from fedsyn.ops.prototype_nce import prototype_logits
from fedsyn.synthesis.filtering import global_prototypes
from fedsyn.tasks.base import Penalty
from fedsyn.tasks.retrieval import RetrievalProblem

# The least that L_kd is divided by: a client with a single cluster has L_clu = 0.
LEAST = 0.1
# What the server hears of each client alone, beside the sums over all.
ROWS = ("prototypes", "counts")
# Prototypes [C, M, d], unit rows, and the pairs behind each [C, M]: 0 where there is none.
Clusters = tuple[Tensor, Tensor]


def keep(problem: RetrievalProblem, model: Tensor) -> Payload:
    """Private networks start from the initial model."""
    return {"private": model}


def down(state: Payload, ids: tuple[int, ...]) -> Payload:
    """The model and, once there are any, the global prototypes ``[C, G, d]``."""
    payload = fedavg.down(state, ids)
    if "prototypes" in state:
        payload["prototypes"] = state["prototypes"].expand(len(ids), -1, -1)
    return payload


def client(
    problem: RetrievalProblem, payload: Payload, kept: Payload, cohort: Cohort, config: MethodConfig
) -> tuple[Payload, Payload, Tensor]:
    """Private networks learn from the received model, and that from prototypes."""
    received, private, own = payload["model"], kept["private"], config.pt_fuch
    teach = _teaching(problem, received, clusters(problem, private, cohort, own, "clusters"), own)
    private, _ = problem.train(private, cohort, config, "private", penalty=teach)
    local = clusters(problem, private, cohort, own, "prototypes")
    transfer = None
    if "prototypes" in payload:
        world = payload["prototypes"]
        everywhere = torch.ones_like(world[..., 0], dtype=torch.long)
        transfer = _transfer([local, (world, everywhere)], own)
    model, losses = problem.train(received, cohort, config, penalty=transfer)
    if own.space == "global":
        local = clusters(problem, received, cohort, own, "prototypes")
    sent = {"model": model, "prototypes": local[0], "counts": local[1]}
    return sent, {"private": private}, losses


def clusters(
    problem: RetrievalProblem, models: Tensor, cohort: Cohort, config: PTFUCHConfig, purpose: str
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
    problem: RetrievalProblem, received: Tensor, known: Clusters, config: PTFUCHConfig
) -> Penalty:
    """The terms of the private networks' training, a L_clu + b L_kd / L_clu."""

    def penalty(clients: Tensor, batch: Batch) -> Tensor:
        with torch.no_grad():
            teacher = problem.net.embed(received[clients], batch.pairs)
        clu = cluster_loss(batch, (known[0][clients], known[1][clients]), config.temperature)
        kd = distillation(batch, teacher)
        return config.cluster * clu + config.distillation * kd / clu.detach().clamp(min=LEAST)

    return penalty


def _transfer(references: Sequence[Clusters], config: PTFUCHConfig) -> Penalty:
    """The terms of the received model's training, c times the sum of both JS."""

    def penalty(clients: Tensor, batch: Batch) -> Tensor:
        terms = [
            js(batch, (prototypes[clients], counts[clients]), config)
            for prototypes, counts in references
        ]
        return config.transfer * (terms[0] + terms[1])

    return penalty


def cluster_loss(batch: Batch, known: Clusters, temperature: float) -> Tensor:
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


def distillation(batch: Batch, teacher: tuple[Tensor, Tensor]) -> Tensor:
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


def js(batch: Batch, known: Clusters, config: PTFUCHConfig) -> Tensor:
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


def hear(
    heard: Payload, ids: tuple[int, ...], payload: Payload, sizes: Tensor, config: MethodConfig
) -> Payload:
    """Sums over the clients' models, and all their prototypes."""
    sums = fedavg.hear(heard, ids, {"model": payload["model"]}, sizes, config)
    return sums | append(heard, {name: payload[name] for name in ROWS})


def merge(heard: Payload, more: Payload) -> Payload:
    """Sums of sums, and all prototypes."""
    return add_with_rows(heard, more, ROWS)


def server(
    problem: RetrievalProblem,
    state: Payload,
    heard: Payload,
    config: MethodConfig,
    generator: torch.Generator,
) -> Payload:
    """The mean of the clients' models, and clusters ``[G, d]`` of their prototypes."""
    state = state | fedavg.server(problem, state, heard, config, generator)
    if heard["counts"].any():
        world = global_prototypes(
            heard["prototypes"], heard["counts"], config.pt_fuch.prototypes, generator
        )
        state["prototypes"] = world.centroids.to(state["model"])
    return state


METHOD = Method(fedavg.init, down, client, hear, server, keep, merge, tasks=("retrieval",))

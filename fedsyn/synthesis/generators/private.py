"""Private networks as the published system trains them: with clusters in their own space.

    C     centroids of the fused embeddings of the client's pairs (spherical k-means)
    L     = L_base + w · mean_i [CE(u_i Cᵀ − m e_y, y) + CE(v_i Cᵀ − m e_y, y)],  m = .001

where y is the centroid nearest to the fused embedding of pair i (Zhang et al., AAAI 2025, as the
code that was released with it has it). That code finds C anew in every step, of the batch alone;
here it is found once a round, of all the client's pairs. There u and v are not normalised; here
they are.
"""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fedsyn import ops
from fedsyn.core.batches import everything
from fedsyn.core.cohort import Cohort
from fedsyn.models.retrieval import RetrievalNet, fuse
from fedsyn.objectives.pairs.base import PairBatch
from fedsyn.ops.prototype_nce import prototype_logits
from fedsyn.synthesis.generators.constraints import ConstraintOptions
from fedsyn.synthesis.settings import SynthesisConfig
from fedsyn.tasks.base import Penalty

MARGIN = 0.001


def embedded_clusters(
    net: RetrievalNet,
    models: Tensor,  # [C, P]
    features: Tensor,  # [N, D]
    cohort: Cohort,
    number: int,
) -> tuple[Tensor, Tensor]:  # [C, number, d], [C, number]
    """Centroids of each client's pairs as its model embeds them, unit rows, and pairs of each.

    The same whenever they are found for the same models in the same round. 0 pairs: no centroid.
    """
    index, valid = everything(cohort.rows, features.device)
    with torch.no_grad():
        fused = fuse(*net.embed(models, features[index]))
    streams = cohort.streams("embedded-clusters")
    centroids, _, counts = ops.kmeans(fused, number, streams, valid=valid, spherical=True)
    return centroids, counts


def cluster_penalty(
    net: RetrievalNet,
    models: Tensor,  # [C, P] as training starts
    features: Tensor,  # [N, D]
    cohort: Cohort,
    config: SynthesisConfig,
) -> Penalty | None:
    """The cluster loss with its weight w, to be added to what private networks minimise."""
    own = config.of(ConstraintOptions)
    if not own.cluster:
        return None
    centroids, counts = embedded_clusters(net, models, features, cohort, own.embedding_clusters)
    alive = counts > 0

    def penalty(clients: Tensor, batch: PairBatch) -> Tensor:
        near, there = centroids[clients], alive[clients]
        fused = fuse(batch.image, batch.text).detach()
        nearest = prototype_logits(fused, near, 1.0, there).argmax(-1)
        margin = MARGIN * one_hot(nearest, near.shape[1])
        losses = torch.zeros_like(nearest, dtype=fused.dtype)
        for half in (batch.image, batch.text):
            logits = (prototype_logits(half, near, 1.0, there) - margin).log_softmax(-1)
            losses = losses - logits.take_along_dim(nearest[..., None], -1).squeeze(-1)
        if batch.valid is None:
            return own.cluster * losses.mean(-1)
        taken = batch.valid.sum(-1).clamp(min=1)
        return own.cluster * (losses * batch.valid).sum(-1) / taken

    return penalty

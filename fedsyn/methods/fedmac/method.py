"""FedMAC, rows that lack a half (Nguyen et al. 2024, arXiv 2410.03070).

server: as federated averaging
client k: w_k ← E epochs from w on  F_k + a₁ R + a₂ C + a₃ A

F_k is the cross-entropy under a classifier that stands something learnt in for a missing half and
weighs both halves by how far they are what the other makes expect (`fedsyn.methods.fedmac.network`;
what stands in is averaged like everything else). With z, x and d as there, and h_S the unit vector
of what the fusion head is given of a row of which the halves S are there,

R = Σ_u mean ‖z_u − x_v‖² / d                                        v: the other half
C = mean over u of the InfoNCE loss of h_{image, text} and h_{u},    at temperature τ
A = mean max(0, ⟨h_{image, text}, h_∅⟩)

over the rows with both halves. So a row is itself whichever half it lacks (C), and not what
nothing at all would be taken for (A).

The parts are the paper's as others describe it; their formulas are this file's reading.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fedsyn import ops
from fedsyn.config import FedMACConfig, MethodConfig
from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.methods import fedavg
from fedsyn.methods.base import Method
from fedsyn.models.fusion import FusionNet
from fedsyn.objectives.classes.halves import Batch
from fedsyn.objectives.similarity import masked_mean
from fedsyn.tasks.base import Penalty
from fedsyn.tasks.multimodal_classification import MultimodalProblem


def client(
    problem: MultimodalProblem,
    payload: Payload,
    kept: Payload,
    cohort: Cohort,
    config: MethodConfig,
) -> tuple[Payload, Payload, Tensor]:
    """Local training with the three terms."""
    penalty = regulariser(problem.net, config.fedmac)
    model, losses = problem.train(payload["model"], cohort, config, penalty=penalty)
    return {"model": model}, kept, losses


def regulariser(net: FusionNet, config: FedMACConfig) -> Penalty:
    """a₁ R + a₂ C + a₃ A of a batch."""

    def penalty(clients: Tensor, batch: Batch) -> Tensor:
        own, cross, rows = batch.reading.own, batch.reading.cross, batch.whole
        assert cross is not None

        def given(*halves: int) -> Tensor:
            """The rows' h, if only these halves were there."""
            present = torch.zeros_like(batch.present)
            for half in halves:
                present[..., half] = True
            fused = net.fuse(batch.reading.parts, own, cross, present)
            return normalize(torch.cat(fused, -1), dim=-1)

        whole = given(0, 1)
        apart = [(own[u] - cross[1 - u]).square().mean(-1) for u in (0, 1)]
        contrast = [
            ops.info_nce(whole, given(half), 1 / config.temperature, rows) for half in (0, 1)
        ]
        near = (whole * given()).sum(-1).clamp(min=0)
        return (
            config.reconstruction * masked_mean(apart[0] + apart[1], rows)
            + config.contrast * (contrast[0] + contrast[1]) / 2
            + config.anchor * masked_mean(near, rows)
        )

    return penalty


METHOD = Method(
    fedavg.init,
    fedavg.down,
    client,
    fedavg.hear,
    fedavg.server,
    tasks=("multimodal_classification",),
)

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

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fedsyn import ops
from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.core.wire import Upload
from fedsyn.methods.base import MethodConfig, Update
from fedsyn.methods.fedavg import FEDAVG
from fedsyn.methods.fedmac.network import MissingAwareNet
from fedsyn.models.fusion import FusionNet
from fedsyn.objectives.classes.halves import HalvesBatch
from fedsyn.objectives.similarity import masked_mean
from fedsyn.settings.sections import Field, NonNegative, Positive, Section
from fedsyn.tasks.base import Penalty
from fedsyn.tasks.multimodal_classification import MULTIMODAL_CLASSIFICATION, MultimodalProblem


class FedMACOptions(Section):
    """Options of the method FedMAC."""

    reconstruction: NonNegative = Field(0.1, description="weight a₁ of the reconstruction R")
    contrast: NonNegative = Field(0.1, description="weight a₂ of the contrast C")
    anchor: NonNegative = Field(0.1, description="weight a₃ of the anchor A")
    temperature: Positive = Field(0.5, description="temperature τ of the contrast")


def client(
    problem: MultimodalProblem,
    received: Payload,
    state: Payload,
    cohort: Cohort,
    config: MethodConfig,
) -> Update:
    """Local training with the three terms."""
    penalty = regulariser(problem.net, config.of(FedMACOptions))
    model, losses = problem.train(received["model"], cohort, config, penalty=penalty)
    return Update(Upload(config.weighted(cohort, model=model)), state, losses)


def regulariser(net: FusionNet, config: FedMACOptions) -> Penalty:
    """a₁ R + a₂ C + a₃ A of a batch."""

    def penalty(clients: Tensor, batch: HalvesBatch) -> Tensor:
        own, cross, rows = batch.reading.own, batch.reading.crossed(), batch.whole

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


def prepare(problem: MultimodalProblem, config: MethodConfig) -> MultimodalProblem:
    """With the network that knows what is missing."""
    net = problem.net
    aware = MissingAwareNet(net.image, net.text, net.hidden, net.dim, net.classes)
    return replace(problem, net=aware)


FEDMAC = replace(
    FEDAVG,
    name="fedmac",
    options={"fedmac": FedMACOptions},
    client=client,
    tasks=(MULTIMODAL_CLASSIFICATION,),
    prepare=prepare,
)

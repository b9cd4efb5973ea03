"""MOON, model-contrastive learning (Li et al. 2021, arXiv 2103.16257, algorithm 1).

server: as federated averaging
client k: w_k ← E epochs on  F_k + μ ℓ  from w_t;  keeps w_k as w_prev

ℓ = −log [ exp(sim(z, z_glob)/τ) / (exp(sim(z, z_glob)/τ) + exp(sim(z, z_prev)/τ)) ]    (eq. 3)

of a pair: z is its embedding by the model that trains, z_glob by w_t and z_prev by the client's
model at the end of its last local training (before that, the initial one). Here a pair has two
embeddings, and ℓ is the mean of theirs. sim is the cosine; embeddings are unit rows. The paper's
projection head is the network's own last layer.
"""

from dataclasses import replace

import torch
from torch import Tensor

from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.core.wire import Upload
from fedsyn.methods.base import MethodConfig, Update
from fedsyn.methods.fedavg import FEDAVG
from fedsyn.objectives.pairs.base import PairBatch
from fedsyn.objectives.similarity import contrast, masked_mean, present
from fedsyn.settings.sections import Field, NonNegative, Positive, Section
from fedsyn.tasks.retrieval import RETRIEVAL, RetrievalProblem


class MoonOptions(Section):
    """Options of the method MOON."""

    mu: NonNegative = Field(1.0, description="weight μ of the contrast of models")
    temperature: Positive = Field(0.5, description="temperature τ of that contrast")


def client_state(problem: RetrievalProblem, model: Tensor) -> Payload:
    """The initial model stands for that of an earlier local training."""
    return {"previous": model}


def client(
    problem: RetrievalProblem,
    received: Payload,
    state: Payload,
    cohort: Cohort,
    config: MethodConfig,
) -> Update:
    """Local training towards the received model's embeddings and away from the previous one's."""
    net, model, previous = problem.net, received["model"], state["previous"]
    own = config.of(MoonOptions)

    def penalty(clients: Tensor, batch: PairBatch) -> Tensor:
        with torch.no_grad():
            near, far = (net.embed(m[clients], batch.pairs) for m in (model, previous))
        losses = [
            contrast(z, z_near, z_far, own.temperature)
            for z, z_near, z_far in zip((batch.image, batch.text), near, far, strict=True)
        ]
        return own.mu * masked_mean((losses[0] + losses[1]) / 2, present(batch))

    trained, losses = problem.train(model, cohort, config, penalty=penalty)
    return Update(Upload(config.weighted(cohort, model=trained)), {"previous": trained}, losses)


MOON = replace(
    FEDAVG,
    name="moon",
    options={"moon": MoonOptions},
    client=client,
    client_state=client_state,
    tasks=(RETRIEVAL,),
)

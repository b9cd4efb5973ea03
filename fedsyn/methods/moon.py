"""MOON, model-contrastive learning (Li et al. 2021, arXiv 2103.16257, algorithm 1).

server: as federated averaging
client k: w_k ← E epochs on  F_k + μ ℓ  from w_t;  keeps w_k as w_prev

ℓ = −log [ exp(sim(z, z_glob)/τ) / (exp(sim(z, z_glob)/τ) + exp(sim(z, z_prev)/τ)) ]    (eq. 3)

of a pair: z is its embedding by the model that trains, z_glob by w_t and z_prev by the client's
model at the end of its last local training (before that, the initial one). Here a pair has two
embeddings, and ℓ is the mean of theirs. sim is the cosine; embeddings are unit rows. The paper's
projection head is the network's own last layer.
"""

import torch
from torch import Tensor

from fedsyn.config import MethodConfig
from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.methods import fedavg
from fedsyn.methods.base import Method
from fedsyn.objectives.pairs.base import Batch
from fedsyn.objectives.similarity import contrast, masked_mean, present
from fedsyn.tasks.retrieval import RetrievalProblem


def keep(problem: RetrievalProblem, model: Tensor) -> Payload:
    """The initial model stands for that of an earlier local training."""
    return {"previous": model}


def client(
    problem: RetrievalProblem, payload: Payload, kept: Payload, cohort: Cohort, config: MethodConfig
) -> tuple[Payload, Payload, Tensor]:
    """Local training towards the received model's embeddings and away from the previous one's."""
    net, received, previous = problem.net, payload["model"], kept["previous"]

    def penalty(clients: Tensor, batch: Batch) -> Tensor:
        with torch.no_grad():
            near, far = (net.embed(m[clients], batch.pairs) for m in (received, previous))
        losses = [
            contrast(z, z_near, z_far, config.moon.temperature)
            for z, z_near, z_far in zip((batch.image, batch.text), near, far, strict=True)
        ]
        return config.moon.mu * masked_mean((losses[0] + losses[1]) / 2, present(batch))

    model, losses = problem.train(received, cohort, config, penalty=penalty)
    return {"model": model}, {"previous": model}, losses


METHOD = Method(
    fedavg.init, fedavg.down, client, fedavg.hear, fedavg.server, keep, tasks=("retrieval",)
)

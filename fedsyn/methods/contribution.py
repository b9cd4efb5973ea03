"""Client contribution normalisation (2024, arXiv 2411.06352), over other methods.

The server weights clients by how alike the mean latent representations of their data are; clients
train as ever. That is its abstract's idea; the formula is our reading of it:

client k: beside what it sends, z_k ← the mean over its rows of both representations by the
    received model
server: w_k ∝ n_k / Σ_j exp(−‖z_k − z_j‖² / s²)       over clients with rows; s is the median
    distance of two of them

so that of many clients with the same data each counts for less. Weights are known when all clients
have been heard: until then their models are kept, not their sum.
"""

from dataclasses import replace

import torch
from torch import Tensor

from fedsyn.config import MethodConfig
from fedsyn.core.batches import everything
from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload, concatenate
from fedsyn.methods.base import Method
from fedsyn.objectives.similarity import masked_mean
from fedsyn.tasks.pairs import PairProblem

TASKS = ("retrieval", "vqa")  # those that have representations of both modalities
OURS = ("latent", "ids", "sizes")


def normalised(method: Method[PairProblem]) -> Method[PairProblem]:
    """The method with contributions in the place of ``weighting``."""

    def client(
        problem: PairProblem, payload: Payload, kept: Payload, cohort: Cohort, config: MethodConfig
    ) -> tuple[Payload, Payload, Tensor]:
        sent, kept, losses = method.client(problem, payload, kept, cohort, config)
        return sent | {"latent": latents(problem, payload["model"], cohort)}, kept, losses

    def server(
        problem: PairProblem,
        state: Payload,
        heard: Payload,
        config: MethodConfig,
        generator: torch.Generator,
    ) -> Payload:
        weights = contributions(heard["latent"], heard["sizes"])
        sent = {name: value for name, value in heard.items() if name not in OURS}
        by_size = config.model_copy(update={"weighting": "size"})
        sums = method.hear({}, tuple(heard["ids"].tolist()), sent, weights, by_size)
        return method.server(problem, state, sums, config, generator)

    tasks = tuple(name for name in TASKS if method.tasks is None or name in method.tasks)
    return replace(method, client=client, hear=_hear, server=server, merge=_merge, tasks=tasks)


def _hear(
    heard: Payload, ids: tuple[int, ...], payload: Payload, sizes: Tensor, config: MethodConfig
) -> Payload:
    return _merge(heard, payload | {"ids": torch.tensor(ids), "sizes": sizes})


def _merge(heard: Payload, more: Payload) -> Payload:
    return concatenate([heard, more]) if heard else more


def latents(problem: PairProblem, models: Tensor, cohort: Cohort) -> Tensor:
    """z_k of each client ``[C, 2 d]`` by its row of ``models [C, P]``; 0 without rows."""
    index, valid = everything(cohort.rows, problem.features.device)
    with torch.no_grad():
        both = torch.cat(problem.net.embed(models, problem.features[index]), -1)
    return torch.stack([masked_mean(column, valid) for column in both.unbind(-1)], -1)


def contributions(latent: Tensor, sizes: Tensor) -> Tensor:
    """w_k ``[C]`` in float64 of clients with representations ``[C, 2 d]`` and so many rows."""
    known = sizes > 0
    z, weights = latent[known].double(), sizes.double()
    distances = torch.cdist(z, z)
    others = distances[~torch.eye(len(z), dtype=torch.bool, device=z.device)]
    scale = others.median() if len(others) else distances.new_zeros(())
    if scale > 0:
        density = (-((distances / scale) ** 2)).exp().sum(-1)
        weights[known.to(weights.device)] /= density.to(weights.device)
    return weights

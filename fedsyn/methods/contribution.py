"""Client contribution normalisation (2024, arXiv 2411.06352), over other methods.

The server weights clients by how alike the mean latent representations of their data are; clients
train as ever. That is its abstract's idea; the formula is our reading of it:

client k: beside what it sends, z_k ← the mean over its rows of both representations by the
    received model
server: w_k ∝ n_k / Σ_j exp(−‖z_k − z_j‖² / s²)       over clients with rows; s is the median
    distance of two of them

so that of many clients with the same data each counts for less. Weights are known when all clients
have been heard: until then their models are kept, not their sum. So all that a client sends is its
own here.
"""

from dataclasses import replace

import torch
from torch import Tensor

from fedsyn.core.batches import everything
from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.core.wire import Upload, Uploads, add_up
from fedsyn.methods.base import Method, MethodConfig, Update
from fedsyn.objectives.similarity import masked_mean
from fedsyn.tasks.pairs import PairProblem

# Behind the names of a method's sums, in those of their weights: by whether a client's contribution
# says what they count.
WEIGHTED, FIXED = ".weighted", ".fixed"


def normalised(method: Method[PairProblem]) -> Method[PairProblem]:
    """The method with contributions in the place of ``weighting``."""

    def client(
        problem: PairProblem,
        received: Payload,
        state: Payload,
        cohort: Cohort,
        config: MethodConfig,
    ) -> Update:
        by_size = config.changed(weighting="size")
        update = method.client(problem, received, state, cohort, by_size)
        own = dict(update.upload.own)
        own["latent"] = latents(problem, received["model"], cohort)
        own["sizes"] = torch.tensor(cohort.sizes)
        for name, one in update.upload.sums.items():
            kind = WEIGHTED if one.weighted else FIXED
            own |= {name: one.value, f"{name}{kind}": one.weight}
        return replace(update, upload=Upload(own=own))

    def server(
        problem: PairProblem,
        state: Payload,
        uploads: Uploads,
        config: MethodConfig,
        generator: torch.Generator,
    ) -> Payload:
        own = dict(uploads.own)
        density = densities(own.pop("latent"), own.pop("sizes"))
        sums, weights = {}, {}
        for kind, divisor in ((WEIGHTED, density), (FIXED, torch.ones_like(density))):
            for name in [name for name in own if f"{name}{kind}" in own]:
                value, weight = own.pop(name), own.pop(f"{name}{kind}")
                sums[name], weights[name] = add_up(None, value, weight / divisor)
        return method.server(
            problem, state, Uploads(uploads.ids, sums, weights, own), config, generator
        )

    return replace(method, client=client, server=server)


def latents(problem: PairProblem, models: Tensor, cohort: Cohort) -> Tensor:
    """z_k of each client ``[C, 2 d]`` by its row of ``models [C, P]``; 0 without rows."""
    index, valid = everything(cohort.rows, problem.features.device)
    with torch.no_grad():
        both = torch.cat(problem.net.embed(models, problem.features[index]), -1)
    return torch.stack([masked_mean(column, valid) for column in both.unbind(-1)], -1)


def densities(latent: Tensor, sizes: Tensor) -> Tensor:
    """Σ_j exp(−‖z_k − z_j‖² / s²) ``[C]`` in float64 of clients with representations ``[C, 2 d]``.

    1 of a client without rows.
    """
    known = sizes > 0
    z, density = latent[known.to(latent.device)].double(), torch.ones(len(sizes)).double()
    distances = torch.cdist(z, z)
    others = distances[~torch.eye(len(z), dtype=torch.bool, device=z.device)]
    scale = others.median() if len(others) else distances.new_zeros(())
    if scale > 0:
        near = (-((distances / scale) ** 2)).exp().sum(-1)
        density[known.to(density.device)] = near.to(density.device)
    return density

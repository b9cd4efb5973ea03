"""FedFoA, aggregation of feature correlations (arXiv 2211.07364).

server: as federated averaging, and R̄ ← mean of R_k
client k: w_k ← E epochs on  F_k(w) + μ ‖R(w) − R̄‖_F²  from w_t
          send w_k and R_k, of all its pictures

Z / √n = Q R is the QR factorisation of n pictures' features Z [n, d], here unit rows: R is upper
triangular with a positive diagonal, and says how features go together, whatever the pictures are.
In the loss it is of a batch's first views. Of fewer pictures than features Z has no full rank: R is
that of Z / √n above √ε I, the Cholesky factor of Zᵀ Z / n + ε I. R̄ is known from round 2 on.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fedsyn.config import MethodConfig
from fedsyn.core.aggregate import WEIGHT, mean
from fedsyn.core.batches import everything
from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.methods import fedavg
from fedsyn.methods.base import Method
from fedsyn.objectives.views.base import Seen
from fedsyn.tasks.pictures import BLOCK
from fedsyn.tasks.representation import RepresentationProblem

EPSILON = 1e-3  # of a Gram matrix whose trace is 1


def down(state: Payload, ids: tuple[int, ...]) -> Payload:
    """The model and, once it is known, R̄ ``[C, d, d]``."""
    return {name: value.expand(len(ids), *value.shape[1:]) for name, value in state.items()}


def client(
    problem: RepresentationProblem,
    payload: Payload,
    kept: Payload,
    cohort: Cohort,
    config: MethodConfig,
) -> tuple[Payload, Payload, Tensor]:
    """Local training towards all clients' correlations, and the client's own."""

    def penalty(clients: Tensor, seen: Seen) -> Tensor:
        found = factor(gram(seen.features, seen.valid), seen.valid)
        return config.fedfoa.mu * (found - payload["relation"][clients]).square().sum((-2, -1))

    model, losses = problem.train(
        payload["model"], cohort, config, penalty=penalty if "relation" in payload else None
    )
    return {"model": model, "relation": relation(problem, model, cohort)}, kept, losses


def relation(problem: RepresentationProblem, models: Tensor, cohort: Cohort) -> Tensor:
    """R_k ``[C, d, d]`` of each client's pictures by its model ``[C, P]``."""
    index, valid = everything(cohort.rows, models.device)
    with torch.no_grad():
        parts = [
            gram(problem.net.encode(models, problem.features[at]), taken)
            for at, taken in zip(index.split(BLOCK, 1), valid.split(BLOCK, 1), strict=True)
        ]
    return factor(torch.stack(parts).sum(0), valid)


def gram(features: Tensor, valid: Tensor) -> Tensor:  # [C, B, d], [C, B] -> [C, d, d]
    """Zᵀ Z of the features that are ``valid``, as unit rows."""
    rows = normalize(features, dim=-1).masked_fill(~valid[..., None], 0)
    return rows.mT @ rows


def factor(products: Tensor, valid: Tensor) -> Tensor:  # [C, d, d], [C, n] -> [C, d, d]
    """R of features whose Zᵀ Z is given."""
    number = valid.sum(-1).clamp(min=1)[:, None, None]
    ridge = EPSILON * torch.eye(products.shape[-1], dtype=products.dtype, device=products.device)
    triangle: Tensor = torch.linalg.cholesky(products / number + ridge, upper=True)
    return triangle


def server(
    problem: RepresentationProblem,
    state: Payload,
    heard: Payload,
    config: MethodConfig,
    generator: torch.Generator,
) -> Payload:
    """The means of the clients' models and of their correlations."""
    if not heard[WEIGHT]:
        return state
    return {name: value.to(state["model"])[None] for name, value in mean(heard).items()}


METHOD = Method(fedavg.init, down, client, fedavg.hear, server, tasks=("representation",))

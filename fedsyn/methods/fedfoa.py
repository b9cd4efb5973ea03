"""FedFoA, aggregation of feature correlations (arXiv 2211.07364).

server: as federated averaging, and R̄ ← mean of R_k
client k: w_k ← E epochs on  F_k(w) + μ ‖R(w) − R̄‖_F²  from w_t
          send w_k and R_k, of all its pictures

Z / √n = Q R is the QR factorisation of n pictures' features Z [n, d], here unit rows: R is upper
triangular with a positive diagonal, and says how features go together, whatever the pictures are.
In the loss it is of a batch's first views. Of fewer pictures than features Z has no full rank: R is
that of Z / √n above √ε I, the Cholesky factor of Zᵀ Z / n + ε I. R̄ is known from round 2 on.
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fedsyn.core.batches import everything
from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.core.wire import Upload, Uploads
from fedsyn.methods.base import MethodConfig, Update, to_each
from fedsyn.methods.fedavg import FEDAVG
from fedsyn.objectives.views.base import Seen
from fedsyn.settings.sections import Field, NonNegative, Section
from fedsyn.tasks.pictures import BLOCK
from fedsyn.tasks.representation import REPRESENTATION, RepresentationProblem


class FedFoAOptions(Section):
    """Options of the method FedFoA."""

    mu: NonNegative = Field(1.0, description="weight μ of the distance of correlations")


EPSILON = 1e-3  # of a Gram matrix whose trace is 1


def client(
    problem: RepresentationProblem,
    received: Payload,
    state: Payload,
    cohort: Cohort,
    config: MethodConfig,
) -> Update:
    """Local training towards all clients' correlations, and the client's own."""
    mu = config.of(FedFoAOptions).mu

    def penalty(clients: Tensor, seen: Seen) -> Tensor:
        found = factor(gram(seen.features, seen.valid), seen.valid)
        return mu * (found - received["relation"][clients]).square().sum((-2, -1))

    model, losses = problem.train(
        received["model"], cohort, config, penalty=penalty if "relation" in received else None
    )
    found = relation(problem, model, cohort)
    return Update(Upload(config.weighted(cohort, model=model, relation=found)), state, losses)


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
    uploads: Uploads,
    config: MethodConfig,
    generator: torch.Generator,
) -> Payload:
    """The means of the clients' models and of their correlations."""
    if not uploads.weight("model"):
        return state
    return {name: uploads.mean(name).to(state["model"])[None] for name in ("model", "relation")}


FEDFOA = replace(
    FEDAVG,
    name="fedfoa",
    options={"fedfoa": FedFoAOptions},
    broadcast=to_each,
    client=client,
    server=server,
    tasks=(REPRESENTATION,),
    sends=("model", "relation"),
)

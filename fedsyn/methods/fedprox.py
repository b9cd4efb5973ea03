"""FedProx (Li et al. 2020, arXiv 1812.06127, algorithm 2).

server: as federated averaging
client k: w_k ← E epochs on  F_k(w) + μ/2 ‖w − w_t‖²  from w_t

The proximal term enters by its gradient μ (w − w_t), so reported losses are those of F_k. The
paper's clients solve to a given inexactness and its server samples them by size and takes the plain
mean; here they train as many epochs as everybody's, and ``weighting`` says what the mean is.
"""

from torch import Tensor

from fedsyn.config import MethodConfig
from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.core.training import Correction
from fedsyn.methods import fedavg
from fedsyn.methods.base import Method, Problem


def client(
    problem: Problem, payload: Payload, kept: Payload, cohort: Cohort, config: MethodConfig
) -> tuple[Payload, Payload, Tensor]:
    """Local training that is pulled towards the received model."""
    received = payload["model"]
    correction = pull(received, config.fedprox.mu)
    model, losses = problem.train(received, cohort, config, correction=correction)
    return {"model": model}, kept, losses


def pull(received: Tensor, mu: float) -> Correction:
    """The gradient μ (w − w_t) of the proximal term, by the received models ``[C, P]``."""

    def correction(params: Tensor, clients: Tensor) -> Tensor:
        return mu * (params - received[clients])

    return correction


METHOD = Method(fedavg.init, fedavg.down, client, fedavg.hear, fedavg.server)

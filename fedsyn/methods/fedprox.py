"""FedProx (Li et al. 2020, arXiv 1812.06127, algorithm 2).

server: as federated averaging
client k: w_k ← E epochs on  F_k(w) + μ/2 ‖w − w_t‖²  from w_t

The proximal term enters by its gradient μ (w − w_t), so reported losses are those of F_k. The
paper's clients solve to a given inexactness and its server samples them by size and takes the plain
mean; here they train as many epochs as everybody's, and ``weighting`` says what the mean is.
"""

from dataclasses import replace

from torch import Tensor

from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.core.training import Correction
from fedsyn.core.wire import Upload
from fedsyn.methods.base import MethodConfig, Problem, Update
from fedsyn.methods.fedavg import FEDAVG
from fedsyn.settings.sections import Field, NonNegative, Section


class FedProxOptions(Section):
    """Options of the method FedProx."""

    mu: NonNegative = Field(0.01, description="weight μ of the proximal term")


def client(
    problem: Problem, received: Payload, state: Payload, cohort: Cohort, config: MethodConfig
) -> Update:
    """Local training that is pulled towards the received model."""
    correction = pull(received["model"], config.of(FedProxOptions).mu)
    model, losses = problem.train(received["model"], cohort, config, correction=correction)
    return Update(Upload(config.weighted(cohort, model=model)), state, losses)


def pull(received: Tensor, mu: float) -> Correction:
    """The gradient μ (w − w_t) of the proximal term, by the received models ``[C, P]``."""

    def correction(params: Tensor, clients: Tensor) -> Tensor:
        return mu * (params - received[clients])

    return correction


FEDPROX = replace(FEDAVG, name="fedprox", options={"fedprox": FedProxOptions}, client=client)

"""Federated canonical correlation analysis: one exchange, and nothing is trained.

clients: Σ x, Σ y, Σ x xᵀ, Σ y yᵀ, Σ x yᵀ of their pairs
server:  A, B from their sums (`fedsyn.models.start`), with the ridge and the number of directions
         that clients' held-out pairs like best; codes are the signs of x A and y B

Hotelling 1936, regularised as by Vinod 1976. All of it is the start that other methods have too, so
that round 0 is the only one.
"""

from dataclasses import replace

import torch

from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.core.wire import Upload, Uploads
from fedsyn.methods.base import MethodConfig, Update
from fedsyn.methods.fedavg import FEDAVG
from fedsyn.models.mlp import MLP
from fedsyn.tasks.retrieval import RETRIEVAL, RetrievalProblem


def prepare(problem: RetrievalProblem, config: MethodConfig) -> RetrievalProblem:
    """With towers that are linear maps, and the closed form as the start."""
    net = problem.net
    image, text = (
        MLP(one.prefix, (one.widths[0], one.widths[-1])) for one in (net.image, net.text)
    )
    linear = replace(net, image=image, text=text, linear="none")
    return replace(problem, net=linear, start="closed-form")


def client(
    problem: RetrievalProblem,
    received: Payload,
    state: Payload,
    cohort: Cohort,
    config: MethodConfig,
) -> Update:
    """There is nothing to train."""
    return Update(Upload(), state, torch.zeros(len(cohort.ids)))


def server(
    problem: RetrievalProblem,
    state: Payload,
    uploads: Uploads,
    config: MethodConfig,
    generator: torch.Generator,
) -> Payload:
    """The model stays what it is."""
    return state


CCA = replace(
    FEDAVG,
    name="cca",
    tasks=(RETRIEVAL,),
    prepare=prepare,
    client=client,
    server=server,
    sends=(),
    extensible=False,
    rounds=0,
    baseline=True,
)

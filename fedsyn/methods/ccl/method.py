"""CCL, collaborative contrastive learning (Wu et al. 2022, IJCAI; arXiv 2111.10763).

server: θ, θ_k ← θ_0
every round:
    send θ, θ_k and R, features of some pictures of all clients
    client c, who keeps its queue Q_c: θ ← E epochs on  L_con + λ L_nei, of views x and x⁺
          θ_k ← m θ_k + (1 − m) θ;  q = f(x; θ),  k⁺ = f(x⁺; θ_k), which joins Q_c
          L_con   −log e^{q·k⁺/τ} / Σ_n e^{q·n/τ}  over n in Q_c ∪ R      (feature fusion)
          L_nei   −Σ_j p_j log p_j,  p ∝ e^{q·n_j/τ}  over the N features of Q_c ∪ R nearest to q
                  (neighbourhood matching), in rounds after the ``warmup``
        send θ, θ_k and features f(·; θ_k) of some of its pictures
    θ, θ_k ← means over clients;  R ← a uniform sample of the features sent

Every client is sent the same R and leaves out what is its own. The queue, the momentum m and the
temperature τ are those of the objective, ``moco``. Features are of views; of views mixed with those
of other pictures, and with random signs of pixels, as InstaHide's (Huang et al. 2020, arXiv
2010.02772), with ``mixed`` and ``signs``.
"""

from dataclasses import replace
from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import pad

from fedsyn.core import training
from fedsyn.core.batches import padded
from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.core.wire import Upload, Uploads
from fedsyn.data import augment
from fedsyn.errors import ConfigError
from fedsyn.methods.base import MethodConfig, Update, to_each
from fedsyn.methods.ccl.fused import Fused
from fedsyn.methods.fedavg import FEDAVG
from fedsyn.objectives.views.base import Learner, Momentum
from fedsyn.objectives.views.moco import MOCO, Contrast, MoCoObjective, Queue, empty
from fedsyn.settings.sections import Count, Field, NonNegative, Section, Whole
from fedsyn.tasks.base import batches
from fedsyn.tasks.representation import REPRESENTATION, RepresentationProblem


class CCLOptions(Section):
    """Options of CCL; its queue and temperature are those of ``[objective.moco]``."""

    fusion: bool = Field(True, description="whether others' features are negatives")
    matching: NonNegative = Field(
        1.0, description="weight λ of the entropy over neighbours; 0: no matching"
    )
    neighbours: Annotated[int, Field(ge=2)] = Field(10, description="number N of neighbours")
    warmup: Whole = Field(5, description="rounds without matching")
    features: Count = Field(64, description="features that a client sends")
    remote: Count = Field(256, description="features that everybody is sent")
    mixed: Count = Field(
        1, description="pictures mixed into one whose features are shared; 1: plain pictures"
    )
    signs: bool = Field(False, description="random signs of its pixels")


MODELS = ("model", "momentum")
NOBODY = -1  # the owner of no feature


def init(problem: RepresentationProblem, model: Tensor, clients: int) -> Payload:
    """One model, and its slow copy."""
    return {"model": model[None], "momentum": model[None].clone()}


def client_state(problem: RepresentationProblem, model: Tensor) -> Payload:
    """A queue of features without any."""
    queue = empty(1, _moco(problem).queue, problem.net.head.widths[-1], model)
    return {"queue": queue.keys[0], "count": queue.count[0]}


def client(
    problem: RepresentationProblem,
    received: Payload,
    state: Payload,
    cohort: Cohort,
    config: MethodConfig,
) -> Update:
    """Local training among own and others' features, and features for the others."""
    own, moco = config.of(CCLOptions), _moco(problem)
    slow = Momentum(received["momentum"].clone(), moco.momentum, begun=True)
    queue = Queue(state["queue"].clone(), state["count"].clone())
    contrast = Contrast(problem.net, moco.temperature, slow, queue)
    learner: Learner = contrast
    if "features" in received:
        ids = torch.tensor(cohort.ids, device=received["owner"].device)[:, None]
        others = (received["owner"] != NOBODY) & (received["owner"] != ids)
        matching = own.matching if cohort.round_number > own.warmup else 0.0
        learner = Fused(
            contrast, received["features"], others, own.fusion, matching, own.neighbours
        )
    model, losses = training.train(
        received["model"], problem.learning(learner, cohort, config, "local"),
        batches(cohort, config.batch, config.epochs, "local"), config.rule,
    )  # fmt: skip
    sums = config.weighted(cohort, model=model, momentum=slow.models)
    shares = own.fusion or own.matching
    shared = features(problem, slow.models, cohort, own) if shares else {}
    kept = {"queue": queue.keys, "count": queue.count}
    return Update(Upload(sums, shared), kept, losses)


def features(
    problem: RepresentationProblem, models: Tensor, cohort: Cohort, config: CCLOptions
) -> Payload:
    """Features ``[C, F, d]`` of some of each client's pictures, and how many exist ``[C]``."""
    generators, device = cohort.streams("features"), models.device
    chosen = [
        torch.from_numpy(rows)[torch.randperm(len(rows), generator=own)[: config.features]]
        for rows, own in zip(cohort.rows, generators, strict=True)
    ]
    index, valid = (part.to(device) for part in padded(chosen, config.features))
    numbers = augment.draw(generators, config.features).to(device)
    pictures = problem.view(index, numbers)
    if config.mixed > 1 or config.signs:
        sizes = [len(rows) for rows in chosen]
        pictures = augment.hide(pictures, sizes, generators, config.mixed, config.signs)
    with torch.no_grad():
        rows = problem.net.project(models, problem.net.encode(models, pictures), valid)
    return {"features": rows.masked_fill(~valid[..., None], 0), "shared": valid.sum(-1)}


def server(
    problem: RepresentationProblem,
    state: Payload,
    uploads: Uploads,
    config: MethodConfig,
    generator: torch.Generator,
) -> Payload:
    """The means of the clients' models, and a sample of their features, as many in every round."""
    if not uploads.weight("model"):
        return state
    state = {name: uploads.mean(name).to(state["model"])[None] for name in MODELS}
    sent, remote = uploads.own, config.of(CCLOptions).remote
    if "features" in sent:
        exist = torch.arange(sent["features"].shape[1]) < sent["shared"].cpu()[:, None]
        owner, place = exist.nonzero().unbind(-1)
        picked = torch.randperm(len(owner), generator=generator)[:remote]
        rows = sent["features"][owner[picked], place[picked]].to(state["model"])
        missing = remote - len(picked)
        state["features"] = pad(rows, (0, 0, 0, missing))[None]
        owners = pad(torch.tensor(uploads.ids)[owner[picked]], (0, missing), value=NOBODY)
        state["owner"] = owners.to(rows.device)[None]
    return state


def _moco(problem: RepresentationProblem) -> MoCoObjective:
    """The objective whose queue and temperature are the method's.

    Raises
    ------
    ConfigError
        If it is another.
    """
    if not isinstance(problem.objective, MoCoObjective):
        raise ConfigError(
            f"method.name = {CCL.name!r} keeps the queue of objective.name = {MOCO.name!r}, "
            f"got a {type(problem.objective).__name__}"
        )
    return problem.objective


def prepare(problem: RepresentationProblem, config: MethodConfig) -> RepresentationProblem:
    """As it is, if its objective has a queue."""
    _moco(problem)
    return problem


CCL = replace(
    FEDAVG,
    name="ccl",
    options={"ccl": CCLOptions},
    init=init,
    broadcast=to_each,
    client=client,
    server=server,
    client_state=client_state,
    tasks=(REPRESENTATION,),
    prepare=prepare,
    sends=MODELS,
)

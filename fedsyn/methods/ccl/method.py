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

import torch
from torch import Tensor
from torch.nn.functional import pad

from fedsyn.config import CCLConfig, MethodConfig
from fedsyn.core import training
from fedsyn.core.aggregate import WEIGHT, add_with_rows, mean
from fedsyn.core.batches import padded
from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload, append
from fedsyn.data import augment
from fedsyn.methods import fedavg
from fedsyn.methods.base import Method
from fedsyn.methods.ccl.fused import Fused
from fedsyn.objectives.views.base import Learner, Momentum
from fedsyn.objectives.views.moco import Contrast, MoCo, Queue, empty
from fedsyn.tasks.base import batches, optimizer
from fedsyn.tasks.representation import RepresentationProblem

MODELS = ("model", "momentum")
ROWS = ("features", "shared", "ids")  # what the server hears of each client alone
NOBODY = -1  # the owner of no feature


def init(problem: RepresentationProblem, model: Tensor, clients: int) -> Payload:
    """One model, and its slow copy."""
    return {"model": model[None], "momentum": model[None].clone()}


def down(state: Payload, ids: tuple[int, ...]) -> Payload:
    """All of it: once there are any, with features ``[C, R, d]`` and their owners ``[C, R]``."""
    return {name: value.expand(len(ids), *value.shape[1:]) for name, value in state.items()}


def keep(problem: RepresentationProblem, model: Tensor) -> Payload:
    """An empty queue."""
    queue = empty(1, _moco(problem).queue, problem.net.head.widths[-1], model)
    return {"queue": queue.keys[0], "count": queue.count[0]}


def client(
    problem: RepresentationProblem,
    payload: Payload,
    kept: Payload,
    cohort: Cohort,
    config: MethodConfig,
) -> tuple[Payload, Payload, Tensor]:
    """Local training among own and others' features, and features for the others."""
    own, moco = config.ccl, _moco(problem)
    slow = Momentum(payload["momentum"].clone(), moco.momentum, begun=True)
    queue = Queue(kept["queue"].clone(), kept["count"].clone())
    contrast = Contrast(problem.net, moco.temperature, slow, queue)
    learner: Learner = contrast
    if "features" in payload:
        ids = torch.tensor(cohort.ids, device=payload["owner"].device)[:, None]
        others = (payload["owner"] != NOBODY) & (payload["owner"] != ids)
        matching = own.matching if cohort.round > own.warmup else 0.0
        learner = Fused(contrast, payload["features"], others, own.fusion, matching, own.neighbours)
    model, losses = training.train(
        payload["model"], problem.learning(learner, cohort, config, "local"),
        batches(cohort, config.batch, config.epochs, "local"), optimizer(config),
    )  # fmt: skip
    sent = {"model": model, "momentum": slow.models}
    if own.fusion or own.matching:
        sent |= features(problem, slow.models, cohort, own)
    return sent, {"queue": queue.keys, "count": queue.count}, losses


def features(
    problem: RepresentationProblem, models: Tensor, cohort: Cohort, config: CCLConfig
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


def hear(
    heard: Payload, ids: tuple[int, ...], payload: Payload, sizes: Tensor, config: MethodConfig
) -> Payload:
    """Sums over the clients' models, and all their features."""
    sums = fedavg.hear(heard, ids, {name: payload[name] for name in MODELS}, sizes, config)
    if "features" not in payload:
        return sums
    sent = {name: payload[name] for name in ("features", "shared")}
    return sums | append(heard, sent | {"ids": torch.tensor(ids)})


def merge(heard: Payload, more: Payload) -> Payload:
    """Sums of sums, and all features."""
    return add_with_rows(heard, more, ROWS)


def server(
    problem: RepresentationProblem,
    state: Payload,
    heard: Payload,
    config: MethodConfig,
    generator: torch.Generator,
) -> Payload:
    """The means of the clients' models, and a sample of their features, as many in every round."""
    if not heard[WEIGHT]:
        return state
    means = mean({name: heard[name] for name in (*MODELS, WEIGHT)})
    state = {name: value.to(state["model"])[None] for name, value in means.items()}
    if "features" in heard:
        exist = torch.arange(heard["features"].shape[1]) < heard["shared"].cpu()[:, None]
        owner, place = exist.nonzero().unbind(-1)
        picked = torch.randperm(len(owner), generator=generator)[: config.ccl.remote]
        rows = heard["features"][owner[picked], place[picked]].to(state["model"])
        missing = config.ccl.remote - len(picked)
        state["features"] = pad(rows, (0, 0, 0, missing))[None]
        owners = pad(heard["ids"][owner[picked]], (0, missing), value=NOBODY)
        state["owner"] = owners.to(rows.device)[None]
    return state


def _moco(problem: RepresentationProblem) -> MoCo:
    """The objective, which `fedsyn.config.Config` has seen to."""
    assert isinstance(problem.objective, MoCo)
    return problem.objective


METHOD = Method(init, down, client, hear, server, keep, merge, tasks=("representation",))

"""CLIP2FL (Shi et al. 2024, arXiv 2312.08648) and CReFF (Shang et al. 2022, arXiv 2204.13399).

server: w ← w_0, an extractor and a classifier; φ ← the classifier of w_0
every round:
    send w and φ to the sampled clients
    client k: g_kc ← mean gradient of class c's cross-entropy in the classifier φ on the extractor
                     of w, for each of its classes
              w_k ← E epochs on  F_k + α T² KL(softmax(z / T) ‖ softmax(f / T))  from w,
                     z the teacher's logits of a picture, f its own
              send w_k and g_k
    w ← mean of w_k
    S ← features, as many of every class, whose gradients in φ point as Σ_k g_kc does (from those
        of the last round, at first noise), each near its class's name by the teacher
    φ ← a fresh classifier, trained on S
model: the extractor of w with φ

CReFF is the same without a teacher: α = 0, and nothing draws features to names. How S and φ are
found is in `fedsyn.methods.clip2fl.matching`.

Chosen otherwise than published: the rows behind g_kc are seen through the views of local training,
each its own, not through one differentiable augmentation of a class. The teacher looks at the
pictures themselves, once, not at views of them.
"""

from functools import partial

import torch
from torch import Tensor

from fedsyn.config import MethodConfig
from fedsyn.core.aggregate import WEIGHT, add_weighted
from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.data import augment
from fedsyn.methods import fedavg
from fedsyn.methods.base import Method
from fedsyn.methods.clip2fl.matching import class_gradients, match, retrain
from fedsyn.objectives.classes.cross_entropy import distillation
from fedsyn.tasks.base import Penalty
from fedsyn.tasks.image_classification import Batch, ImageClassificationProblem, draw_of_each


def down(state: Payload, ids: tuple[int, ...]) -> Payload:
    """The extractor with φ and, once it is another, the classifier of w."""
    names = [name for name in ("model", "classifier") if name in state]
    return {name: state[name].expand(len(ids), -1) for name in names}


def client(
    problem: ImageClassificationProblem,
    payload: Payload,
    kept: Payload,
    cohort: Cohort,
    config: MethodConfig,
    *,
    taught: bool,
) -> tuple[Payload, Payload, Tensor]:
    """Gradients at the extractor with φ, then local training from w."""
    received = payload["model"]
    gradients = gradients_at(problem, received, cohort, config)
    extractor, balanced = problem.net.split(received)
    start = torch.cat([extractor, payload.get("classifier", balanced)], -1)
    penalty = _teaching(problem, config) if taught else None
    model, losses = problem.train(start, cohort, config, penalty=penalty)
    return {"model": model, "gradients": gradients}, kept, losses


def _teaching(problem: ImageClassificationProblem, config: MethodConfig) -> Penalty:
    """α times the distillation of the teacher."""
    own, knowledge = config.clip2fl, problem.knowledge
    assert knowledge is not None  # (`fedsyn.tasks.image_classification.problem`)

    def penalty(clients: Tensor, batch: Batch) -> Tensor:
        teacher = knowledge[batch.rows]
        return own.distillation * distillation(batch.logits, teacher, batch.valid, own.temperature)

    return penalty


def gradients_at(
    problem: ImageClassificationProblem, models: Tensor, cohort: Cohort, config: MethodConfig
) -> Tensor:  # [C, L, D + 1, L]
    """g_c of each client's classes at its row of ``models [C, P]``, 0 of those it has not.

    The mean over ``creff.repeats`` draws of at most ``creff.draw`` rows a class.
    """
    net, own = problem.net, config.creff
    _, classifiers = net.split(models)
    shape = (net.dim + 1, net.classes)
    gradients = models.new_zeros(len(models), net.classes, *shape)
    for place, stream in enumerate(cohort.streams("gradients")):
        classes = problem.by_class(cohort.rows[place])
        for _ in range(own.repeats if any(map(len, classes)) else 0):
            index, valid = (
                part.to(models.device) for part in draw_of_each(classes, own.draw, stream)
            )
            drawn = index[valid]
            pixels = problem.view(drawn[None], augment.draw([stream], len(drawn)).to(models))
            with torch.no_grad():
                found = net.embed(models[place : place + 1], pixels)[0]
            features = found.new_zeros(*valid.shape, net.dim)
            features[valid] = found
            classifier = classifiers[place].view(shape)
            gradients[place] += class_gradients(features, classifier, valid) / own.repeats
    return gradients


def hear(
    heard: Payload, ids: tuple[int, ...], payload: Payload, sizes: Tensor, config: MethodConfig
) -> Payload:
    """Sums over the clients' models, and over their gradients."""
    heard = fedavg.hear(heard, ids, {"model": payload["model"]}, sizes, config)
    more = {"gradients": payload["gradients"]}
    return add_weighted(heard, more, (sizes > 0).double(), "answered")


def server(
    problem: ImageClassificationProblem,
    state: Payload,
    heard: Payload,
    config: MethodConfig,
    generator: torch.Generator,
    *,
    taught: bool,
) -> Payload:
    """The mean of the models, federated features, and the classifier trained on them."""
    if not heard[WEIGHT]:
        return state
    net, own, model = problem.net, config.creff, state["model"]
    extractor, classifier = net.split(fedavg.average(heard).to(model)[None])
    gradients = heard["gradients"].to(model)
    if "features" in state:
        features = state["features"]
    else:
        noise = torch.randn(net.classes, own.features, net.dim, generator=generator)
        features = noise.to(model)
    balanced = net.split(model)[1].view(net.dim + 1, net.classes)
    prototypes = problem.prototypes if taught else None
    features = match(
        features, gradients, balanced, own,
        None if prototypes is None else prototypes.to(model), config.clip2fl,
    )  # fmt: skip
    balanced = retrain(features, generator, own).view(1, -1)
    return {
        "model": torch.cat([extractor, balanced], -1),
        "classifier": classifier,
        "features": features,
    }


CREFF, CLIP2FL = (
    Method(
        fedavg.init, down, partial(client, taught=taught), hear, partial(server, taught=taught),
        tasks=("image_classification",),
    )
    for taught in (False, True)
)  # fmt: skip

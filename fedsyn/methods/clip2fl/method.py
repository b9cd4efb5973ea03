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

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.core.wire import Upload, Uploads
from fedsyn.data import augment
from fedsyn.data.settings import Needs
from fedsyn.methods.base import MethodConfig, Update, present, to_each
from fedsyn.methods.clip2fl.matching import (
    CLIP2FLOptions,
    CReFFOptions,
    class_gradients,
    match,
    retrain,
)
from fedsyn.methods.fedavg import FEDAVG
from fedsyn.objectives.classes.losses import distillation
from fedsyn.tasks.base import Penalty
from fedsyn.tasks.image_classification import (
    IMAGE_CLASSIFICATION,
    ImageClassificationProblem,
    PictureBatch,
    draw_of_each,
)


def broadcast(state: Payload, ids: tuple[int, ...]) -> Payload:
    """The extractor with φ and, once it is another, the classifier of w."""
    return to_each(state, ids, *(name for name in ("model", "classifier") if name in state))


def client(
    problem: ImageClassificationProblem,
    received: Payload,
    state: Payload,
    cohort: Cohort,
    config: MethodConfig,
    *,
    taught: bool,
) -> Update:
    """Gradients at the extractor with φ, then local training from w."""
    given = received["model"]
    gradients = gradients_at(problem, given, cohort, config)
    extractor, balanced = problem.net.split(given)
    start = torch.cat([extractor, received.get("classifier", balanced)], -1)
    penalty = _teaching(problem, config) if taught else None
    model, losses = problem.train(start, cohort, config, penalty=penalty)
    sums = config.weighted(cohort, model=model) | present(cohort, gradients=gradients)
    return Update(Upload(sums), state, losses)


def _teaching(problem: ImageClassificationProblem, config: MethodConfig) -> Penalty:
    """α times the distillation of the teacher."""
    own, (knowledge, _) = config.of(CLIP2FLOptions), _taught(problem)

    def penalty(clients: Tensor, batch: PictureBatch) -> Tensor:
        teacher = knowledge[batch.rows]
        return own.distillation * distillation(batch.logits, teacher, batch.valid, own.temperature)

    return penalty


def _taught(problem: ImageClassificationProblem) -> tuple[Tensor, Tensor]:
    """The teacher's logits of all rows and its embeddings of the classes' names.

    Raises
    ------
    ValueError
        If the problem has no teacher.
    """
    if problem.knowledge is None or problem.prototypes is None:
        raise ValueError("the method learns from a teacher, and the problem has none")
    return problem.knowledge, problem.prototypes


def gradients_at(
    problem: ImageClassificationProblem, models: Tensor, cohort: Cohort, config: MethodConfig
) -> Tensor:  # [C, L, D + 1, L]
    """g_c of each client's classes at its row of ``models [C, P]``, 0 of those it has not.

    The mean over ``creff.repeats`` draws of at most ``creff.draw`` rows a class.
    """
    net, own = problem.net, config.of(CReFFOptions)
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


def server(
    problem: ImageClassificationProblem,
    state: Payload,
    uploads: Uploads,
    config: MethodConfig,
    generator: torch.Generator,
    *,
    taught: bool,
) -> Payload:
    """The mean of the models, federated features, and the classifier trained on them."""
    if not uploads.weight("model"):
        return state
    net, own, model = problem.net, config.of(CReFFOptions), state["model"]
    extractor, classifier = net.split(uploads.mean("model").to(model)[None])
    gradients = uploads.sums["gradients"].to(model)
    if "features" in state:
        features = state["features"]
    else:
        noise = torch.randn(net.classes, own.features, net.dim, generator=generator)
        features = noise.to(model)
    balanced = net.split(model)[1].view(net.dim + 1, net.classes)
    prototypes = _taught(problem)[1].to(model) if taught else None
    contrast = config.of(CLIP2FLOptions) if taught else None
    features = match(features, gradients, balanced, own, prototypes, contrast)
    balanced = retrain(features, generator, own).view(1, -1)
    return {
        "model": torch.cat([extractor, balanced], -1),
        "classifier": classifier,
        "features": features,
    }


CREFF = replace(
    FEDAVG,
    name="creff",
    options={"creff": CReFFOptions},
    broadcast=broadcast,
    client=partial(client, taught=False),
    server=partial(server, taught=False),
    tasks=(IMAGE_CLASSIFICATION,),
    sends=("model", "gradients"),
)
CLIP2FL = replace(
    CREFF,
    name="clip2fl",
    options={"creff": CReFFOptions, "clip2fl": CLIP2FLOptions},
    client=partial(client, taught=True),
    server=partial(server, taught=True),
    needs=Needs(teacher=True),
)

"""FedCMI, cross-modal infiltration (Fan et al. 2024, arXiv 2401.00894).

server: w ← w_0
every round:
    send w to the sampled clients
    client k: T_c ← temperature of each class, by w on the client's rows
              w_k ← E epochs from w on  F_k + α L_inf + μ/2 ‖· − w‖²;  send w_k
    image (text) modules of w ← Σ n_k w_k / Σ n_k over the clients with images (texts)
    fusion head of w ← Σ n_k w_k / Σ n_k

F_k is the cross-entropy of the fusion head and, with weight ``modality``, of both modalities'
classifiers. A modality has a projector of its own (SP) and a cross projector (IP), and one
classifier for both. In each batch the modality with the greater sum of true-class probabilities is
the dominant one, and the other's cross projector learns from it as the received model knows it:

L_inf = − mean_i Σ_c softmax(teacher_i / T_{y_i})_c log softmax(student_i / T_{y_i})_c

    teacher: logits of w, of the dominant modality's own projection
    student: logits of the model that trains, of the weak modality's cross projection

With r_c the ratio of the mean true-class probabilities over class c, and r their mean over classes
(turned over where it is below 1), T_c = 1 / (1 + slope · ln(r_c / r)) where r_c > r, else 1: the
more a modality dominates in a class, the sharper the teacher. L_inf is of rows with both halves and
begins after the warm-up rounds.

Chosen otherwise than published:

* The cross projection also stands for the missing half of a row, whoever holds it, not only for
  that of all rows of a client with one modality; and such rows train the classifier of their half.
* The proximal term enters by its gradient, as in FedProx, and is off by default.
* Classes without rows on a client have temperature 1 and no part in r.
"""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from fedsyn.core.batches import everything
from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.core.training import Correction
from fedsyn.core.wire import Sum, Upload, Uploads
from fedsyn.methods.base import MethodConfig, Update
from fedsyn.methods.fedavg import FEDAVG
from fedsyn.methods.fedprox import pull
from fedsyn.metrics.classification import discrepancy, true_class
from fedsyn.models.fusion import MODALITIES
from fedsyn.objectives.classes.halves import HalvesBatch
from fedsyn.objectives.similarity import masked_mean
from fedsyn.settings.sections import Field, NonNegative, Positive, Section, Whole
from fedsyn.tasks.base import Penalty
from fedsyn.tasks.multimodal_classification import MULTIMODAL_CLASSIFICATION, MultimodalProblem


class FedCMIOptions(Section):
    """Options of FedCMI; what is 0 is left out."""

    modality: Positive = Field(2.0, description="weight of each modality's classifier")
    infiltration: NonNegative = Field(1.0, description="weight α of the infiltration")
    projector: Literal["cross", "own"] = Field(
        "cross", description="projector of the weak modality that learns from the dominant one"
    )
    slope: NonNegative = Field(2.0, description="slope of the temperatures")
    mu: NonNegative = Field(0.0, description="weight μ of the proximal term")
    warmup: Whole = Field(1, description="rounds without infiltration")


LEAST = 1e-6  # probability that ratios are made of


def client(
    problem: MultimodalProblem,
    received: Payload,
    state: Payload,
    cohort: Cohort,
    config: MethodConfig,
) -> Update:
    """Local training under infiltration; sent are the modules, and which modalities are held."""
    start, own = received["model"], config.of(FedCMIOptions)
    penalty: Penalty | None = None
    if own.infiltration and cohort.round_number > own.warmup:
        penalty = _infiltrating(problem, start, cohort, own)
    towards: Correction | None = pull(start, own.mu) if own.mu else None
    model, losses = problem.train(start, cohort, config, penalty=penalty, correction=towards)
    index, valid = everything(cohort.rows, problem.features.device)
    held = (problem.present[index] & valid[..., None]).any(1)
    return Update(
        Upload(_sums(problem.net.sides(model), held, config.weights(cohort))), state, losses
    )


def _sums(sides: dict[str, Tensor], held: Tensor, weights: Tensor) -> dict[str, Sum]:
    """The modules of each side: a modality's counts where it is held ``[C, 2]``."""
    shares = dict(zip(MODALITIES, held.cpu().unbind(-1), strict=True))
    return {
        side: Sum(value, weights * shares[side] if side in shares else weights)
        for side, value in sides.items()
    }


def _infiltrating(
    problem: MultimodalProblem, received: Tensor, cohort: Cohort, config: FedCMIOptions
) -> Penalty:
    """The infiltration term α L_inf of the loss."""
    net, temperature = problem.net, temperatures(problem, received, cohort, config.slope)

    def penalty(clients: Tensor, batch: HalvesBatch) -> Tensor:
        reading, target, rows = batch.reading, batch.target, batch.whole
        with torch.no_grad():
            known = net.read(received[clients], batch.features, batch.present)
            teachers = net.classify(known.parts, known.own)
            ratio = discrepancy(*net.classify(reading.parts, reading.own), target, rows)
        students = net.classify(reading.parts, reading.cross or reading.own)
        sharp = temperature[clients].gather(1, target)
        to_text = infiltration(teachers[0], students[1], sharp, rows)
        to_image = infiltration(teachers[1], students[0], sharp, rows)
        return config.infiltration * torch.where(ratio > 1, to_text, to_image)

    return penalty


def infiltration(
    teacher: Tensor,  # [C, B, K] logits
    student: Tensor,  # [C, B, K] logits
    temperature: Tensor,  # [C, B]
    mask: Tensor,  # [C, B] bool
) -> Tensor:  # [C]
    """L_inf over the rows in ``mask``."""
    target = (teacher / temperature[..., None]).softmax(-1)
    log = (student / temperature[..., None]).log_softmax(-1)
    return masked_mean(-(target * log).sum(-1), mask)


def temperatures(
    problem: MultimodalProblem, models: Tensor, cohort: Cohort, slope: float
) -> Tensor:  # [C, K]
    """T_c of each client's classes by its row of ``models [C, P]``."""
    net = problem.net
    index, valid = everything(cohort.rows, problem.features.device)
    with torch.no_grad():
        batch = problem.batch(models, index, valid)
        logits = net.classify(batch.reading.parts, batch.reading.own)
    classes = torch.nn.functional.one_hot(batch.target, net.classes) * batch.whole[..., None]
    rows = classes.sum(1)
    image, text = (
        (true_class(one, batch.target)[..., None] * classes).sum(1) / rows.clamp(min=1)
        for one in logits
    )
    ratio = image.clamp(min=LEAST) / text.clamp(min=LEAST)
    there = rows > 0
    mean_ratio, mean_inverse = (masked_mean(each, there)[:, None] for each in (ratio, 1 / ratio))
    excess = torch.where(mean_ratio > 1, ratio / mean_ratio, 1 / (ratio * mean_inverse))
    return torch.where(there & (excess > 1), 1 / (1 + slope * excess.log()), 1)


def server(
    problem: MultimodalProblem,
    state: Payload,
    uploads: Uploads,
    config: MethodConfig,
    generator: torch.Generator,
) -> Payload:
    """The mean of each module; one of which nobody has the modality stays."""
    model = state["model"]
    sides = problem.net.sides(model[0])
    for side in sides:
        if uploads.weight(side):
            sides[side] = uploads.mean(side).to(model)
    return {"model": torch.cat(list(sides.values()))[None]}


def prepare(problem: MultimodalProblem, config: MethodConfig) -> MultimodalProblem:
    """With cross projectors, if they learn, and classifiers of each modality."""
    own = config.of(FedCMIOptions)
    net = replace(problem.net, cross=own.projector == "cross")
    objective = replace(problem.objective, modality=own.modality)
    return replace(problem, net=net, objective=objective)


FEDCMI = replace(
    FEDAVG,
    name="fedcmi",
    options={"fedcmi": FedCMIOptions},
    client=client,
    server=server,
    tasks=(MULTIMODAL_CLASSIFICATION,),
    prepare=prepare,
    sends=(*MODALITIES, "fusion"),
)

"""Classification of pictures, whose classes may have a long tail."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fedsyn.core.batches import everything, padded
from fedsyn.core.cohort import Cohort
from fedsyn.core.training import Loss, Training
from fedsyn.data.federated import FederatedData
from fedsyn.data.settings import Needs
from fedsyn.errors import ConfigError
from fedsyn.metrics import classification
from fedsyn.metrics.table import of_rows
from fedsyn.models.picture_classifier import PictureClassifier
from fedsyn.models.resnet import ResNet
from fedsyn.objectives.base import ClassLoss
from fedsyn.objectives.classes.cross_entropy import CROSS_ENTROPY
from fedsyn.tasks.base import (
    HeldOut,
    Lesson,
    Outputs,
    Penalty,
    Task,
    TaskSettings,
    judged_as_trained,
    labels_of,
    objective_of,
)
from fedsyn.tasks.pictures import BLOCK, PictureProblem


class PictureBatch(NamedTuple):
    """A batch of every client and what the client's model makes of it."""

    params: Tensor  # [C, P]
    pixels: Tensor  # [C, B, H·W·channels], views of the pictures
    logits: Tensor  # [C, B, L]
    rows: Tensor  # [C, B] long
    label: Tensor  # [C, B] long
    valid: Tensor  # [C, B] bool


@dataclass(frozen=True, kw_only=True)
class ImageClassificationProblem(PictureProblem):
    """Pixels, labels and the network.

    ``training [L]`` counts the rows of each class that clients train on, where they are known.
    ``knowledge [N, L]`` are a teacher's logits, and ``prototypes [L, d]`` its embeddings of the
    classes' names, for methods that have a teacher.
    """

    net: PictureClassifier
    label: Tensor
    objective: ClassLoss
    training: Tensor | None = None
    knowledge: Tensor | None = None
    prototypes: Tensor | None = None

    ALIGNED: ClassVar[tuple[str, ...]] = (*PictureProblem.ALIGNED, "knowledge")

    def loss(
        self, cohort: Cohort, training: Training, purpose: str, penalty: Penalty | None = None
    ) -> Loss:
        """The objective of views of the pictures, which a penalty gets as a `PictureBatch`."""
        numbers = self.numbers(cohort, training, purpose)

        def loss(
            params: Tensor, clients: Tensor, index: Tensor, valid: Tensor, step: Tensor
        ) -> Tensor:
            pixels = self.view(index, numbers[step, clients])
            logits, label = self.net(params, pixels), self.label[index]
            value = self.objective(logits, label, valid)
            if penalty is None:
                return value
            return value + penalty(
                clients, PictureBatch(params, pixels, logits, index, label, valid)
            )

        return loss

    def by_class(self, rows: np.ndarray) -> list[Tensor]:
        """Of these rows those of each class, long ``[n]``."""
        mine = torch.from_numpy(rows)
        label = self.label[mine.to(self.label.device)].cpu()
        return [mine[label == c] for c in range(self.net.classes)]

    def held_out(
        self,
        models: Tensor,
        rows: Sequence[np.ndarray],
        batch: int,
        among: Sequence[np.ndarray] = (),
    ) -> HeldOut:
        """The objective, the mean over a client's classes, and how many classes those are.

        A mean over rows would choose models that know the frequent classes alone.
        """
        index, valid = everything(rows, self.features.device)
        label = self.label[index].masked_fill(~valid, 0)
        number = (one_hot(label, self.net.classes) * valid[..., None]).sum(1)  # [C, L]
        weight = 1 / number.gather(1, label).clamp(min=1)
        total = torch.zeros(len(rows), dtype=torch.float64, device=self.features.device)
        parts = (part.split(batch, 1) for part in (index, label, valid, weight))
        for at, known, taken, own in zip(*parts, strict=True):
            with torch.no_grad():
                losses = self.objective(self.net(models, self.features[at]), known, taken, own)
            total += losses.double() * taken.sum(-1)
        counts = (number > 0).sum(-1)
        return HeldOut(total / counts.clamp(min=1), counts)

    def outputs(self, model: Tensor, rows: Tensor) -> Outputs:
        """The predicted class ``[n]`` of each row."""
        with torch.no_grad():
            found = [
                self.net(model[None], self.features[part.to(self.features.device)][None])[0]
                for part in rows.split(BLOCK)
            ]
        return (torch.cat(found).argmax(-1),)

    def score(self, outputs: Outputs, rows: Tensor) -> dict[str, float]:
        """Accuracy over rows, over classes, and over classes by their training rows."""
        (predicted,) = outputs
        label = self.label[rows.to(self.label.device)].to(predicted.device)
        return classification.evaluate(predicted, label, self.training)


def draw_of_each(
    classes: Sequence[Tensor],  # rows of each
    most: int,
    stream: torch.Generator,
) -> tuple[Tensor, Tensor]:  # [L, most] long, [L, most] bool
    """At most so many rows of each class, at random, and which of the places they fill."""
    chosen = [rows[torch.randperm(len(rows), generator=stream)[:most]] for rows in classes]
    return padded(chosen, most)


def build(
    settings: TaskSettings, data: FederatedData, features: Tensor
) -> ImageClassificationProblem:
    """Network and objective as configured.

    Raises
    ------
    ConfigError
        If the objective is of another task, or the method's teacher cannot be had or has
        embeddings of another size.
    """
    judged_as_trained(IMAGE_CLASSIFICATION, settings)
    objective = objective_of(IMAGE_CLASSIFICATION, settings.chosen, "objective.name")
    label, names = labels_of(data), data.pairs.label_names
    own = settings.model
    encoder = ResNet("encoder", data.picture, own.channels, own.blocks, own.stride)
    built = ImageClassificationProblem(
        features=features,
        net=PictureClassifier(encoder, own.embedding, len(names)),
        label=label.to(features.device),
        public=torch.from_numpy(data.public),
        objective=objective(settings.objective),
        augment=settings.objective.augment,
    )
    held = torch.from_numpy(np.concatenate([built.rows(silo) for silo in data.silos]))
    if len(held):
        built = replace(built, training=torch.bincount(label[held], minlength=len(names)))
    return built if settings.lesson is None else _taught(built, settings.lesson, data)


def _taught(
    problem: ImageClassificationProblem, lesson: Lesson, data: FederatedData
) -> ImageClassificationProblem:
    """With what the teacher makes of the clients' rows and of the classes."""
    features, (*size, channels) = problem.features, data.picture
    shape = (-1, *size) if channels == 1 else (-1, *size, channels)
    rows = [torch.from_numpy(problem.rows(silo)).to(features.device) for silo in data.silos]
    pixels = [((features[own] + 1) * 127.5).round().byte().view(shape) for own in rows]
    logits, prototypes = lesson([own.numpy(force=True) for own in pixels], data.pairs.label_names)
    if prototypes.shape[1] != problem.net.dim:
        raise ConfigError(
            f"model.dim = {problem.net.dim} is not the size of the teacher's embeddings, "
            f"{prototypes.shape[1]}"
        )
    knowledge = features.new_zeros(len(features), problem.net.classes)
    knowledge[torch.cat(rows)] = logits.to(knowledge)
    return replace(problem, knowledge=knowledge, prototypes=prototypes)


# Views of pictures that leave them their class.
MILD = {"crop": 0.8, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "grey": 0.0}
IMAGE_CLASSIFICATION = Task(
    name="image_classification",
    problem=ImageClassificationProblem,
    build=build,
    protocol="classes",
    metrics=of_rows(
        "Classification",
        {
            "balanced_accuracy": "balanced accuracy",
            "accuracy": "accuracy",
            "many_shot": "many shot",
            "medium_shot": "medium shot",
            "few_shot": "few shot",
        },
    ),
    needs=Needs(labels=True, all_labelled=True, pixels=True),
    defaults={
        "data": {"standardize": False},
        "objective": {"name": CROSS_ENTROPY.name, "augment": MILD},
        "model": {"stride": 2},
        "method": {"lr": 3e-3, "batch": 32},
    },
)

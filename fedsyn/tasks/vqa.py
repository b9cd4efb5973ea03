"""Visual question answering: a picture and a question have one of the known answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fedsyn.core.batches import everything
from fedsyn.core.cohort import Cohort
from fedsyn.core.training import Loss, Training
from fedsyn.data.federated import FederatedData
from fedsyn.data.settings import Needs
from fedsyn.metrics import classification, probes
from fedsyn.metrics.table import of_rows
from fedsyn.models.answers import AnswerNet
from fedsyn.models.answers import build as build_net
from fedsyn.objectives.base import ClassLoss
from fedsyn.objectives.classes.cross_entropy import CROSS_ENTROPY
from fedsyn.objectives.classes.losses import cross_entropy
from fedsyn.tasks.base import (
    HeldOut,
    Outputs,
    Penalty,
    Task,
    TaskSettings,
    judged_as_trained,
    labels_of,
    objective_of,
)
from fedsyn.tasks.pairs import PairProblem, variants

QUESTION_ONLY = "question_only"


@dataclass(frozen=True, kw_only=True)
class VQAProblem(PairProblem):
    """Pictures, questions and answers, which are the label.

    ``guess [N]`` long is what a classifier of questions alone takes for the answer of test rows,
    where there is one.
    """

    net: AnswerNet
    label: Tensor
    guess: Tensor | None = None
    objective: ClassLoss = cross_entropy

    ALIGNED: ClassVar[tuple[str, ...]] = (*PairProblem.ALIGNED, "guess")

    def loss(
        self, cohort: Cohort, training: Training, purpose: str, penalty: Penalty | None = None
    ) -> Loss:
        """The objective of the answers; a penalty gets the batch's logits ``[c, B, answers]``."""

        def loss(
            params: Tensor, clients: Tensor, index: Tensor, valid: Tensor, step: Tensor
        ) -> Tensor:
            logits = self.net(params, self.features[index])
            value = self.objective(logits, self.label[index], valid)
            return value if penalty is None else value + penalty(clients, logits)

        return loss

    def held_out(
        self,
        models: Tensor,
        rows: Sequence[np.ndarray],
        batch: int,
        among: Sequence[np.ndarray] = (),
    ) -> HeldOut:
        """The objective of held-out questions' answers."""
        index, valid = everything(rows, self.features.device)
        with torch.no_grad():
            logits = self.net(models, self.features[index])
        return HeldOut(self.objective(logits, self.label[index], valid), valid.sum(-1))

    def outputs(self, model: Tensor, rows: Tensor) -> Outputs:
        """The likeliest answer ``[n]`` of each row."""
        with torch.no_grad():
            rows = rows.to(self.features.device)
            return (self.net(model[None], self.features[rows][None])[0].argmax(-1),)

    def score(self, outputs: Outputs, rows: Tensor) -> dict[str, float]:
        """The ``accuracy`` of the model, and that of a classifier of questions alone."""
        answers, label = outputs[0].cpu(), self.label.cpu()[rows]
        found = {"accuracy": classification.evaluate(answers, label)["accuracy"]}
        if self.guess is not None:
            guess = self.guess.cpu()[rows]
            found[QUESTION_ONLY] = classification.evaluate(guess, label)["accuracy"]
        return found


def build(settings: TaskSettings, data: FederatedData, features: Tensor) -> VQAProblem:
    """The network as configured, for questions about pictures of any features.

    Raises
    ------
    ConfigError
        If the objective is not one of classes.
    """
    judged_as_trained(VQA, settings)
    objective = objective_of(VQA, settings.chosen, "objective.name")(settings.objective)
    found, answers = labels_of(data), len(data.pairs.label_names)
    label = found.to(features.device)
    sizes = data.image.shape[1], data.text.shape[1], answers
    return VQAProblem(
        features=features,
        net=build_net(settings.model, *sizes),
        variants=variants(settings.model, lambda own: build_net(own, *sizes)),
        label=label,
        category=label,
        classes=answers,
        present=data.present,
        public=torch.from_numpy(data.public),
        guess=_by_question(data, found),
        objective=objective,
    )


def _by_question(data: FederatedData, label: Tensor) -> Tensor | None:
    """Answers by logistic regression on questions' features, fitted to the public rows.

    ``None`` where there are no public rows to fit it to, or no test rows to judge it by.
    """
    if not len(data.public) or not len(data.test):
        return None
    public, test = torch.from_numpy(data.public), torch.from_numpy(data.test)
    guess = torch.full_like(label, -1)
    guess[test] = probes.linear(data.text[public], label[public], data.text[test])
    return guess


VQA = Task(
    name="vqa",
    problem=VQAProblem,
    build=build,
    protocol="classes",
    metrics=of_rows("Answers", {"accuracy": "accuracy", QUESTION_ONLY: "question alone"}),
    needs=Needs(labels=True, all_labelled=True),
    defaults={
        "data": {"questions": 200, "public": 0.1},
        "objective": {"name": CROSS_ENTROPY.name},
    },
)

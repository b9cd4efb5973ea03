"""Classification of pairs by both halves, of which some rows may lack one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedsyn.core.batches import everything
from fedsyn.core.cohort import Cohort
from fedsyn.core.training import Loss, Training
from fedsyn.data.federated import FederatedData
from fedsyn.data.settings import Needs
from fedsyn.data.silos import Silo
from fedsyn.metrics import classification
from fedsyn.metrics.table import of_rows
from fedsyn.models.fusion import Both, FusionNet, Parts
from fedsyn.models.fusion import build as build_net
from fedsyn.objectives.classes.cross_entropy import CROSS_ENTROPY
from fedsyn.objectives.classes.halves import HalvesBatch, HalvesObjective
from fedsyn.tasks.base import (
    HeldOut,
    Outputs,
    Penalty,
    Problem,
    Task,
    TaskSettings,
    judged_as_trained,
    labels_of,
    objective_of,
)


@dataclass(frozen=True, kw_only=True)
class MultimodalProblem(Problem):
    """Pairs, their labels and halves, the network, and what clients minimise."""

    net: FusionNet
    label: Tensor
    present: Tensor
    objective: HalvesObjective

    def rows(self, silo: Silo) -> np.ndarray:
        """All but the holdout, also rows that lost a half."""
        return np.union1d(silo.pairs, np.union1d(silo.images, silo.texts))

    def batch(self, params: Tensor, index: Tensor, valid: Tensor) -> HalvesBatch:
        """Rows ``index [C, B]`` and what models ``[C, P]`` make of them."""
        features, present = self.features[index], self.present[index]
        reading = self.net.read(params, features, present)
        return HalvesBatch(features, reading, self.label[index], present, valid)

    def loss(
        self, cohort: Cohort, training: Training, purpose: str, penalty: Penalty | None = None
    ) -> Loss:
        """The objective of a batch, which a penalty gets as a `HalvesBatch`."""
        base = self.objective.training(self.net, cohort, training, purpose)

        def loss(
            params: Tensor, clients: Tensor, index: Tensor, valid: Tensor, step: Tensor
        ) -> Tensor:
            batch = self.batch(params, index, valid)
            value = base(params, clients, batch, step)
            return value if penalty is None else value + penalty(clients, batch)

        return loss

    def held_out(
        self,
        models: Tensor,
        rows: Sequence[np.ndarray],
        batch: int,
        among: Sequence[np.ndarray] = (),
    ) -> HeldOut:
        """The cross-entropy of the labelled ones."""
        index, valid = everything(rows, self.features.device)
        total = torch.zeros(len(rows), dtype=torch.float64, device=self.features.device)
        counts = torch.zeros(len(rows), dtype=torch.long, device=self.features.device)
        for part, taken in zip(index.split(batch, 1), valid.split(batch, 1), strict=True):
            with torch.no_grad():
                found = self.batch(models, part, taken)
                losses = self.objective(self.net, found)
            number = found.labelled.sum(-1)
            total += losses.double() * number
            counts += number
        return HeldOut(total / counts.clamp(min=1), counts)

    def outputs(self, model: Tensor, rows: Tensor) -> Outputs:
        """Logits ``[n, classes]`` by both halves, by the image and by the text.

        Those by one half are its classifier's or, where none is trained, those by a pair that has
        lost the other.
        """
        index = rows.to(self.features.device)[None]
        with torch.no_grad():
            batch = self.batch(model[None], index, torch.ones_like(index, dtype=torch.bool))
            parts, own, cross, fused = batch.reading
            if self.objective.modality:
                image, text = self.net.classify(parts, own)
            else:
                image, text = (
                    self._logits(parts, self.net.fuse(parts, own, cross, only))
                    for only in torch.eye(2, dtype=torch.bool, device=index.device)
                )
        return self._logits(parts, fused)[0], image[0], text[0]

    def _logits(self, parts: Parts, fused: Both) -> Tensor:  # [C, B, classes]
        image, text = self.net.halves(parts, fused)
        return image + text

    def score(self, outputs: Outputs, rows: Tensor) -> dict[str, float]:
        """Accuracy by both halves and by each alone, and how unequal these two are.

        ``imbalance`` is how many times the probability of the true class by the better half is that
        by the other, both added up over the rows.
        """
        names = ("accuracy", "image_accuracy", "text_accuracy")
        label = self.label[rows.to(self.label.device)].to(outputs[0].device)
        metrics = {
            name: classification.evaluate(logits.argmax(-1), label)["accuracy"]
            for name, logits in zip(names, outputs, strict=True)
        }
        _, image, text = outputs
        known = label >= 0
        ratio = classification.discrepancy(image, text, label.clamp(min=0), known)
        worse = torch.maximum(ratio, 1 / ratio).item() if known.any() else float("nan")
        return metrics | {"imbalance": worse}


def build(settings: TaskSettings, data: FederatedData, features: Tensor) -> MultimodalProblem:
    """Network and objective as configured, for labelled pairs of any features.

    Raises
    ------
    ConfigError
        If the objective or the criterion is not of this task, or the network has no hidden layer.
    """
    objective = objective_of(MULTIMODAL_CLASSIFICATION, settings.chosen, "objective.name")
    judged_as_trained(MULTIMODAL_CLASSIFICATION, settings)
    dims, classes = (data.image.shape[1], data.text.shape[1]), len(data.pairs.label_names)
    return MultimodalProblem(
        features=features,
        net=build_net(settings.model, *dims, classes),
        label=labels_of(data).to(features.device),
        present=data.present.to(features.device),
        public=torch.from_numpy(data.public),
        objective=objective(settings.objective),
    )


MULTIMODAL_CLASSIFICATION = Task(
    name="multimodal_classification",
    problem=MultimodalProblem,
    build=build,
    protocol="halves",
    metrics=of_rows(
        "Classification",
        {
            "accuracy": "accuracy",
            "image_accuracy": "image accuracy",
            "text_accuracy": "text accuracy",
            "imbalance": "imbalance ↓",
        },
        nouns={"imbalance": "imbalance"},
        apart=("imbalance",),
    ),
    needs=Needs(labels=True, all_labelled=True),
    defaults={
        "objective": {"name": CROSS_ENTROPY.name},
        "method": {
            "optimizer": "sgd",
            "lr": 0.01,
            "momentum": 0.9,
            "weight_decay": 1e-4,
            "batch": 32,
            "epochs": 3,
        },
        "run": {"rounds": 30},
    },
)

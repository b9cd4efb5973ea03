"""Classification of pairs by both halves, of which some rows may lack one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedsyn.config import Config, MethodConfig, ObjectiveConfig
from fedsyn.core.batches import everything
from fedsyn.core.cohort import Cohort
from fedsyn.core.training import Loss
from fedsyn.data.federated import FederatedData
from fedsyn.data.silos import Silo
from fedsyn.errors import ConfigError
from fedsyn.methods.fedmac.network import MissingAwareNet
from fedsyn.metrics import classification
from fedsyn.models.fusion import Both, FusionNet, Parts, build
from fedsyn.objectives.classes.halves import Batch, CrossEntropy
from fedsyn.objectives.classes.ogm_ge import OGMGE
from fedsyn.objectives.classes.opm import OPM
from fedsyn.tasks.base import Outputs, Penalty, Problem, check_objective

# By the weight of each modality's classifier.
OBJECTIVES: Mapping[str, Callable[[float, ObjectiveConfig], CrossEntropy]] = {
    "cross_entropy": lambda weight, config: CrossEntropy(weight),
    "ogm_ge": lambda weight, config: OGMGE(weight, config.ogm_ge),
    "opm": lambda weight, config: OPM(weight, config.opm),
}


@dataclass(frozen=True, kw_only=True)
class MultimodalProblem(Problem):
    """Pairs, their labels and halves, the network, and what clients minimise."""

    net: FusionNet
    label: Tensor
    present: Tensor
    objective: CrossEntropy

    def rows(self, silo: Silo) -> np.ndarray:
        """All but the holdout, also rows that lost a half."""
        return np.union1d(silo.pairs, np.union1d(silo.images, silo.texts))

    def batch(self, params: Tensor, index: Tensor, valid: Tensor) -> Batch:
        """Rows ``index [C, B]`` and what models ``[C, P]`` make of them."""
        features, present = self.features[index], self.present[index]
        reading = self.net.read(params, features, present)
        return Batch(features, reading, self.label[index], present, valid)

    def loss(
        self, cohort: Cohort, config: MethodConfig, purpose: str, penalty: Penalty | None = None
    ) -> Loss:
        """The objective of a batch, which a penalty gets as a `Batch`."""
        base = self.objective.training(self.net, cohort, config, purpose)

        def loss(
            params: Tensor, clients: Tensor, index: Tensor, valid: Tensor, step: Tensor
        ) -> Tensor:
            batch = self.batch(params, index, valid)
            value = base(params, clients, batch, step)
            return value if penalty is None else value + penalty(clients, batch)

        return loss

    def held_out(
        self, models: Tensor, rows: Sequence[np.ndarray], batch: int
    ) -> tuple[Tensor, Tensor]:
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
        return total / counts.clamp(min=1), counts

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


def problem(config: Config, data: FederatedData, features: Tensor) -> MultimodalProblem:
    """Network and objective as configured, for labelled pairs of any features.

    Raises
    ------
    ConfigError
        If the objective or the criterion is not of this task, or the network has no hidden layer.
    """
    check_objective(config, OBJECTIVES)
    if config.run.criterion != "objective":
        raise ConfigError(
            f"run.criterion = {config.run.criterion!r} is not of task.name = {config.task.name!r}; "
            "expected 'objective'"
        )
    assert data.one_label is not None  # (`fedsyn.data.described`)
    own, fedcmi = config.objective, config.method.name == "fedcmi"
    dims, classes = (data.image.shape[1], data.text.shape[1]), len(data.pairs.label_names)
    return MultimodalProblem(
        features=features,
        net=_net(config, *dims, classes),
        label=data.one_label.to(features.device),
        present=data.present.to(features.device),
        public=torch.from_numpy(data.public),
        objective=OBJECTIVES[own.name](
            config.method.fedcmi.modality if fedcmi else own.modality, own
        ),
    )


def _net(config: Config, image_dim: int, text_dim: int, classes: int) -> FusionNet:
    """The plain classifier, or that of the method."""
    own = config.method
    cross = own.name in ("mfcpl", "fedmac") or (
        own.name == "fedcmi" and own.fedcmi.projector == "cross"
    )
    kind = MissingAwareNet if own.name == "fedmac" else FusionNet
    return build(config.model, image_dim, text_dim, classes, cross, kind)

"""Self-supervised representation of pictures: features from which labels can be read off.

No label is trained with. Metrics fit probes (`fedsyn.metrics.probes`) to the labels of the public
rows where there are any, else of all rows that nobody tests on. Where all are test rows, every
other teaches the probes and is not tested on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedsyn import streams
from fedsyn.core.batches import in_order
from fedsyn.core.cohort import Cohort
from fedsyn.core.training import Loss, Training
from fedsyn.data import augment
from fedsyn.data.federated import FederatedData
from fedsyn.data.settings import Needs
from fedsyn.data.silos import NOTHING
from fedsyn.metrics import probes
from fedsyn.metrics.table import NO_BREAK, of_rows
from fedsyn.models.representation import RepresentationNet
from fedsyn.models.representation import build as build_net
from fedsyn.objectives.pairs.alignment_uniformity import ALIGNMENT_UNIFORMITY
from fedsyn.objectives.views.base import Learner, ViewObjective, Views
from fedsyn.objectives.views.moco import MOCO
from fedsyn.tasks.base import HeldOut, Outputs, Penalty, Task, TaskSettings, objective_of
from fedsyn.tasks.pictures import BLOCK, PictureProblem

UNLABELLED = -1


@dataclass(frozen=True, kw_only=True)
class RepresentationProblem(PictureProblem):
    """Pictures, the network, and what clients minimise on two views of each.

    ``criterion`` judges models on held-out pictures.
    """

    net: RepresentationNet
    objective: ViewObjective
    criterion: ViewObjective

    def loss(
        self, cohort: Cohort, training: Training, purpose: str, penalty: Penalty | None = None
    ) -> Loss:
        """The objective by two views of a batch's pictures; a penalty gets what it has `Seen`."""
        like = self.features.new_empty(len(cohort.ids), self.net.layout.size)
        learner = self.objective.begin(self.net, like)
        return self.learning(learner, cohort, training, purpose, penalty)

    def learning(
        self,
        learner: Learner,
        cohort: Cohort,
        training: Training,
        purpose: str,
        penalty: Penalty | None = None,
    ) -> Loss:
        """The loss of one local training by a learner of the cohort's clients."""
        numbers = self.numbers(cohort, training, purpose, 2)

        def loss(
            params: Tensor, clients: Tensor, index: Tensor, valid: Tensor, step: Tensor
        ) -> Tensor:
            views = self.views(index, valid, numbers[step, clients])
            seen = learner(params, clients, views, step)
            return seen.loss if penalty is None else seen.loss + penalty(clients, seen)

        return loss

    def views(self, index: Tensor, valid: Tensor, numbers: Tensor) -> Views:
        """Two views of each picture ``[C, B]``, by numbers ``[C, B, 2, numbers]``."""
        first, second = (self.view(index, own) for own in numbers.unbind(-2))
        return Views(first, second, valid)

    def held_out(
        self,
        models: Tensor,
        rows: Sequence[np.ndarray],
        batch: int,
        among: Sequence[np.ndarray] = (),
    ) -> HeldOut:
        """The criterion by views that are the same every time, in batches as in training; a client
        with one picture has nothing to contrast and counts 0.
        """
        plan, device = in_order(rows, batch), models.device
        learner = self.criterion.begin(self.net, models)
        total = torch.zeros(len(rows), dtype=torch.float64, device=device)
        clients, stream = torch.arange(len(rows), device=device), streams.generator(0, "held-out")
        for step, (index, valid) in enumerate(zip(plan.index, plan.valid, strict=True)):
            numbers = augment.draw([stream], batch, 2).expand(len(rows), -1, -1, -1)
            views = self.views(index.to(device), valid.to(device), numbers.to(self.features))
            with torch.no_grad():
                seen = learner(models, clients, views, torch.tensor(step, device=device))
            total += seen.loss.double() * views.valid.sum(-1)
        counts = plan.valid.sum((0, 2)).to(device)
        return HeldOut(total / counts.clamp(min=1), counts)

    def outputs(self, model: Tensor, rows: Tensor) -> Outputs:
        """The features ``[n, width]`` of pictures as they are."""
        pictures = self.features[rows.to(self.features.device)]
        with torch.no_grad():
            found = [self.net.encode(model[None], x[None])[0] for x in pictures.split(BLOCK)]
        return (torch.cat(found),)

    def probe(self, outputs: Outputs, probed: Outputs) -> Outputs:
        """The classes ``[n]`` by each of `probes.METRICS`; none where nothing can be probed."""
        if self.label is None or not probed:
            return ()
        (features,), (reference,) = outputs, probed
        label = self.label[self.probed.to(self.label.device)].to(features.device)
        predicted = probes.predict(reference, label, features)
        return tuple(predicted[name] for name in probes.METRICS if predicted)

    def score(self, outputs: Outputs, rows: Tensor) -> dict[str, float]:
        """Accuracies of probes; NaN where no row is labelled, or none probed."""
        if self.label is None or not outputs:
            return probes.judge({}, rows)
        truth = self.label.cpu().index_fill(0, self.probed, UNLABELLED)  # learnt is not judged
        predicted = zip(probes.METRICS, (classes.cpu() for classes in outputs), strict=True)
        return probes.judge(dict(predicted), truth[rows])


def build(settings: TaskSettings, data: FederatedData, features: Tensor) -> RepresentationProblem:
    """Network and objective as configured, for pictures of any size.

    Raises
    ------
    ConfigError
        If the objective, or the criterion, is not one of pictures, or does not take batches of the
        configured size.
    """
    objective, criterion = (
        objective_of(REPRESENTATION, one, key)(settings.objective)
        for one, key in (
            (settings.chosen, "objective.name"),
            (settings.criterion or settings.chosen, "run.criterion"),
        )
    )
    objective.accept(settings.training.batch)
    return RepresentationProblem(
        features=features,
        net=build_net(settings.model, data.picture, objective.predicts),
        label=data.one_label,
        public=torch.from_numpy(data.public),
        probed=torch.from_numpy(_probed(data)),
        objective=objective,
        criterion=criterion,
        augment=settings.objective.augment,
    )


def _probed(data: FederatedData) -> np.ndarray:
    """The labelled rows that probes learn from."""
    if data.one_label is None:
        return NOTHING
    untested = np.setdiff1d(np.arange(len(data.pairs)), data.test)
    # (A server of nodes may hold nothing but its test rows, a node no test rows.)
    choices = (data.public, untested, data.test[::2])
    known = next((rows for rows in choices if len(rows)), NOTHING)
    return np.asarray(known[data.one_label.numpy()[known] >= 0])


REPRESENTATION = Task(
    name="representation",
    problem=RepresentationProblem,
    build=build,
    protocol="views",
    metrics=of_rows(
        "Representation",
        {
            "linear_probe": "linear probe",
            "knn": "nearest neighbours",
            "semi_1": f"1{NO_BREAK}% of labels",
            "semi_10": f"10{NO_BREAK}% of labels",
        },
        nouns={"linear_probe": "linear-probe accuracy"},
    ),
    needs=Needs(pixels=True),
    defaults={
        "data": {"standardize": False},
        "objective": {"name": MOCO.name},
        "model": {"stride": 2},
        "method": {"epochs": 1},
        "run": {"criterion": ALIGNMENT_UNIFORMITY.name},
    },
)

"""Cross-modal retrieval: pictures and texts embedded in one space, without labels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedsyn import ops, streams
from fedsyn.core.batches import everything, in_order, steps
from fedsyn.core.cohort import Cohort
from fedsyn.core.training import Correction, Loss, Training
from fedsyn.data.federated import FederatedData
from fedsyn.metrics import retrieval
from fedsyn.metrics.table import NO_BREAK, MetricTable
from fedsyn.models.retrieval import RetrievalNet
from fedsyn.models.retrieval import build as build_net
from fedsyn.objectives.pairs.base import Held, PairBatch, PairObjective, Sizes
from fedsyn.objectives.pairs.info_nce import InfoNCELoss
from fedsyn.tasks.base import Outputs, Penalty, Task, TaskSettings, batches, objective_of
from fedsyn.tasks.pairs import PairProblem, variants


@dataclass(frozen=True, kw_only=True)
class RetrievalProblem(PairProblem):
    """Pairs, the network, and what clients minimise.

    ``criterion`` judges models on held-out pairs; metrics are of the first ``depth`` ranks, of all
    where ``None``. Labels, where there are any, tell which answers are relevant.
    """

    net: RetrievalNet
    objective: PairObjective
    criterion: PairObjective
    depth: int | None = None

    def loss(
        self, cohort: Cohort, training: Training, purpose: str, penalty: Penalty | None = None
    ) -> Loss:
        """The objective by the embeddings of a batch, which a penalty gets as a `PairBatch`."""
        net, features = self.net, self.features
        base = _objective(self.objective, features, cohort, training)

        def loss(
            params: Tensor, clients: Tensor, index: Tensor, valid: Tensor, step: Tensor
        ) -> Tensor:
            pairs = features[index]
            batch = PairBatch(*net.embed(params, pairs), pairs, valid)
            value = base(net.extras(params), batch, clients, index, step)
            return value if penalty is None else value + penalty(clients, batch)

        return loss

    def train(
        self,
        start: Tensor,
        cohort: Cohort,
        training: Training,
        purpose: str = "local",
        *,
        penalty: Penalty | None = None,
        correction: Correction | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As for every task.

        InfoNCE at a fixed temperature, and nothing else, has an operator of its own on a CPU;
        whatever else is minimised, or wherever, is differentiated step by step.
        """
        objective, net = self.objective, self.net
        alone = penalty is None and correction is None and self.features.device.type == "cpu"
        if not (alone and isinstance(objective, InfoNCELoss) and not objective.learnable):
            return super().train(
                start, cohort, training, purpose, penalty=penalty, correction=correction
            )
        plan, rule = batches(cohort, training.batch, training.epochs, purpose), training.rule
        return ops.train_info_nce(
            start, self.features, plan.index, plan.valid.sum(-1), net.towers,
            1 / objective.temperature, head=net.head, optimizer=rule.name, lr=rule.lr,
            betas=rule.betas, momentum=rule.momentum, weight_decay=rule.weight_decay, eps=rule.eps,
        )  # fmt: skip

    def held_out(
        self, models: Tensor, rows: Sequence[np.ndarray], batch: int
    ) -> tuple[Tensor, Tensor]:
        """The criterion, in batches as in training; a client with one pair has nothing to contrast
        and counts 0.
        """
        features, plan = self.features, in_order(rows, batch)
        total = torch.zeros(len(rows), dtype=torch.float64, device=features.device)
        extras = self.net.extras(models)
        for index, valid in zip(plan.index, plan.valid, strict=True):
            pairs, taken = features[index.to(features.device)], valid.to(features.device)
            with torch.no_grad():
                found = PairBatch(*self.net.embed(models, pairs), pairs, taken)
                losses = self.criterion(extras, found)
            total += losses.double() * taken.sum(-1)
        counts = plan.valid.sum((0, 2)).to(features.device)
        return total / counts.clamp(min=1), counts

    def outputs(self, model: Tensor, rows: Tensor) -> Outputs:
        """Both embeddings ``[n, d]`` of the pairs."""
        return self.represent(model, rows)

    def score(self, outputs: Outputs, rows: Tensor) -> dict[str, float]:
        """Retrieval metrics of all pairs, which are queries and gallery at once."""
        image, text = outputs
        label = self._label(rows, image.device)
        return retrieval.evaluate(image, text, label, bits=self.net.bits, depth=self.depth)

    def score_clients(
        self, outputs: Outputs, rows: Tensor, own: Sequence[np.ndarray]
    ) -> list[dict[str, float]]:
        """The same of each client's pairs, which rank only against each other."""
        image, text = outputs
        label = self._label(rows, image.device)
        return retrieval.evaluate_clients(
            image, text, label, own, bits=self.net.bits, depth=self.depth
        )

    def _label(self, rows: Tensor, device: torch.device) -> Tensor | None:
        return None if self.label is None else self.label[rows.to(self.label.device)].to(device)


def build(settings: TaskSettings, data: FederatedData, features: Tensor) -> RetrievalProblem:
    """Network and objective as configured, for pairs of any features.

    Raises
    ------
    ConfigError
        If the objective, or the criterion, is not one of pairs.
    """
    model = settings.model
    dims = data.image.shape[1], data.text.shape[1]
    sizes = Sizes(*dims, model.bits or model.dim, model.bits > 0)
    objective, criterion = (
        objective_of(RETRIEVAL, one, key)(settings.objective, sizes)
        for one, key in (
            (settings.chosen, "objective.name"),
            (settings.criterion, "run.criterion"),
        )
    )
    extra = objective.parameters(streams.generator(settings.seed, "objective"))
    return RetrievalProblem(
        features=features,
        net=build_net(model, *dims, extra),
        variants=variants(model, lambda own: build_net(own, *dims, extra)),
        label=data.label,
        category=None if data.one_label is None else data.one_label.to(features.device),
        classes=len(data.pairs.label_names),
        present=data.present,
        public=torch.from_numpy(data.public),
        objective=objective,
        criterion=criterion,
        depth=retrieval.TOP if settings.first_ranks else None,
    )


# base(parameters, batch, clients [c], index [c, B], step) -> [c]
_Base = Callable[[dict[str, Tensor], PairBatch, Tensor, Tensor, Tensor], Tensor]


def _objective(
    objective: PairObjective,
    features: Tensor,
    cohort: Cohort,
    training: Training,
) -> _Base:
    """The objective, with what it remembers of the cohort's pairs if it looks beyond the batch."""
    extra = np.empty(0, dtype=np.int64) if cohort.extra is None else cohort.extra.rows
    rows = [np.sort(np.concatenate([own, extra])) for own in cohort.rows]
    index, valid = everything(rows, features.device)
    once = steps(cohort.sizes, training.batch, 1).to(features.device)
    memory = objective.remember(Held(features, index, valid, once))
    if memory is None:
        return lambda params, batch, clients, index, step: objective(params, batch)
    held = index.masked_fill(~valid, len(features))  # ascending, so that places are found

    def remembering(
        params: dict[str, Tensor], batch: PairBatch, clients: Tensor, index: Tensor, step: Tensor
    ) -> Tensor:
        place = torch.searchsorted(held[clients], index)
        return memory(params, batch, clients, place, step)

    return remembering


RETRIEVAL = Task(
    name="retrieval",
    problem=RetrievalProblem,
    build=build,
    protocol="pairs",
    metrics=MetricTable(
        title="Retrieval",
        labels={
            "map": "mAP",
            "map50": "mAP@50",
            "map50_min": "mAP@50, min",
            "recall@1": "Recall@1",
            "recall@5": "Recall@5",
            "recall@10": "Recall@10",
            "rsum": "sum of recalls",
            "median_rank": "median rank ↓",
        },
        headlines=("map", "map50"),
        compared={
            "map": "map",
            "map50": "map50",
            "recall@1": "r1",
            "recall@5": "r5",
            "recall@10": "r10",
            "rsum": "rsum",
        },
        columns=("map", "map50"),
        sides={
            f"image →{NO_BREAK}text": "_i2t",
            f"text →{NO_BREAK}image": "_t2i",
            "both directions": "",
        },
        nouns={"map": "mean average precision", "map50": "mean average precision at 50"},
    ),
)

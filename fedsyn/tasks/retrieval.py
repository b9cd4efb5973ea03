"""Cross-modal retrieval: pictures and texts embedded in one space, without labels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedsyn import objectives, ops, streams
from fedsyn.config import Config, MethodConfig
from fedsyn.core.batches import everything, in_order, steps
from fedsyn.core.cohort import Cohort
from fedsyn.core.training import Correction, Loss
from fedsyn.data.federated import FederatedData
from fedsyn.metrics import retrieval
from fedsyn.models.retrieval import RetrievalNet, build
from fedsyn.objectives.pairs.alignment_uniformity import AlignmentUniformity
from fedsyn.objectives.pairs.base import Batch, Held, Objective, Sizes
from fedsyn.objectives.pairs.info_nce import InfoNCE
from fedsyn.tasks.base import Outputs, Penalty, batches, check_objective, optimizer
from fedsyn.tasks.pairs import PairProblem, variants


@dataclass(frozen=True, kw_only=True)
class RetrievalProblem(PairProblem):
    """Pairs, the network, and what clients minimise.

    ``criterion`` judges models on held-out pairs; metrics are of the first ``depth`` ranks, of all
    where ``None``. Labels, where there are any, tell which answers are relevant.
    """

    net: RetrievalNet
    objective: Objective
    criterion: Objective
    depth: int | None = None

    def loss(
        self, cohort: Cohort, config: MethodConfig, purpose: str, penalty: Penalty | None = None
    ) -> Loss:
        """The objective by the embeddings of a batch, which a penalty gets as a `Batch`."""
        net, features = self.net, self.features
        base = _objective(self.objective, features, cohort, config)

        def loss(
            params: Tensor, clients: Tensor, index: Tensor, valid: Tensor, step: Tensor
        ) -> Tensor:
            pairs = features[index]
            batch = Batch(*net.embed(params, pairs), pairs, valid)
            value = base(net.extras(params), batch, clients, index, step)
            return value if penalty is None else value + penalty(clients, batch)

        return loss

    def train(
        self,
        start: Tensor,
        cohort: Cohort,
        config: MethodConfig,
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
        if not (alone and isinstance(objective, InfoNCE) and not objective.learnable):
            return super().train(
                start, cohort, config, purpose, penalty=penalty, correction=correction
            )
        plan, rule = batches(cohort, config.batch, config.epochs, purpose), optimizer(config)
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
                found = Batch(*self.net.embed(models, pairs), pairs, taken)
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


def problem(config: Config, data: FederatedData, features: Tensor) -> RetrievalProblem:
    """Network and objective as configured, for pairs of any features.

    Raises
    ------
    ConfigError
        If the objective is not one of pairs.
    """
    check_objective(config, objectives.OBJECTIVES)
    dims = data.image.shape[1], data.text.shape[1]
    code = config.model.bits or config.model.dim
    objective = objectives.build(config.objective, Sizes(*dims, code, config.model.bits > 0))
    extra = objective.parameters(streams.generator(config.run.seed, "objective"))
    return RetrievalProblem(
        features=features,
        net=build(config.model, *dims, extra),
        variants=variants(config.model, lambda model: build(model, *dims, extra)),
        label=data.label,
        category=None if data.one_label is None else data.one_label.to(features.device),
        classes=len(data.pairs.label_names),
        present=data.present,
        public=torch.from_numpy(data.public),
        objective=objective,
        criterion=AlignmentUniformity() if config.run.criterion != "objective" else objective,
        depth=retrieval.TOP if config.run.ranking == "top" else None,
    )


# base(parameters, batch, clients [c], index [c, B], step) -> [c]
_Base = Callable[[dict[str, Tensor], Batch, Tensor, Tensor, Tensor], Tensor]


def _objective(
    objective: Objective,
    features: Tensor,
    cohort: Cohort,
    config: MethodConfig,
) -> _Base:
    """The objective, with what it remembers of the cohort's pairs if it looks beyond the batch."""
    extra = np.empty(0, dtype=np.int64) if cohort.extra is None else cohort.extra.rows
    rows = [np.sort(np.concatenate([own, extra])) for own in cohort.rows]
    index, valid = everything(rows, features.device)
    once = steps(cohort.sizes, config.batch, 1).to(features.device)
    memory = objective.remember(Held(features, index, valid, once))
    if memory is None:
        return lambda params, batch, clients, index, step: objective(params, batch)
    held = index.masked_fill(~valid, len(features))  # ascending, so that places are found

    def remembering(
        params: dict[str, Tensor], batch: Batch, clients: Tensor, index: Tensor, step: Tensor
    ) -> Tensor:
        place = torch.searchsorted(held[clients], index)
        return memory(params, batch, clients, place, step)

    return remembering

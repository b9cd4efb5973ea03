"""Cross-modal retrieval: pictures and texts embedded in one space, without labels.

Models are judged as a user without labels would: how far down is the own partner of a held-out pair
among the client's own pairs, as the mean logarithm of its rank (of a few held-out pairs alone the
rank would say little).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fedsyn import ops, streams
from fedsyn.core.batches import everything, in_order, steps
from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.core.training import Correction, Loss, Training
from fedsyn.data.federated import FederatedData
from fedsyn.errors import ConfigError
from fedsyn.metrics import retrieval
from fedsyn.metrics.table import NO_BREAK, MetricTable
from fedsyn.models.retrieval import RetrievalNet
from fedsyn.models.retrieval import build as build_net
from fedsyn.models.settings import Beginning, ModelConfig
from fedsyn.models.start import LinearStart, Moments, closed_form, identity, scaled
from fedsyn.objectives.pairs.base import Held, PairBatch, PairObjective, Sizes
from fedsyn.objectives.pairs.info_nce import InfoNCELoss
from fedsyn.tasks.base import (
    HeldOut,
    Outputs,
    Penalty,
    Start,
    Task,
    TaskSettings,
    batches,
    objective_of,
)
from fedsyn.tasks.pairs import PairProblem, variants

RIDGES = (0.1, 1.0, 10.0)  # of the closed form, of which held-out pairs choose
MOST_MOMENTS = 4096  # features of a pair, whose moments are eight million numbers
AMONG = 4096  # most of a client's pairs that a held-out one is ranked among
FIRST = 10  # ranks of the recall


@dataclass(frozen=True, kw_only=True)
class RetrievalProblem(PairProblem):
    """Pairs, the network, and what clients minimise.

    Attributes
    ----------
    objective : PairObjective
    criterion : PairObjective, optional
        What judges models on held-out pairs, where that is not the rank of a pair's own partner.
    depth : int, optional
        Metrics are of the first so many ranks; of all where ``None``. Labels, where there are any,
        tell which answers are relevant.
    start : {"closed-form", "identity", "auto", "random"}
        ``auto`` has both, where the features allow the identity.
    preprocessing : mapping of str to Tensor
        What the identity undoes; empty where the features are not as they were given.
    """

    net: RetrievalNet
    objective: PairObjective
    criterion: PairObjective | None = None
    depth: int | None = None
    start: Beginning = "random"
    preprocessing: Mapping[str, Tensor] = field(default_factory=dict)

    PARTNERS: ClassVar[bool] = True

    @property
    def asks_moments(self) -> bool:
        """Whether it starts from a linear map."""
        return self.start != "random"

    def starts(self, model: Tensor, moments: Payload) -> Sequence[Start]:
        """Closed forms of several ridges and numbers of directions, and the identity.

        Without a pair there is nothing to start from.
        """
        known = Moments.of(moments, self.net.image.widths[0])
        if not known.mean.isfinite().all():
            return ()
        square = float(self.net.code) if self.net.bits else 1.0
        return [
            Start(one.name, self.net.started(model.cpu(), scaled(one, known, square)).to(model))
            for one in self._linear_starts(known)
        ]

    def _linear_starts(self, moments: Moments) -> list[LinearStart]:
        found = []
        if self.preprocessing and self.start in ("auto", "identity"):
            found.append(identity(self.preprocessing))
        if self.start in ("auto", "closed-form"):
            out = self.net.code
            counts = sorted({out, *(count for count in (64,) if count < out)})
            turn = _rotation(out) if self.net.bits else None
            found += [
                closed_form(moments, out, ridge, count, rotation)
                for ridge in RIDGES
                for count in counts
                for rotation in ((None,) if turn is None else (None, turn))
            ]
        return found

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
            1 / objective.temperature, head=net.head, skip=net.linear, optimizer=rule.name,
            lr=rule.lr,
            betas=rule.betas, momentum=rule.momentum, weight_decay=rule.weight_decay, eps=rule.eps,
        )  # fmt: skip

    def held_out(
        self,
        models: Tensor,
        rows: Sequence[np.ndarray],
        batch: int,
        among: Sequence[np.ndarray] = (),
    ) -> HeldOut:
        """The mean log-rank of held-out pairs' own partners, in both directions, and their recall.

        They are ranked among the client's pairs, held-out ones included; pairs that tie with the
        own partner come before it. Where another criterion is configured it takes the place of the
        rank.
        """
        others = among or [mine[:0] for mine in rows]
        found = torch.zeros(2, len(rows), dtype=torch.float64)
        for place, (own, more) in enumerate(zip(rows, others, strict=True)):
            if len(own):
                ranks = self._partner_ranks(models[place : place + 1], own, more)
                found[0, place] = ranks.log().mean()
                found[1, place] = (ranks <= FIRST).double().mean()
        counts = torch.tensor([len(own) for own in rows])
        if self.criterion is None:
            return HeldOut(found[0], counts, found[1])
        return self._by(self.criterion, models, rows, batch)._replace(recall=found[1])

    def _partner_ranks(self, model: Tensor, own: np.ndarray, more: np.ndarray) -> Tensor:  # [2 n]
        """Ranks, from 1, of the partners of a client's held-out pairs by its model ``[1, P]``."""
        step = -(-len(more) // AMONG) or 1
        rows = torch.from_numpy(np.concatenate([own, more[::step]])).to(self.features.device)
        with torch.no_grad():
            image, text = (u[0] for u in self.net.embed(model, self.features[rows][None]))
        if self.net.bits:
            image, text = (ops.pack_bits(u >= 0) for u in (image, text))
        partner = torch.arange(len(own), device=image.device)
        ranks = [
            ops.partner_rank(query[: len(own)], gallery, partner, tied_behind=True)
            for query, gallery in ((image, text), (text, image))
        ]
        return torch.cat(ranks).double().cpu()

    def _by(
        self, criterion: PairObjective, models: Tensor, rows: Sequence[np.ndarray], batch: int
    ) -> HeldOut:
        """An objective, in batches as in training; one pair has nothing to contrast."""
        features, plan = self.features, in_order(rows, batch)
        total = torch.zeros(len(rows), dtype=torch.float64, device=features.device)
        extras = self.net.extras(models)
        for index, valid in zip(plan.index, plan.valid, strict=True):
            pairs, taken = features[index.to(features.device)], valid.to(features.device)
            with torch.no_grad():
                found = PairBatch(*self.net.embed(models, pairs), pairs, taken)
                losses = criterion(extras, found)
            total += losses.double() * taken.sum(-1)
        counts = plan.valid.sum((0, 2)).to(features.device)
        return HeldOut(total / counts.clamp(min=1), counts)

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
    start = _start(model, dims, data)
    whole = start in ("auto", "identity") and data.as_given and not model.bits
    out = dims[0] if whole and not model.dim else model.bits or model.embedding
    sizes = Sizes(*dims, out, model.bits > 0)
    objective = objective_of(RETRIEVAL, settings.chosen, "objective.name")(
        settings.objective, sizes
    )
    criterion = None
    if settings.criterion is not None:
        build = objective_of(RETRIEVAL, settings.criterion, "run.criterion")
        criterion = build(settings.objective, sizes)
    extra = objective.parameters(streams.generator(settings.seed, "objective"))
    return RetrievalProblem(
        features=features,
        net=build_net(model, *dims, extra, out, linear=start != "random"),
        variants=variants(model, lambda own: build_net(own, *dims, extra)),
        label=data.label,
        category=None if data.one_label is None else data.one_label.to(features.device),
        classes=len(data.pairs.label_names),
        present=data.present,
        public=torch.from_numpy(data.public),
        objective=objective,
        criterion=criterion,
        depth=retrieval.TOP if settings.first_ranks else None,
        start=start,
        preprocessing=data.preprocessing if whole and out == dims[0] else {},
    )


def _start(model: ModelConfig, dims: tuple[int, int], data: FederatedData) -> Beginning:
    """Where it starts, as far as the features allow it.

    Raises
    ------
    ConfigError
        If a start is asked for that they do not allow.
    """
    if model.start == "identity":
        if not data.as_given or dims[0] != dims[1] or model.bits or model.dim not in (0, dims[0]):
            raise ConfigError(
                "model.start = 'identity' keeps features that are aligned already: expected both "
                f"halves as features of one width, model.dim 0 or that, and model.bits 0; the "
                f"widths are {dims[0]} and {dims[1]}, dim {model.dim}, bits {model.bits}"
            )
    elif sum(dims) > MOST_MOMENTS:
        if model.start == "closed-form":
            raise ConfigError(
                f"model.start = 'closed-form' adds up moments of at most {MOST_MOMENTS} features "
                f"of a pair, which have {sum(dims)}; expected 'random'"
            )
        return "random"
    return model.start


def _rotation(size: int) -> Tensor:
    """A rotation ``[size, size]``, always the same."""
    drawn = torch.randn(size, size, generator=streams.generator(0, "rotation"), dtype=torch.float64)
    turn: Tensor = torch.linalg.qr(drawn).Q
    return turn


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
    defaults={"method": {"lr": 3e-3}},
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
        columns=("map", "recall@10"),
        gaps=("map", "recall@10"),
        sides={
            f"image →{NO_BREAK}text": "_i2t",
            f"text →{NO_BREAK}image": "_t2i",
            "both directions": "",
        },
        nouns={
            "map": "mean average precision",
            "map50": "mean average precision at 50",
            "recall@10": "recall of the very partner among ten",
        },
    ),
)

"""The shape of a task: what is learnt from what, and how a model of it is judged.

A federated method trains whatever the task is; a task knows the network, the loss of a client's
batch, and the metrics.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from fedsyn.core.batches import Batches, epochs, join
from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.core.training import Correction, Loss, Training, mean_gradient, train
from fedsyn.data.federated import FederatedData
from fedsyn.data.settings import Needs
from fedsyn.data.silos import Silo
from fedsyn.errors import ConfigError, DataError
from fedsyn.metrics.table import MetricTable
from fedsyn.models.layout import Layout
from fedsyn.models.settings import ModelConfig
from fedsyn.objectives import OBJECTIVES
from fedsyn.objectives.base import Objective, ObjectiveConfig
from fedsyn.profiling import phase
from fedsyn.settings.plugins import Plugin

# penalty(clients [c], batch) -> [c], added to a task's loss: positions of the clients in the
# cohort, and what the task makes of a batch.
Penalty = Callable[[Tensor, Any], Tensor]
Outputs = tuple[Tensor, ...]  # [n, ...] each: what a model makes of rows

NO_ROWS = torch.empty(0, dtype=torch.long)


class Net(Protocol):
    """A network whose parameters are one flat row ``[P]`` a client."""

    @property
    def layout(self) -> Layout:
        """Where each parameter lies in the row."""

    def init(self, generator: torch.Generator) -> Tensor:
        """A fresh model ``[P]`` as one row."""


class HeldOut(NamedTuple):
    """What clients find of a model on their held-out rows.

    Attributes
    ----------
    criterion : Tensor of shape [C]
        How bad it is, a mean over rows; 0 of a client without any.
    rows : Tensor of shape [C] long
        How many of them were judged.
    recall : Tensor of shape [C], optional
        Of tasks on pairs, how often a row's own partner is among the first ten.
    """

    criterion: Tensor
    rows: Tensor
    recall: Tensor | None = None


class Start(NamedTuple):
    """A model ``[P]`` to start from, and what it is."""

    name: str
    model: Tensor


@dataclass(frozen=True)
class Problem(ABC):
    """What a federation learns from what; one subclass a task.

    Attributes
    ----------
    features : Tensor [N, D]
        What the network sees of each row.
    net : Net
    label : Tensor [N] long, optional
        -1 is unlabelled.
    present : Tensor [N, 2] bool, optional
        Whether a row has its picture, and its text; ``None`` where all rows have both.
    public : Tensor [n] long
        Rows of pairs that everybody has.
    probed : Tensor [n] long
        Labelled rows that nobody tests on, for metrics that fit something to what a model makes
        of them.
    """

    features: Tensor
    net: Net
    label: Tensor | None = None
    present: Tensor | None = None
    public: Tensor = field(default=NO_ROWS)
    probed: Tensor = field(default=NO_ROWS)

    # The fields that have a row for each of the data's.
    ALIGNED: ClassVar[tuple[str, ...]] = ("features", "label", "present")
    # Whether rows have partners, so that held-out ones have a recall.
    PARTNERS: ClassVar[bool] = False

    def rows(self, silo: Silo) -> np.ndarray:
        """The rows of a client's that it trains on, ascending."""
        return silo.pairs

    @abstractmethod
    def loss(
        self, cohort: Cohort, training: Training, purpose: str, penalty: Penalty | None = None
    ) -> Loss:
        """The loss of one local training, as `fedsyn.core.training.train` asks for it."""

    @property
    def asks_moments(self) -> bool:
        """Whether it starts from sums over clients (`fedsyn.data.moments`)."""
        return False

    def starts(self, model: Tensor, moments: Payload) -> Sequence[Start]:
        """Models to start from, of which clients choose, in the place of ``model [P]``.

        ``moments`` are those of all clients' pairs, added up.
        """
        return ()

    @abstractmethod
    def held_out(
        self,
        models: Tensor,
        rows: Sequence[np.ndarray],
        batch: int,
        among: Sequence[np.ndarray] = (),
    ) -> HeldOut:
        """How bad each client's model ``[C, P]`` is on its held-out rows.

        ``among`` are each client's other rows, which the held-out ones are ranked among.
        """

    @abstractmethod
    def outputs(self, model: Tensor, rows: Tensor) -> Outputs:
        """What a model ``[P]`` makes of rows ``[n]``."""

    def probe(self, outputs: Outputs, probed: Outputs) -> Outputs:
        """What is judged: outputs of test rows, by default, whatever those of ``self.probed``."""
        return outputs

    @abstractmethod
    def score(self, outputs: Outputs, rows: Tensor) -> dict[str, float]:
        """Metrics of what is judged of test rows ``[n]``."""

    def score_clients(
        self, outputs: Outputs, rows: Tensor, own: Sequence[np.ndarray]
    ) -> list[dict[str, float]]:
        """`score` of each client on its own test rows: positions ``own`` among ``rows``."""
        places = [torch.from_numpy(mine) for mine in own]
        return [
            self.score(tuple(out[at.to(out.device)] for out in outputs), rows[at]) for at in places
        ]

    def train(
        self,
        start: Tensor,  # [C, P]
        cohort: Cohort,
        training: Training,
        purpose: str = "local",
        *,
        penalty: Penalty | None = None,
        correction: Correction | None = None,
    ) -> tuple[Tensor, Tensor]:  # [C, P], [C]
        """``training.epochs`` passes over each client's rows from its row of ``start``.

        Where the cohort has ``extra`` rows, some join every batch, as rows like its own.

        Parameters
        ----------
        penalty : callable, optional
            A method's own term of the loss, by what the task makes of a batch.
        correction : callable, optional
            A method's own term of the gradient, by the parameters.

        Returns
        -------
        trained : Tensor [C, P]
        loss : Tensor [C]
            Mean over each client's steps, with the penalty.
        """
        plan = batches(cohort, training.batch, training.epochs, purpose)
        loss = self.loss(cohort, training, purpose, penalty)
        return train(start, loss, plan, training.rule, correction)

    def mean_gradient(
        self, models: Tensor, cohort: Cohort, training: Training, purpose: str
    ) -> Tensor:  # [C, P]
        """The loss's gradient at each client's model, the mean over one pass's batches."""
        plan = batches(cohort, training.batch, 1, purpose)
        return mean_gradient(models, self.loss(cohort, training, purpose), plan)

    def take(self, rows: Tensor) -> Self:
        """These rows alone, copied; what is public or probed must be added by the caller."""
        return self._mapped(lambda value: value[rows.to(value.device)])

    def to(self, device: torch.device) -> Self:
        """The same problem, its rows on ``device``."""
        return self._mapped(lambda value: value.to(device))

    def noise(self, rows: int, generator: torch.Generator) -> Self:
        """So many rows of noise, and as many public ones as there are, in the same form."""
        total = rows + len(self.public)

        def like(value: Tensor) -> Tensor:
            if value.is_floating_point():
                return torch.randn(total, *value.shape[1:], generator=generator)
            if not len(value):
                return value.new_zeros(total, *value.shape[1:])
            # (Labels and flags that there are: not every number is one.)
            pick = torch.randint(len(value), (total,), generator=generator)
            return value[pick.to(value.device)].cpu()

        return replace(self._mapped(like), public=torch.arange(rows, total))

    def _mapped(self, function: Callable[[Tensor], Tensor]) -> Self:
        changed: Mapping[str, Any] = {
            name: function(value)
            for name in self.ALIGNED
            if (value := getattr(self, name)) is not None
        }
        return replace(self, **changed)


def batches(cohort: Cohort, batch: int, passes: int, purpose: str) -> Batches:
    """Shuffled passes over each client's rows; extra ones join every batch."""
    with phase("gather"):
        generators = cohort.streams(purpose)
        plan = epochs(cohort.rows, batch, passes, generators)
        if cohort.extra is None:
            return plan
        return join(plan, cohort.extra.rows, cohort.extra.batch, generators)


# What a frozen dual encoder says of pictures: logits [N, L] of all of them, and unit rows [L, d] of
# the classes' names. Asked with the pixels of each client and the names.
Lesson = Callable[[Sequence[np.ndarray], Sequence[str]], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class TaskSettings:
    """What a task is told of a run, to build its problem.

    Attributes
    ----------
    model : ModelConfig
    objective : ObjectiveConfig
        Options of the objectives.
    chosen : Objective
        What clients minimise.
    criterion : Objective, optional
        What judges models on held-out rows; where it is not given, the task's own judgement.
    training : Training
        How clients train locally.
    seed : int
    first_ranks : bool
        Whether metrics are of the first ranks alone.
    lesson : callable, optional
        A teacher's, where the method needs one.
    """

    model: ModelConfig
    objective: ObjectiveConfig
    chosen: Objective
    criterion: Objective | None
    training: Training
    seed: int = 0
    first_ranks: bool = False
    lesson: Lesson | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Task(Plugin):
    """What is learnt from what, as a plug-in.

    Attributes
    ----------
    problem : type of Problem
    build : ``(settings, data, features) -> Problem``
        ``features`` are those of the data, where they are held.
    protocol : str
        The kind of objective that clients minimise: a field of `fedsyn.objectives.base.Objective`.
    metrics : MetricTable
        What models are judged by.
    needs : Needs
    """

    problem: type[Problem]
    build: Callable[[TaskSettings, FederatedData, Tensor], Problem]
    protocol: str
    metrics: MetricTable
    needs: Needs = field(default_factory=Needs)


def judged_as_trained(task: Task, settings: TaskSettings) -> None:
    """Refuse another criterion than what clients minimise; raises `ConfigError`."""
    if settings.criterion not in (None, settings.chosen):
        raise ConfigError(
            f"run.criterion = {settings.criterion.name!r} is not of task.name = {task.name!r}; "
            "expected 'objective'"
        )


def objective_of(task: Task, objective: Objective, key: str) -> Any:
    """What builds an objective for a task.

    Raises
    ------
    ConfigError
        If the objective is of other tasks: the message names the ``key`` of the configuration, and
        those of this package that are of this one.
    """
    build = getattr(objective, task.protocol)
    if build is None:
        names = [one.name for one in OBJECTIVES if getattr(one, task.protocol) is not None]
        raise ConfigError(
            f"{key} = {objective.name!r} is not of task.name = {task.name!r}; "
            f"expected one of {', '.join(map(repr, names))}"
        )
    return build


def labels_of(data: FederatedData) -> Tensor:
    """One label a row ``[N]``, -1 for none.

    Raises
    ------
    DataError
        If the data have no labels.
    """
    label = data.one_label
    if label is None:
        raise DataError(f"there are no labels to learn from, and {data.pairs.name} has none")
    return label

"""The shape of a task: what is learnt from what, and how a model of it is judged.

A federated method trains whatever the task is; a task knows the network, the loss of a client's
batch, and the metrics.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from fedsyn.config import Config, MethodConfig
from fedsyn.core import training
from fedsyn.core.batches import Batches, epochs, join
from fedsyn.core.cohort import Cohort
from fedsyn.core.optim import Optimizer
from fedsyn.core.training import Correction, Loss
from fedsyn.data.silos import Silo
from fedsyn.errors import ConfigError
from fedsyn.models.layout import Layout
from fedsyn.profiling import phase

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
        """A fresh model ``[P]``."""


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

    def rows(self, silo: Silo) -> np.ndarray:
        """The rows of a client's that it trains on, ascending."""
        return silo.pairs

    @abstractmethod
    def loss(
        self, cohort: Cohort, config: MethodConfig, purpose: str, penalty: Penalty | None = None
    ) -> Loss:
        """The loss of one local training, as `fedsyn.core.training.train` asks for it."""

    @abstractmethod
    def held_out(
        self, models: Tensor, rows: Sequence[np.ndarray], batch: int
    ) -> tuple[Tensor, Tensor]:  # [C], [C]
        """How bad each client's model ``[C, P]`` is on its held-out rows, and how many there are.

        A mean over rows; a client without any counts 0.
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
        config: MethodConfig,
        purpose: str = "local",
        *,
        penalty: Penalty | None = None,
        correction: Correction | None = None,
    ) -> tuple[Tensor, Tensor]:  # [C, P], [C]
        """``config.epochs`` passes over each client's rows from its row of ``start``.

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
        plan = batches(cohort, config.batch, config.epochs, purpose)
        loss = self.loss(cohort, config, purpose, penalty)
        return training.train(start, loss, plan, optimizer(config), correction)

    def mean_gradient(
        self, models: Tensor, cohort: Cohort, config: MethodConfig, purpose: str
    ) -> Tensor:  # [C, P]
        """The loss's gradient at each client's model, the mean over one pass's batches."""
        plan = batches(cohort, config.batch, 1, purpose)
        return training.mean_gradient(models, self.loss(cohort, config, purpose), plan)

    def take(self, rows: Tensor) -> Self:
        """These rows alone, copied; what is public or probed must be added by the caller."""
        return self._mapped(lambda value: value[rows.to(value.device)])

    def to(self, device: torch.device) -> Self:
        """The same on ``device``."""
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


def check_objective(config: Config, known: Collection[str]) -> None:
    """Refuse an objective that is not among those ``known`` to the task.

    Raises
    ------
    ConfigError
        If it is not.
    """
    name = config.objective.name
    if name not in known:
        raise ConfigError(
            f"objective.name = {name!r} is not of task.name = {config.task.name!r}; "
            f"expected one of {', '.join(map(repr, known))}"
        )


def optimizer(config: MethodConfig) -> Optimizer:
    """The clients' optimiser as configured."""
    return Optimizer(
        config.optimizer, config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )


def batches(cohort: Cohort, batch: int, passes: int, purpose: str) -> Batches:
    """Shuffled passes over each client's rows; extra ones join every batch."""
    with phase("gather"):
        generators = cohort.streams(purpose)
        plan = epochs(cohort.rows, batch, passes, generators)
        if cohort.extra is None:
            return plan
        return join(plan, cohort.extra.rows, cohort.extra.batch, generators)

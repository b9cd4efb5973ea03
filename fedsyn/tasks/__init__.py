"""What a federation may learn: one problem a task, in one explicit table of names."""

from collections.abc import Callable, Mapping

from torch import Tensor

from fedsyn.config import Config
from fedsyn.data.federated import FederatedData
from fedsyn.tasks import (
    image_classification,
    multimodal_classification,
    representation,
    retrieval,
    vqa,
)
from fedsyn.tasks.base import Problem

TASKS: Mapping[str, Callable[[Config, FederatedData, Tensor], Problem]] = {
    "retrieval": retrieval.problem,
    "representation": representation.problem,
    "image_classification": image_classification.problem,
    "multimodal_classification": multimodal_classification.problem,
    "vqa": vqa.problem,
}


def build(config: Config, data: FederatedData, features: Tensor) -> Problem:
    """The problem that the configuration names; ``features`` are the data's, where they are held.

    Raises
    ------
    DataError
        If the data are not in the form that the task needs.
    """
    return TASKS[config.task.name](config, data, features)

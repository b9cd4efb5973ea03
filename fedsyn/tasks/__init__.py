"""What a federation may learn; one table, a line a task, the default first."""

from fedsyn.settings.plugins import Table
from fedsyn.tasks.base import Task

TASKS = Table(
    "task",
    "task.name",
    Task,
    "fedsyn.tasks.retrieval:RETRIEVAL",
    "fedsyn.tasks.multimodal_classification:MULTIMODAL_CLASSIFICATION",
    "fedsyn.tasks.image_classification:IMAGE_CLASSIFICATION",
    "fedsyn.tasks.representation:REPRESENTATION",
    "fedsyn.tasks.vqa:VQA",
)

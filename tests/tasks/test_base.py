"""What all tasks have in common."""

import numpy as np
import pytest
import torch

from fedsyn.core.cohort import Cohort, Extra
from fedsyn.errors import ConfigError
from fedsyn.federation import config
from fedsyn.models.retrieval import build
from fedsyn.models.settings import ModelConfig
from fedsyn.objectives import OBJECTIVES
from fedsyn.objectives.pairs.info_nce import InfoNCELoss
from fedsyn.tasks import TASKS
from fedsyn.tasks.base import batches, objective_of
from fedsyn.tasks.retrieval import RetrievalProblem

PROBLEM = RetrievalProblem(
    features=torch.arange(20.0).view(10, 2),
    net=build(ModelConfig(hidden=(3,), dim=2), 1, 1, {}),
    label=torch.arange(10) % 3,
    public=torch.tensor([7, 9]),
    objective=InfoNCELoss(1.0),
)


def test_rows_are_taken_with_everything_that_they_have():
    taken = PROBLEM.take(torch.tensor([4, 1]))
    assert taken.features.tolist() == [[8, 9], [2, 3]] and taken.label.tolist() == [1, 1]


def test_noise_has_the_form_of_the_rows_and_tells_nothing_of_them():
    noise = PROBLEM.noise(5, torch.Generator().manual_seed(0))
    assert noise.features.shape == (7, 2) and noise.public.tolist() == [5, 6]
    assert not torch.isin(noise.features, PROBLEM.features).any()
    assert noise.label.shape == (7,) and noise.label.dtype == torch.long


def test_extra_rows_join_every_batch_of_a_training():
    rows = (np.arange(3), np.arange(3, 9))
    plain = batches(Cohort((0, 1), rows, 0, 1), 4, 2, "local")
    extra = Extra(np.arange(20, 25), 2)
    joined = batches(Cohort((0, 1), rows, 0, 1, extra), 4, 2, "local")
    assert joined.steps.tolist() == plain.steps.tolist() == [2, 4]
    assert torch.equal(joined.valid.sum(-1), plain.valid.sum(-1) + 2 * plain.valid.any(-1))
    assert (joined.index[joined.valid] >= 20).sum() == 2 * 6


@pytest.mark.parametrize("task", TASKS.own, ids=TASKS.names)
def test_what_clients_minimise_by_default_is_of_the_task(task):
    chosen = config.load(None, [f"task={task.name}"]).plugins
    assert chosen.task is task
    build = objective_of(task, chosen.objective, "objective.name")
    assert build is getattr(chosen.objective, task.protocol) is not None


@pytest.mark.parametrize("task", TASKS.own, ids=TASKS.names)
def test_what_is_of_other_tasks_is_refused_with_what_is_of_this_one(task):
    fitting = [one.name for one in OBJECTIVES if getattr(one, task.protocol) is not None]
    other = next(one for one in OBJECTIVES if one.name not in fitting)
    with pytest.raises(ConfigError) as caught:
        objective_of(task, other, "run.criterion")
    assert str(caught.value) == (
        f"run.criterion = {other.name!r} is not of task.name = {task.name!r}; "
        f"expected one of {', '.join(map(repr, fitting))}"
    )


@pytest.mark.parametrize("task", ["image_classification", "multimodal_classification", "vqa"])
def test_of_other_tasks_models_are_judged_by_what_clients_minimise(make, built, task):
    with pytest.raises(ConfigError, match=rf"'simclr' is not of task.name = '{task}'.*'objective'"):
        built(make(f"task={task}", "run.criterion=simclr", "data.questions=0"))

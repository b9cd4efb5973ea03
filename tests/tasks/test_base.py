"""What all tasks have in common."""

import torch

from fedsyn.config import ModelConfig
from fedsyn.models.retrieval import build
from fedsyn.objectives.pairs.info_nce import InfoNCELoss
from fedsyn.tasks.retrieval import RetrievalProblem

OBJECTIVE = InfoNCELoss(1.0)
PROBLEM = RetrievalProblem(
    features=torch.arange(20.0).view(10, 2),
    net=build(ModelConfig(hidden=(3,), dim=2), 1, 1, {}),
    label=torch.arange(10) % 3,
    public=torch.tensor([7, 9]),
    objective=OBJECTIVE,
    criterion=OBJECTIVE,
)


def test_rows_are_taken_with_everything_that_they_have():
    taken = PROBLEM.take(torch.tensor([4, 1]))
    assert taken.features.tolist() == [[8, 9], [2, 3]] and taken.label.tolist() == [1, 1]


def test_noise_has_the_form_of_the_rows_and_tells_nothing_of_them():
    noise = PROBLEM.noise(5, torch.Generator().manual_seed(0))
    assert noise.features.shape == (7, 2) and noise.public.tolist() == [5, 6]
    assert not torch.isin(noise.features, PROBLEM.features).any()
    assert noise.label.shape == (7,) and noise.label.dtype == torch.long

"""What a ranking at random is worth: the metrics of embeddings that know nothing."""

from dataclasses import dataclass
from functools import cache
from statistics import fmean

import torch
from torch import Tensor

from fedsyn import streams
from fedsyn.data.local import load_pairs, train_test_rows
from fedsyn.federation import config
from fedsyn.federation.compare import Job
from fedsyn.federation.config import data_settings
from fedsyn.metrics import retrieval
from fedsyn.tasks.retrieval import RETRIEVAL
from studies.evidence import studies
from studies.evidence.studies import Overrides
from studies.trials.arithmetic import Row

DRAWS, WIDTH = 50, 64


@dataclass(frozen=True)
class Chance:
    """A row of the study of baselines that has no runs behind it."""

    study: str
    data: str
    alpha: float
    overrides: Overrides  # of the data set
    jobs: tuple[Job, ...] = ()

    def row(self) -> Row:
        """As the rows of runs, of as much of it as there is."""
        row: Row = {
            "study": self.study,
            "data": self.data,
            "setting": studies.DEFAULT,
            "against": "",
            "alpha": self.alpha,
            "rounds": 0,
            "runs": [],
            "method": studies.CHANCE,
            "objective": "",
            "synthesis": "off",
            "seeds": 1,
            "seconds_mean": 0.0,
        }
        for metric, value in _of_data(self.overrides).items():
            name = RETRIEVAL.metrics.compared[metric]
            row |= {f"{name}_mean": value, f"{name}_std": 0.0, f"{name}_runs": [value]}
        return row

    def failure(self, why: str) -> Row:
        """What is said in the place of its row."""
        return {"study": self.study, "cell": f"{self.data}, {studies.CHANCE}", "why": why}


def levels(label: Tensor | None, count: int) -> dict[str, float]:
    """Mean metrics of random embeddings of so many pairs, with labels or without any."""
    found = []
    for draw in range(DRAWS):
        stream = streams.generator(draw, "chance")
        image, text = (torch.randn(count, WIDTH, generator=stream) for _ in range(2))
        found.append(retrieval.evaluate(image, text, label))
    return {name: fmean(one[name] for one in found) for name in RETRIEVAL.metrics.compared}


@cache
def _of_data(overrides: Overrides) -> dict[str, float]:
    """Of the test rows of a data set, which are the same whoever holds the others."""
    settings = data_settings(config.load(None, overrides))
    pairs = load_pairs(settings)
    _, test = train_test_rows(pairs, settings.data)
    label = None if pairs.label is None else torch.from_numpy(pairs.label[test])
    return levels(label, len(test))

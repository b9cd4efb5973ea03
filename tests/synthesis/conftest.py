"""A tiny problem of pairs, and what its clients do for synthesis."""

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from fedsyn.core.cohort import Cohort
from fedsyn.core.extension import ClientView
from fedsyn.core.training import Training
from fedsyn.core.wire import Library
from fedsyn.models.retrieval import build
from fedsyn.models.settings import ModelConfig
from fedsyn.objectives.pairs.info_nce import InfoNCELoss
from fedsyn.synthesis import client
from fedsyn.synthesis.sources import GIVEN, OWN
from fedsyn.tasks.retrieval import RetrievalProblem


def own(config):
    """As configured, of clusters that are the clients' own: no server finds others here."""
    return config if config.clusters == "own" else config.changed(clusters="own", directions="own")


@dataclass(frozen=True)
class Toy:
    """60 pairs, and a model that each client looks at them through."""

    problem: RetrievalProblem
    models: torch.Tensor  # [4, P]

    @property
    def net(self):
        """Of the task."""
        return self.problem.net

    @property
    def features(self):
        """Concatenated pairs."""
        return self.problem.features

    @staticmethod
    def cohort(*sizes, round_number=1):
        """Clients that hold so many pairs, one after another."""
        bounds = np.cumsum([0, *sizes])
        held = tuple(np.arange(a, b) for a, b in itertools.pairwise(bounds))
        return Cohort(tuple(range(len(sizes))), held, 0, round_number)

    def begin(self, generator, config, cohort):
        """What these clients have kept before their first round."""
        model, config = self.models[0], own(config)
        return client.client_state(
            self.problem, model, cohort, config, True, generator=generator, source=OWN
        )

    def train(self, generator, config, cohort, state, **received):
        """A round of these clients, each with its model as received and as its own."""
        models = self.models[list(cohort.ids)]
        view = ClientView(self.problem, cohort, models, own(config), Training(), models, received)
        return client.client(view, state, generator=generator, source=OWN, alone=True)

    def trained(self, generator, config, cohort, rounds=2):
        """What the last of some rounds of these clients ends with."""
        state = self.begin(generator, config, cohort)
        for number in range(1, rounds + 1):
            result = self.train(generator, config, replace(cohort, round_number=number), state)
            state = result.state
        return result

    def library(self, generator, config, *sizes, change=None):
        """What clients of these sizes have sent before any training; ``change`` may change it."""
        cohort = self.cohort(*sizes)
        state = self.begin(generator, config, cohort)
        sent = {name: state[name] for name in GIVEN} | generator.upload(state)
        if change is not None:
            change(sent)

        def take(ids, names):
            return {name: sent[name][list(ids)] for name in names or sent}

        return Library(cohort.ids, take)


@pytest.fixture(scope="session")
def toy():
    """Three numbers a picture, two a text."""
    net = build(ModelConfig(hidden=(8,), dim=4), 3, 2, {})
    objective = InfoNCELoss()
    features = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    problem = RetrievalProblem(features=features, net=net, objective=objective)
    models = [net.init(torch.Generator().manual_seed(seed)) for seed in range(4)]
    return Toy(problem, torch.stack(models))

"""Stacked local training is that of each client alone."""

import numpy as np
import pytest
import torch

from fedsyn import streams
from fedsyn.core import batches
from fedsyn.core.cohort import Cohort
from fedsyn.core.optim import Optimizer
from fedsyn.core.training import Training, mean_gradient, train


def generators(count):
    return [streams.generator(0, "test", 0, client) for client in range(count)]


class TestTraining:
    def test_clients_with_unequal_steps_train_as_if_alone(self):
        target = torch.tensor([[1.0], [-2.0], [0.5]])
        held = [np.arange(3), np.arange(40), np.arange(1)]

        def run(clients):
            def loss(params, positions, index, valid, step):
                pull = (params - target[clients][positions]).square().sum(-1)
                return pull * (1 + valid.sum(-1) + index.sum(-1) % 3)

            cohort = Cohort(tuple(clients), tuple(held[c] for c in clients), 0, 1)
            plan = batches.epochs(cohort.rows, 8, 2, cohort.streams("x"))
            return train(torch.zeros(len(clients), 1), loss, plan, Optimizer("adam", 0.1))

        trained, losses = run([0, 1, 2])
        for client in range(3):
            alone, loss = run([client])
            assert torch.equal(alone[0], trained[client])
            assert torch.equal(loss[0], losses[client])
        assert trained[2] == 0  # a single pair has nothing to contrast with
        assert losses[2] == 0

    @pytest.mark.parametrize("name", ["adam", "sgd", "rmsprop"])
    def test_an_optimiser_goes_on_where_its_state_is_kept(self, name):
        rule = Optimizer(name, 0.1, momentum=0.5)
        plan = batches.epochs([np.arange(1), np.arange(9), np.arange(4)], 4, 1, generators(3))
        start = torch.tensor([[1.0], [2.0], [3.0]])

        def loss(params, clients, index, valid, step):
            return (params - index.sum(-1, keepdim=True)).square().sum(-1)

        state = rule.init(start)
        half, _ = train(start, loss, plan, rule, state=state)
        assert state["step"].tolist() == [0, 3, 1]
        found, _ = train(half, loss, plan, rule, state=state)
        for client, steps in enumerate(plan.steps.tolist()):
            own, remembered = start[client : client + 1].clone(), rule.init(start[:1])
            for step in [*range(steps), *range(steps)]:
                aim = plan.index[step, client].sum()
                rule.step(own, 2 * (own - aim), remembered)
            torch.testing.assert_close(found[client], own[0])
            for part, value in remembered.items():
                torch.testing.assert_close(state[part][client], value[0])

    def test_the_mean_gradient_is_of_each_client_at_its_own_parameters(self):
        held = [np.arange(1, 4), np.arange(9), np.arange(1)]
        cohort = Cohort((0, 1, 2), tuple(held), 0, 1)
        plan = batches.epochs(held, 4, 1, cohort.streams("x"))
        params = torch.tensor([[2.0], [-3.0], [5.0]])

        def loss(params, clients, index, valid, step):
            return (index * valid).sum(-1) * params.square().sum(-1) + clients * params.sum(-1)

        found = mean_gradient(params, loss, plan)
        # One batch whose rows add up to 6; three that together have 36; none.
        assert found.tolist() == [[6 * 2 * 2.0], [36 / 3 * 2 * -3.0 + 1], [0.0]]


class TestOptions:
    def test_the_rule_is_the_configured_optimiser(self):
        own = Training(optimizer="sgd", lr=0.5, momentum=0.25, weight_decay=0.125)
        assert own.rule == Optimizer("sgd", 0.5, momentum=0.25, weight_decay=0.125)

    @pytest.mark.parametrize(
        "wrong", [{"epochs": 0}, {"batch": 1}, {"optimizer": "lion"}, {"momentum": 1.0}, {"lr": 0}]
    )
    def test_what_trains_nothing_is_refused(self, wrong):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Training(**wrong)

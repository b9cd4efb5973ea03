"""Payloads, aggregation, batches and stacked optimisers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsyn import streams
from fedsyn.core import aggregate, batches, payload
from fedsyn.core.cohort import Cohort, Extra, chunks
from fedsyn.core.optim import Optimizer, rows
from fedsyn.core.training import mean_gradient, train


def generators(count):
    return [streams.generator(0, "test", 0, client) for client in range(count)]


def mean(rows, weights, stack):
    sums = {}
    for start in range(0, len(weights), stack):
        part = slice(start, start + stack)
        sums = aggregate.add_weighted(sums, {"x": torch.stack(rows)[part]}, weights[part])
    return aggregate.mean(sums)["x"]


class TestAggregate:
    @given(st.lists(st.floats(0.01, 1e3), min_size=1, max_size=12), st.integers(1, 12))
    def test_the_mean_of_identical_models_is_that_model(self, weights, stack):
        model = torch.randn(50, generator=torch.Generator().manual_seed(0))
        found = mean([model] * len(weights), torch.tensor(weights), stack)
        assert torch.equal(found.float(), model)

    def test_weights_are_shares(self):
        assert mean([torch.tensor([0.0]), torch.tensor([4.0])], torch.tensor([3.0, 1.0]), 2) == 1.0

    @given(st.integers(1, 7))
    def test_how_clients_come_changes_nothing(self, stack):
        rows = list(torch.randn(7, 20, generator=torch.Generator().manual_seed(0)))
        weights = torch.rand(7, generator=torch.Generator().manual_seed(1))
        assert torch.equal(mean(rows, weights, stack), mean(rows, weights, 7))

    def test_what_has_weights_of_its_own_has_a_total_of_its_own(self):
        sums = {}
        for x, share in ((1.0, 2.0), (3.0, 6.0)):
            row = torch.tensor([x])
            sums = aggregate.add_weighted(sums, {"x": row}, torch.tensor([share]))
            sums = aggregate.add_weighted(sums, {"y": row}, torch.tensor([1.0]), "heard")
        assert {name: float(value) for name, value in sums.items()} == {
            "x": 20.0, "weight": 8.0, "y": 4.0, "heard": 2.0,
        }  # fmt: skip

    def test_a_client_without_a_say_may_send_anything(self):
        rows = [torch.tensor([2.0]), torch.tensor([torch.nan])]
        assert mean(rows, torch.tensor([1.0, 0.0]), 2) == 2.0

    @pytest.mark.parametrize("weights", [[1.0, -2.0], [torch.nan, 1.0], [torch.inf, 1.0]])
    def test_refuses_weights_that_are_no_weights(self, weights):
        with pytest.raises(ValueError, match="finite and >= 0"):
            mean([torch.zeros(1)] * 2, torch.tensor(weights), 2)

    def test_refuses_weights_without_a_positive_sum(self):
        with pytest.raises(ValueError, match="positive sum"):
            mean([torch.zeros(1)] * 2, torch.zeros(2), 2)


class TestPayload:
    def test_bytes_are_those_of_the_tensors(self):
        assert payload.nbytes({"a": torch.zeros(3, 2), "b": torch.zeros(5).long()}) == 24 + 40

    def test_chunks_are_put_together_in_order(self):
        there = {"a": torch.randn(5, 2), "b": torch.arange(5)}
        pieces = [
            {name: value[part] for name, value in there.items()} for part in (slice(2), slice(2, 5))
        ]
        back = payload.concatenate(pieces)
        assert all(torch.equal(there[name], back[name]) for name in there)


class TestBatches:
    @settings(deadline=None)
    @given(
        st.lists(st.integers(0, 70), min_size=1, max_size=5), st.integers(2, 20), st.integers(1, 3)
    )
    def test_every_epoch_visits_every_row_once(self, sizes, batch, count):
        held = [np.arange(size) + 100 * client for client, size in enumerate(sizes)]
        plan = batches.epochs(held, batch, count, generators(len(sizes)))
        assert torch.equal(plan.steps, batches.steps(sizes, batch, count))
        for client, mine in enumerate(held):
            seen = plan.index[:, client][plan.valid[:, client]].tolist()
            expected = sorted(mine.tolist() * count) if len(mine) > 1 else []
            assert sorted(seen) == expected
            taken = plan.valid[:, client].any(-1)
            assert taken.sum() == plan.steps[client]
            assert not taken[plan.steps[client] :].any()

    def test_everything_is_padded_to_the_most_of_any(self):
        device = torch.device("cpu")
        index, valid = batches.everything([np.array([4, 7]), np.array([], int)], device)
        assert index.tolist() == [[4, 7], [0, 0]]
        assert valid.tolist() == [[True, True], [False, False]]
        assert batches.everything([np.array([], int)], device)[0].shape == (1, 1)

    @given(st.integers(2, 200))
    def test_batches_of_an_epoch_are_nearly_equal(self, size):
        plan = batches.epochs([np.arange(size)], 64, 1, generators(1))
        lengths = plan.valid.sum(-1)
        assert lengths.max() - lengths.min() <= 1


class TestJoinedBatches:
    EXTRA = np.arange(1000, 1012)

    @settings(deadline=None)
    @given(
        st.lists(st.integers(0, 40), min_size=1, max_size=4), st.integers(2, 9), st.integers(1, 12)
    )
    def test_every_batch_is_followed_by_as_many_unlike_extra_rows(self, sizes, batch, count):
        held = [np.arange(size) + 100 * client for client, size in enumerate(sizes)]
        plan = batches.epochs(held, batch, 2, generators(len(sizes)))
        joined = batches.join(plan, self.EXTRA, count, generators(len(sizes)))
        assert joined.steps is plan.steps
        for step in range(len(plan.index)):
            for client in range(len(sizes)):
                own = plan.index[step, client][plan.valid[step, client]].tolist()
                length = len(own) + count if own else 0
                expected = [position < length for position in range(batch + count)]
                assert joined.valid[step, client].tolist() == expected  # the leading ones
                row = joined.index[step, client].tolist()
                assert row[: len(own)] == own
                extra = row[len(own) : length]
                assert len(set(extra)) == len(extra) and set(extra) <= set(self.EXTRA.tolist())

    def test_all_extra_rows_are_drawn_at_times(self):
        plan = batches.epochs([np.arange(60)], 4, 2, generators(1))
        joined = batches.join(plan, self.EXTRA, 3, generators(1))
        assert set(joined.index[joined.index >= 1000].tolist()) == set(self.EXTRA.tolist())

    def test_a_client_draws_the_same_alone(self):
        held, streams_ = [np.arange(5), np.arange(17)], generators(2)
        together = batches.join(batches.epochs(held, 8, 1, streams_), self.EXTRA, 4, streams_)
        one = generators(2)[1:]
        alone = batches.join(batches.epochs(held[1:], 8, 1, one), self.EXTRA, 4, one)
        assert torch.equal(together.index[:, 1], alone.index[:, 0])


class TestOptimizer:
    @pytest.mark.parametrize(
        ("mine", "peer"),
        [
            (Optimizer("adam", 0.1), lambda p: torch.optim.Adam(p, 0.1)),
            (
                Optimizer("adam", 0.1, (0.0, 0.9), weight_decay=0.3),
                lambda p: torch.optim.Adam(p, 0.1, (0.0, 0.9), weight_decay=0.3),
            ),
            (
                Optimizer("sgd", 0.1, momentum=0.9, weight_decay=0.2),
                lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=0.2),
            ),
            (Optimizer("sgd", 0.1), lambda p: torch.optim.SGD(p, 0.1)),
            (
                Optimizer("rmsprop", 0.1, weight_decay=0.2),
                lambda p: torch.optim.RMSprop(p, 0.1, weight_decay=0.2),
            ),
        ],
    )
    def test_each_row_moves_as_under_torch(self, mine, peer):
        start = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
        params, state = start.clone(), mine.init(start)
        peers = [row.clone().requires_grad_() for row in start]
        optimizers = [peer([p]) for p in peers]
        for step in range(4):
            active = 3 if step < 2 else 2  # the last client stops early
            gradient = torch.randn(active, 5, generator=torch.Generator().manual_seed(step))
            mine.step(params[:active], gradient, rows(state, active))
            for client in range(active):
                peers[client].grad = gradient[client]
                optimizers[client].step()
        torch.testing.assert_close(params, torch.stack(peers).detach())
        assert state["step"].tolist() == [4, 4, 2]


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

    def test_chunks_cover_the_cohort_in_order(self):
        cohort = Cohort((1, 4, 5, 9, 11), tuple(np.arange(k) for k in range(5)), 0, 1)
        pieces = chunks(cohort, 2)
        assert [piece.ids for piece in pieces] == [(1, 4), (5, 9), (11,)]
        assert pieces[1].sizes == [2, 3]

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

    def test_every_chunk_has_the_extra_rows(self):
        extra = Extra(np.arange(7), 2)
        cohort = Cohort((1, 4), (np.arange(2), np.arange(3)), 0, 1, extra)
        assert all(piece.extra is extra for piece in chunks(cohort, 1))

"""InfoNCE, prototype contrast and gradient penalty against formulas and oracles in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, normalize

from fedsyn import ops
from fedsyn.models.generator import SLOPE, critic
from fedsyn.models.layout import Layout


def unit(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


class TestInfoNCE:
    @given(st.integers(1, 40), st.floats(0.1, 100))
    def test_is_log_batch_at_uniform_similarity(self, batch, scale):
        x = torch.zeros(batch, 8, dtype=torch.float64)
        x[:, 0] = 1
        assert ops.info_nce(x, x, scale).item() == pytest.approx(math.log(batch), abs=1e-9)

    def test_is_the_mean_of_two_cross_entropies(self):
        x, y = unit(3, 7, 5), unit(3, 7, 5, seed=1)
        logits = 4.0 * x @ y.mT
        target = torch.arange(7).expand(3, 7)
        expected = [
            (cross_entropy(a, t) + cross_entropy(a.T, t)) / 2
            for a, t in zip(logits, target, strict=True)
        ]
        torch.testing.assert_close(ops.info_nce(x, y, 4.0), torch.stack(expected))

    @given(st.integers(0, 9))
    def test_invalid_rows_do_not_exist(self, kept):
        x, y = unit(10, 4), unit(10, 4, seed=1)
        valid = torch.arange(10) < kept
        expected = ops.info_nce(x[:kept], y[:kept], 3.0) if kept else torch.zeros(()).double()
        torch.testing.assert_close(ops.info_nce(x, y, 3.0, valid), expected)

    def test_an_empty_batch_has_a_finite_gradient(self):
        x = unit(2, 4, 3).requires_grad_()
        loss = ops.info_nce(x, unit(2, 4, 3, seed=1), 2.0, torch.zeros(2, 4, dtype=torch.bool))
        loss.sum().backward()
        assert loss.tolist() == [0, 0]
        assert torch.equal(x.grad, torch.zeros_like(x))

    def test_each_client_has_its_own_scale(self):
        x, y = unit(2, 5, 3), unit(2, 5, 3, seed=1)
        both = ops.info_nce(x, y, torch.tensor([1.0, 9.0], dtype=torch.float64))
        torch.testing.assert_close(both[1], ops.info_nce(x[1], y[1], 9.0))

    @pytest.mark.parametrize(
        ("x", "y", "scale", "message"),
        [
            (torch.zeros(3, 2), torch.zeros(4, 2), 1.0, r"\(3, 2\) and \(4, 2\)"),
            (torch.zeros(3, 2), torch.zeros(3, 2), math.nan, "finite scale, got nan"),
        ],
    )
    def test_refuses_what_does_not_fit(self, x, y, scale, message):
        with pytest.raises(ValueError, match=message):
            ops.info_nce(x, y, scale)

    def test_refuses_integers(self):
        with pytest.raises(TypeError, match="int64"):
            ops.info_nce(torch.zeros(2, 2).long(), torch.zeros(2, 2).long(), 1.0)


class TestPrototypeNCE:
    def test_is_the_cross_entropy_over_prototypes(self):
        x, p = unit(2, 6, 5), unit(2, 4, 5, seed=1)
        target = torch.tensor([[0, 1, 2, 3, 0, 1], [3, 3, 2, 1, 0, 0]])
        logits = 5.0 * x @ p.mT
        expected = [cross_entropy(a, t) for a, t in zip(logits, target, strict=True)]
        torch.testing.assert_close(ops.prototype_nce(x, p, target, 5.0), torch.stack(expected))

    def test_absent_prototypes_are_out_of_the_softmax(self):
        x, p = unit(6, 5), unit(4, 5, seed=1)
        target = torch.tensor([0, 1, 0, 1, 0, 1])
        valid = torch.tensor([True, True, False, False])
        torch.testing.assert_close(
            ops.prototype_nce(x, p, target, 5.0, valid), ops.prototype_nce(x, p[:2], target, 5.0)
        )

    def test_refuses_prototypes_of_another_size(self):
        with pytest.raises(ValueError, match=r"\(6, 5\) and \(4, 3\)"):
            ops.prototype_nce(unit(6, 5), unit(4, 3), torch.zeros(6).long(), 1.0)


class TestGradientPenalty:
    @settings(deadline=None, max_examples=25)
    @given(
        st.lists(st.integers(1, 9), min_size=0, max_size=3),
        st.integers(1, 6),
        st.integers(1, 3),
        st.integers(0, 99),
    )
    def test_equals_double_backward(self, hidden, dim, clients, seed):
        net = critic(dim, tuple(hidden))
        layout = Layout(net.shapes)
        generator = torch.Generator().manual_seed(seed)
        flat = torch.randn(clients, layout.size, generator=generator, dtype=torch.float64)
        x = torch.randn(clients, 4, dim, generator=generator, dtype=torch.float64)

        mine = flat.clone().requires_grad_()
        weights, biases = net.layers(layout.views(mine))
        penalty = ops.gradient_penalty(x, weights, biases, SLOPE)
        penalty.sum().backward()

        oracle, at = flat.clone().requires_grad_(), x.clone().requires_grad_()
        score = net(layout.views(oracle), at)
        (slope,) = torch.autograd.grad(score.sum(), at, create_graph=True)
        expected = (slope.norm(dim=-1) - 1).square().mean(-1)
        expected.sum().backward()

        torch.testing.assert_close(penalty, expected)
        torch.testing.assert_close(mine.grad, oracle.grad, atol=1e-9, rtol=1e-7)

    def test_is_zero_for_a_critic_of_unit_slope(self):
        weight = torch.tensor([[0.6], [0.8]])
        assert ops.gradient_penalty(torch.randn(5, 2), [weight], [torch.zeros(1, 1)], 0.2) < 1e-12

    def test_a_flat_critic_has_penalty_one_and_a_finite_gradient(self):
        weight = torch.zeros(2, 1, requires_grad=True)
        penalty = ops.gradient_penalty(torch.randn(5, 2), [weight], [torch.zeros(1, 1)], 0.2)
        penalty.backward()
        assert penalty.item() == pytest.approx(1.0)
        assert weight.grad.isfinite().all()

    @pytest.mark.parametrize("shapes", [[], [(3, 4), (5, 1)], [(3, 2)]])
    def test_refuses_layers_that_do_not_chain(self, shapes):
        weights = [torch.zeros(s) for s in shapes]
        with pytest.raises(ValueError, match="gradient_penalty: expected"):
            ops.gradient_penalty(torch.zeros(2, 3), weights, [torch.zeros(1, 1)] * len(shapes), 0.2)

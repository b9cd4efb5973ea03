"""The losses that constrain generated pairs, by hand."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from fedsyn.synthesis.generators.constraints import (
    ConstraintOptions,
    constraint_losses,
    marginal,
)


class TestConstraintLosses:
    east, north = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    alive = torch.tensor([[True, True, False]])
    prototype = torch.stack([east, north, east])[None]

    def loss(self, image, text, temperature=0.3, **weights):
        return constraint_losses(
            image[None],
            text[None],
            self.prototype,
            self.alive,
            ConstraintOptions(**weights),
            temperature,
        ).item()

    def test_direct_is_log_batch_where_all_pairs_are_the_same(self):
        same = self.east.expand(5, 2)
        assert self.loss(same, same, direct=2.0) == pytest.approx(2 * math.log(5), rel=1e-6)

    def test_indirect_by_hand(self):
        tau = 0.5
        image = text = self.east.expand(3, 2)
        expected = -math.log(1 / (1 + math.exp(-1 / tau)))
        assert self.loss(image, text, indirect=1.0, temperature=tau) == pytest.approx(
            expected, rel=1e-5
        )

    def test_jsd_is_zero_for_agreeing_and_ln_two_for_opposed_modalities(self):
        east, north = self.east.expand(3, 2), self.north.expand(3, 2)
        assert self.loss(east, east, jsd=1.0) == pytest.approx(0, abs=1e-6)
        assert self.loss(east, north, jsd=1.0, temperature=0.01) == pytest.approx(math.log(2))

    def test_gradients_reach_the_pair(self):
        pair = normalize(torch.randn(4, 2), dim=-1).requires_grad_()
        every = ConstraintOptions(direct=1, indirect=1, jsd=1)
        other = normalize(torch.randn(1, 4, 2), dim=-1)
        constraint_losses(
            pair[None], other, self.prototype, self.alive, every, 0.3
        ).sum().backward()
        assert pair.grad.isfinite().all() and pair.grad.abs().sum() > 0


def rows(*shape, seed):
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return normalize(drawn, dim=-1)


def softmax(logits):
    shares = np.exp(logits - logits.max())
    return shares / shares.sum()


def divergence(p, q):
    """KL(p ‖ q), 0 · ln 0 = 0."""
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def jensen_shannon(p, q):
    m = (p + q) / 2
    return (divergence(p, m) + divergence(q, m)) / 2


class TestForms:
    """Each reading of a loss against loops over rows in float64, with a prototype that is none."""

    image, text = rows(2, 5, 3, seed=1), rows(2, 5, 3, seed=2)
    prototype, real = rows(2, 4, 3, seed=3), rows(2, 7, 3, seed=4)
    alive = torch.tensor([[True, True, True, False], [True, False, True, True]])
    tau = 0.4

    def found(self, **options):
        share = marginal(self.real, self.prototype, self.alive, 1 / self.tau)
        return constraint_losses(
            self.image, self.text, self.prototype, self.alive, ConstraintOptions(**options),
            self.tau, share,
        )  # fmt: skip

    def client(self, client):
        """Image, text and living prototypes of one."""
        living = self.prototype[client, self.alive[client]]
        return self.image[client].numpy(), self.text[client].numpy(), living.numpy()

    @staticmethod
    def nearest(u, v, c):
        fused = u + v
        return int(np.argmax(c @ (fused / np.linalg.norm(fused))))

    def check(self, expected, **options):
        found = self.found(**options)
        for client in range(2):
            assert found[client].item() == pytest.approx(2 * expected(*self.client(client)))

    def test_of_all_prototypes(self):
        def expected(image, text, c):
            total = 0.0
            for u, v in zip(image, text, strict=True):
                own = self.nearest(u, v, c)
                total -= sum(math.log(softmax(c @ x / self.tau)[own]) for x in (u, v)) / 2
            return total / len(image)

        self.check(expected, indirect=2.0, indirect_form="prototypes")

    def test_of_those_of_the_batch(self):
        def expected(image, text, c):
            owner = [self.nearest(u, v, c) for u, v in zip(image, text, strict=True)]
            assert len(set(owner)) < len(owner)  # some collide
            total = 0.0
            for half in (image, text):
                for i, x in enumerate(half):
                    others = [j for j in range(len(owner)) if owner[j] != owner[i]]
                    logits = np.array([c[owner[j]] @ x / self.tau for j in (i, *others)])
                    total -= math.log(softmax(logits)[0]) / 2
            return total / len(image)

        self.check(expected, indirect=2.0, indirect_form="batch")

    def test_of_relations(self):
        def expected(image, text, c):
            q, r = ([softmax(c @ x) for x in half] for half in (image, text))
            errors = [
                (image[i] @ text[j] - q[i] @ q[j] - r[i] @ r[j]) ** 2
                for i in range(len(q))
                for j in range(len(q))
            ]
            return sum(errors) / len(errors)

        self.check(expected, indirect=2.0, indirect_form="relation")

    def test_of_halves(self):
        def expected(image, text, c):
            pairs = zip(image, text, strict=True)
            found = [jensen_shannon(*(softmax(c @ x / self.tau) for x in pair)) for pair in pairs]
            return sum(found) / len(found)

        self.check(expected, jsd=2.0, jsd_form="halves")

    def test_of_the_lineage(self):
        def expected(image, text, c):
            total = 0.0
            for pair in zip(image, text, strict=True):
                p, q = (softmax(c @ x / 0.26) for x in pair)
                m = sum(softmax(c @ x / 0.81) for x in pair) / 2
                total += (divergence(m, p) + divergence(m, q)) / 2
            return total / len(image)

        self.check(expected, jsd=2.0, jsd_form="lineage")

    def test_of_marginals(self):
        real = iter(self.real.numpy())

        def share(fused, c):
            return sum(softmax(c @ f / self.tau) for f in fused) / len(fused)

        def expected(image, text, c):
            fused = (image + text) / np.linalg.norm(image + text, axis=1, keepdims=True)
            return jensen_shannon(share(fused, c), share(next(real), c))

        self.check(expected, jsd=2.0, jsd_form="marginal")

    @pytest.mark.parametrize("form", ["prototypes", "batch", "relation"])
    def test_gradients_of_indirect_forms(self, form):
        self.check_gradients(indirect=1.0, indirect_form=form)

    @pytest.mark.parametrize("form", ["halves", "lineage", "marginal"])
    def test_gradients_of_divergences(self, form):
        self.check_gradients(jsd=1.0, jsd_form=form)

    def check_gradients(self, **options):
        """Those of differences, the target of the lineage's included."""
        share = marginal(self.real, self.prototype, self.alive, 1 / self.tau)

        def loss(image, text):
            halves = (normalize(half, dim=-1) for half in (image, text))
            given = (self.prototype, self.alive, ConstraintOptions(**options), self.tau, share)
            return constraint_losses(*halves, *given)

        assert torch.autograd.gradcheck(
            loss, [half.clone().requires_grad_() for half in (self.image, self.text)]
        )

    def test_a_marginal_needs_the_real_one(self):
        options = ConstraintOptions(jsd=1.0, jsd_form="marginal")
        with pytest.raises(ValueError, match="expected the marginal of real pairs, got None"):
            constraint_losses(self.image, self.text, self.prototype, self.alive, options, self.tau)

"""Adversarial training on clients: losses by hand, warm start, clipping, no effect of company."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from fedsyn import ops
from fedsyn.config import ModelConfig, SynthesisConfig
from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import nbytes
from fedsyn.models.retrieval import build
from fedsyn.synthesis import generators, prototypes

NET = build(ModelConfig(hidden=(8,), dim=4), 3, 2, {})
FEATURES = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))


def config(**keys):
    small = dict(
        generator="wgan-gp",
        direct=0.1,
        indirect=0.1,
        jsd=0.1,
        prototypes=3,
        noise=4,
        hidden=(6,),
        critic_hidden=(6,),
        steps=2,
        batch=8,
        critic_warmup=2,
    )
    return SynthesisConfig(**(small | keys))


def cohort(*sizes, round=1):
    bounds = np.cumsum([0, *sizes])
    held = tuple(np.arange(a, b) for a, b in itertools.pairwise(bounds))
    return Cohort(tuple(range(len(sizes))), held, 0, round)


def encoders(clients):
    return torch.stack([NET.init(torch.Generator().manual_seed(c)) for c in range(clients)])


def trained(settings, clients, rounds=2):
    state = generators.init(FEATURES, clients, settings, NET.code)
    for round in range(1, rounds + 1):
        now = Cohort(clients.ids, clients.rows, 0, round)
        losses = generators.train(
            state, FEATURES, now, settings, NET, encoders(3)[list(clients.ids)]
        )
    return state, losses


@pytest.mark.parametrize("kind", ["wgan-gp", "wgan", "gaussian"])
@pytest.mark.parametrize("warm", [True, False])
def test_clients_train_as_if_alone(kind, warm):
    settings, everyone = config(generator=kind, warm_start=warm), cohort(20, 9, 31)
    together, _ = trained(settings, everyone)
    for client in range(3):
        alone, _ = trained(settings, everyone.take([client]))
        for name, value in alone.items():
            torch.testing.assert_close(value[0], together[name][client], rtol=1e-4, atol=1e-6)


def critic_step_by_autograd(session, draw):
    """A critic's step as the papers write it: every term differentiated, the penalty twice."""
    settings, adversary = session.config, session.adversary
    fake = session._generate(session.state["generator"], draw.noise, draw.prototype)
    leaf = session.state["critic"].clone().requires_grad_()

    def score(x):
        with ops.backend("reference"):  # which can be differentiated twice
            return adversary.critic(leaf, x).squeeze(-1)

    loss = score(fake).mean(-1) - score(draw.real).mean(-1)
    if settings.generator == "wgan-gp":
        between = (draw.real + draw.mix * (fake - draw.real)).requires_grad_()
        (slope,) = torch.autograd.grad(score(between).sum(), between, create_graph=True)
        loss = loss + settings.penalty * (slope.norm(dim=-1) - 1).square().mean(-1)
    (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    session._step("critic", adversary.critic_optimizer, gradient)
    if settings.generator == "wgan":
        session.state["critic"].clamp_(-settings.clip, settings.clip)
    return loss.detach()


@pytest.mark.parametrize("kind", ["wgan-gp", "wgan"])
def test_training_gives_the_numbers_of_autograd(kind, monkeypatch):
    settings, clients = config(generator=kind, critic_hidden=(6, 5)), cohort(20, 9, 31)
    state, losses = trained(settings, clients)
    monkeypatch.setattr(generators._Session, "_critic_step", critic_step_by_autograd)
    expected, expected_losses = trained(settings, clients)
    for name in ("critic", "generator"):
        torch.testing.assert_close(state[name], expected[name], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(losses[name], expected_losses[name], rtol=1e-4, atol=1e-6)


def test_a_warm_start_begins_at_the_gaussian_and_leaves_it():
    settings = config()
    state = generators.init(FEATURES, cohort(30), settings, NET.code)
    before = state["generator"].clone()
    generators.train(state, FEATURES, cohort(30), config(steps=0), NET, encoders(1))
    assert torch.equal(state["generator"], before)
    generators.train(state, FEATURES, cohort(30), settings, NET, encoders(1))
    assert not torch.equal(state["generator"], before)


def test_only_a_first_round_warms_the_critic_up():
    settings = config(critic_warmup=5, steps=2, critic_steps=3)
    state, _ = trained(settings, cohort(30), rounds=2)
    assert state["critic.step"].tolist() == [5 + 2 * 2 * 3]
    assert state["generator.step"].tolist() == [4]
    assert state["trained"].tolist() == [2]


def test_the_clipped_critic_stays_in_its_bounds():
    state, _ = trained(config(generator="wgan", clip=0.01), cohort(30))
    assert state["critic"].abs().max() <= 0.01


def test_a_client_with_nothing_is_left_alone():
    settings = config()
    state, _ = trained(settings, cohort(30, 0))
    fresh = generators.init(FEATURES, cohort(30, 0), settings, NET.code)
    assert torch.equal(state["generator"][1], fresh["generator"][1])
    assert state["trained"].tolist() == [2, 0]
    assert state["counts"][1].sum() == 0


def test_what_leaves_a_client_is_listed():
    for kind, each_round in (("wgan-gp", {"generator"}), ("gaussian", set())):
        state, _ = trained(config(generator=kind), cohort(30))
        once = generators.introduction(state, config(generator=kind))
        assert set(once) == {"prototypes", "counts", "basis"}
        assert set(generators.upload(state, config(generator=kind))) == each_round
    private = config(space="private")
    state, _ = trained(private, cohort(30))
    assert set(generators.upload(state, private)) == {"generator", "embedded"}


def test_a_half_precision_upload_is_half_the_bytes_and_the_client_goes_by_what_is_sent():
    half = config(upload="float16")
    state, _ = trained(half, cohort(30))
    sent, plain = generators.upload(state, half), generators.upload(state, config())
    assert nbytes(sent) * 2 == nbytes(plain)
    assert torch.equal(sent["sent"], state["generator"].half())
    once = generators.introduction(state, half)
    assert once["prototypes"].dtype == once["basis"].dtype == torch.float16
    assert torch.equal(once["prototypes"].float(), state["prototypes"])
    assert torch.equal(once["basis"].float(), state["basis"])


def test_an_unconditioned_generator_makes_the_same_of_every_prototype():
    settings = config(condition=False, generator="gaussian")
    state = generators.init(FEATURES, cohort(30), settings, NET.code)
    anchor = prototypes.anchors(state["prototypes"], state["counts"], condition=False)
    mean = FEATURES[:30].double().mean(0).float()
    torch.testing.assert_close(anchor, mean.expand_as(anchor))
    # The Gaussian is that of all pairs, up to the rank of the noise.
    residual = (FEATURES[:30] - mean).double()
    covariance = residual.T @ residual / 29
    scale, axes = torch.linalg.eigh(covariance)
    kept = axes[:, -4:] @ torch.diag(scale[-4:]) @ axes[:, -4:].T
    torch.testing.assert_close(state["basis"][0].T @ state["basis"][0], kept.float())


def test_private_prototypes_are_as_the_clients_network_embeds_them():
    settings = config(space="private")
    state, _ = trained(settings, cohort(30, 20))
    image, text = NET.embed(encoders(2), state["prototypes"])
    torch.testing.assert_close(state["embedded"], normalize(image + text, dim=-1))


class TestConstraintLosses:
    east, north = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    alive = torch.tensor([[True, True, False]])
    prototype = torch.stack([east, north, east])[None]

    def loss(self, image, text, **weights):
        settings = SynthesisConfig(**({"direct": 0, "indirect": 0, "jsd": 0} | weights))
        return generators.constraint_losses(
            image[None], text[None], self.prototype, self.alive, settings
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
        settings = SynthesisConfig(direct=1, indirect=1, jsd=1)
        other = normalize(torch.randn(1, 4, 2), dim=-1)
        generators.constraint_losses(
            pair[None], other, self.prototype, self.alive, settings
        ).sum().backward()
        assert pair.grad.isfinite().all() and pair.grad.abs().sum() > 0

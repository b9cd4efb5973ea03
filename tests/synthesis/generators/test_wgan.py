"""Adversarial training on clients: losses by hand, warm start, clipping, no effect of company."""

import pytest
import torch

from fedsyn import ops
from fedsyn.synthesis.extension import SYNTHESIS
from fedsyn.synthesis.generators import GENERATORS, wgan
from fedsyn.synthesis.generators.gaussian import GAUSSIAN
from fedsyn.synthesis.generators.wgan import WGAN, WGAN_GP

CONFIG = SYNTHESIS.section(
    direct=0.1, indirect=0.1, jsd=0.1, prototypes=3, noise=4, hidden=(6,), critic_hidden=(6,),
    steps=2, batch=8, critic_warmup=2,
)  # fmt: skip


@pytest.mark.parametrize("generator", GENERATORS.own, ids=GENERATORS.names)
@pytest.mark.parametrize("warm", [True, False])
def test_clients_train_as_if_alone(toy, generator, warm):
    config, everyone = CONFIG.changed(warm_start=warm), toy.cohort(20, 9, 31)
    together = toy.trained(generator, config, everyone).state
    for client in range(3):
        alone = toy.trained(generator, config, everyone.take([client])).state
        for name, value in alone.items():
            torch.testing.assert_close(value[0], together[name][client], rtol=1e-4, atol=1e-6)


def critic_step_by_autograd(session, draw):
    """A critic's step as the papers write it: every term differentiated, the penalty twice."""
    options, adversary = session.options, session.adversary
    fake = session._generate(session.state["generator"], draw.noise, draw.prototype)
    leaf = session.state["critic"].clone().requires_grad_()

    def score(x):
        with ops.backend("reference"):  # which can be differentiated twice
            return adversary.critic(leaf, x).squeeze(-1)

    loss = score(fake).mean(-1) - score(draw.real).mean(-1)
    if not session.clipped:
        between = (draw.real + draw.mix * (fake - draw.real)).requires_grad_()
        (slope,) = torch.autograd.grad(score(between).sum(), between, create_graph=True)
        loss = loss + options.penalty * (slope.norm(dim=-1) - 1).square().mean(-1)
    (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    session._step("critic", adversary.critic_optimizer, gradient)
    if session.clipped:
        session.state["critic"].clamp_(-options.clip, options.clip)
    return loss.detach()


@pytest.mark.parametrize("generator", [WGAN_GP, WGAN], ids=["wgan-gp", "wgan"])
def test_training_gives_the_numbers_of_autograd(toy, generator, monkeypatch):
    config, clients = CONFIG.changed(critic_hidden=(6, 5)), toy.cohort(20, 9, 31)
    found = toy.trained(generator, config, clients)
    monkeypatch.setattr(wgan._Session, "_critic_step", critic_step_by_autograd)
    expected = toy.trained(generator, config, clients)
    for name in ("critic", "generator"):
        torch.testing.assert_close(found.state[name], expected.state[name], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found.losses[name], expected.losses[name], rtol=1e-4, atol=1e-6)


def test_a_warm_start_begins_at_the_gaussian_and_leaves_it(toy):
    clients = toy.cohort(30)
    state = toy.begin(WGAN_GP, CONFIG, clients)
    sent = {"prototypes": state["prototypes"], "basis": state["basis"]}
    noise = torch.randn(1, 9, 4, generator=torch.Generator().manual_seed(1))
    prototype = state["prototypes"][:, [0] * 9]
    warm, gaussian = (
        generator.sample(sent | {"generator": state["generator"]}, noise, prototype, CONFIG)
        for generator in (WGAN_GP, GAUSSIAN)
    )
    assert torch.equal(warm, gaussian)
    before = state["generator"].clone()
    state = toy.train(WGAN_GP, CONFIG.changed(steps=0), clients, state).state
    assert torch.equal(state["generator"], before)
    state = toy.train(WGAN_GP, CONFIG, clients, state).state
    assert not torch.equal(state["generator"], before)


def test_only_a_first_round_warms_the_critic_up(toy):
    config = CONFIG.changed(critic_warmup=5, steps=2, critic_steps=3)
    state = toy.trained(WGAN_GP, config, toy.cohort(30)).state
    assert state["critic.step"].tolist() == [5 + 2 * 2 * 3]
    assert state["generator.step"].tolist() == [4]
    assert state["trained"].tolist() == [2]


def test_the_clipped_critic_stays_in_its_bounds(toy):
    state = toy.trained(WGAN, CONFIG.changed(clip=0.01), toy.cohort(30)).state
    assert state["critic"].abs().max() <= 0.01


def test_a_client_with_nothing_is_left_alone(toy):
    clients = toy.cohort(30, 0)
    state = toy.trained(WGAN_GP, CONFIG, clients).state
    fresh = toy.begin(WGAN_GP, CONFIG, clients)
    assert torch.equal(state["generator"][1], fresh["generator"][1])
    assert state["trained"].tolist() == [2, 0]
    assert state["counts"][1].sum() == 0

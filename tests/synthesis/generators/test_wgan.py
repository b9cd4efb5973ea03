"""Adversarial training on clients: losses by hand, warm start, clipping, no effect of company."""

from dataclasses import replace

import pytest
import torch

from fedsyn import ops
from fedsyn.synthesis.extension import SYNTHESIS
from fedsyn.synthesis.generators import GENERATORS
from fedsyn.synthesis.generators.adversary import Session, build
from fedsyn.synthesis.generators.gaussian import GAUSSIAN
from fedsyn.synthesis.generators.options import WGANOptions
from fedsyn.synthesis.generators.stopping import split
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
            return adversary.critic.mlp(leaf, x).squeeze(-1)

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
    monkeypatch.setattr(Session, "_critic_step", critic_step_by_autograd)
    expected = toy.trained(generator, config, clients)
    for name in ("critic", "generator"):
        # (Adam divides by the gradient's size: where that is rounding, so is the step.)
        torch.testing.assert_close(found.state[name], expected.state[name], rtol=1e-3, atol=2e-4)
        torch.testing.assert_close(found.losses[name], expected.losses[name], rtol=1e-3, atol=1e-5)


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


@pytest.mark.parametrize("generator", [WGAN_GP, WGAN], ids=["wgan-gp", "wgan"])
@pytest.mark.parametrize(
    "options",
    [
        {"critic": "projection", "critic_norm": "layer", "critic_dropout": 0.3, "ema": 0.9},
        {"critic_norm": "spectral", "judged_share": 0.3, "judged_every": 1, "ema": 0.9},
        {"jsd_form": "marginal", "indirect_form": "batch", "judged_share": 0.3},
        {"warm_start": False, "output": "tanh", "condition": False, "jsd_form": "lineage"},
    ],
    ids=["normalised", "judged", "forms", "bounded"],
)
def test_clients_train_as_if_alone_with_any_options(toy, generator, options):
    config, everyone = CONFIG.changed(steps=3, **options), toy.cohort(20, 9, 28, 3)
    together = toy.trained(generator, config, everyone)
    for client in range(4):
        alone = toy.trained(generator, config, everyone.take([client]))
        for name, value in alone.state.items():
            torch.testing.assert_close(
                value[0], together.state[name][client], rtol=1e-4, atol=1e-6, equal_nan=True
            )
        for name, value in alone.losses.items():
            torch.testing.assert_close(
                value[0], together.losses[name][client], rtol=1e-4, atol=1e-6, equal_nan=True
            )


def test_an_average_of_the_steps_is_sent(toy):
    config, clients = CONFIG.changed(ema=0.2, steps=1, critic_warmup=0), toy.cohort(30)
    state = toy.begin(WGAN_GP, config, clients)
    expected, steps = state["generator"].clone(), 4
    for number in range(1, steps + 1):
        result = toy.train(WGAN_GP, config, replace(clients, round_number=number), state)
        state, decay = result.state, min(0.2, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * state["generator"]
    torch.testing.assert_close(state["average"], expected)
    assert torch.equal(result.upload.own["generator"], state["average"])


def test_what_never_becomes_better_than_the_gaussian_stays_it(toy):
    config = CONFIG.changed(judged_share=0.3, judged_every=1, generator_lr=10.0)
    result = toy.trained(WGAN_GP, config, toy.cohort(30))
    start = toy.begin(WGAN_GP, config, toy.cohort(30))
    assert torch.equal(result.upload.own["generator"], start["generator"])
    assert not torch.equal(result.state["generator"], start["generator"])
    moving = toy.trained(WGAN_GP, CONFIG.changed(generator_lr=10.0), toy.cohort(30))
    assert not torch.equal(moving.upload.own["generator"], start["generator"])


def test_pairs_that_judge_a_generator_do_not_train_it(toy):
    """Others in their place change what is kept, and nothing of the networks."""
    config = CONFIG.changed(
        judged_share=0.3, steps=4, prototypes=1, condition=False, direct=0, indirect=0, jsd=0
    )
    clients = toy.cohort(30)
    _, (kept,) = split(clients, 0.3)
    features = toy.features.clone()
    features[kept] += 1.0
    other = replace(toy, problem=replace(toy.problem, features=features))
    states = [one.begin(WGAN_GP, config, clients) for one in (toy, other)]
    states[1]["basis"] = states[0]["basis"]
    results = [
        one.train(WGAN_GP, config, clients, state)
        for one, state in zip((toy, other), states, strict=True)
    ]
    for name in ("generator", "critic"):
        before, after = (result.state[name] for result in results)
        torch.testing.assert_close(before, after, rtol=1e-3, atol=2e-4)
    assert not torch.isclose(*(result.losses["distance"] for result in results), rtol=0.1)


def test_a_warm_start_waits_for_directions_and_then_warms_its_critic_up(toy):
    clients = toy.cohort(30, 20)
    state = toy.begin(WGAN_GP, CONFIG, clients)
    known = state["basis"].clone()
    before = {name: value.clone() for name, value in state.items()}
    state["basis"][0] = 0
    result = toy.train(WGAN_GP, CONFIG, clients, state)
    assert torch.equal(result.state["generator"][0], before["generator"][0])
    assert result.state["critic.step"].tolist() == [0, 2 + 2 * 2]
    assert result.losses["critic"][0] == 0
    result.state["basis"] = known
    result = toy.train(WGAN_GP, CONFIG, replace(clients, round_number=2), result.state)
    assert result.state["critic.step"].tolist() == [2 + 2 * 2, 2 + 4 * 2]


def test_a_cold_start_looks_at_no_directions(toy):
    config, clients = CONFIG.changed(warm_start=False), toy.cohort(30)
    state = toy.begin(WGAN_GP, config, clients)
    other = {name: value.clone() for name, value in state.items()}
    other["basis"] = torch.randn(state["basis"].shape)
    results = [toy.train(WGAN_GP, config, clients, one) for one in (state, other)]
    assert torch.equal(results[0].state["generator"], results[1].state["generator"])
    noise, prototype = torch.randn(1, 9, 4), state["prototypes"][:, [0] * 9]
    made = [WGAN_GP.sample(one.state, noise, prototype, config) for one in results]
    assert torch.equal(*made) and made[0].std() > 0


def test_a_bounded_generator_stays_in_its_bounds_and_is_told_no_prototype(toy):
    config = CONFIG.changed(warm_start=False, output="tanh", output_range=0.5, condition=False)
    state = toy.trained(WGAN, config, toy.cohort(30)).state
    noise = 100 * torch.randn(1, 50, 4)
    made = [WGAN.sample(state, noise, torch.randn(1, 50, 5), config) for _ in range(2)]
    assert torch.equal(*made)
    assert 0.4 < made[0].abs().max() <= 0.5


def test_a_bounded_generator_is_no_gaussian():
    with pytest.raises(ValueError, match=r"'tanh' needs synthesis\.warm_start = false"):
        WGANOptions(output="tanh")


def test_the_spectral_critic_follows_its_weights_by_a_turn_a_step(toy):
    config = CONFIG.changed(critic_norm="spectral", critic_warmup=0, critic_steps=1, steps=1)
    state = toy.begin(WGAN_GP, config, toy.cohort(30))
    critic, before = build(config, 5, False).critic, state["power"].clone()
    expected = critic.turned(state["critic"], before)
    state = toy.train(WGAN_GP, config, toy.cohort(30), state).state
    assert torch.equal(state["power"], expected) and not torch.equal(expected, before)

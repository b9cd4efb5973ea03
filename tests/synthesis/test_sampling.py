"""Candidates by share, made again where they are drawn, and nothing of nothing."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsyn.core.wire import NOBODY, Library
from fedsyn.synthesis.extension import SYNTHESIS
from fedsyn.synthesis.filters import NONE, QUOTA
from fedsyn.synthesis.generators.gaussian import GAUSSIAN
from fedsyn.synthesis.generators.wgan import WGAN_GP
from fedsyn.synthesis.sampling import Sampler, synthesise

CONFIG = SYNTHESIS.section(prototypes=3, noise=4, candidates=90)


def sampler(toy, *sizes, config=CONFIG, generator=GAUSSIAN, stack=10):
    held = toy.library(generator, config, *sizes)
    counts = held.take(held.ids, ("counts",))["counts"]
    return Sampler(held, counts, generator, config, 0, 1, stack)


def everything(made):
    pairs, maker = zip(*made.all(), strict=True)
    return torch.cat(pairs), torch.cat(maker)


def pool(toy, held, rule=QUOTA, config=CONFIG, stack=4):
    return synthesise(toy.net, toy.models[:1], held, GAUSSIAN, rule, config, 0, 1, stack)


@pytest.mark.parametrize("generator", [GAUSSIAN, WGAN_GP], ids=["gaussian", "wgan-gp"])
def test_candidates_follow_the_clients_shares_whatever_the_stack(toy, generator):
    config = CONFIG.changed(candidates=900)
    pairs, maker = everything(sampler(toy, 40, 15, 5, config=config, generator=generator))
    held = toy.library(generator, config, 40, 15, 5)
    counts = held.take(held.ids, ("counts",))["counts"].sum(-1)
    share = 900 * counts / counts.sum()
    assert (maker.bincount() - share).abs().max() < 1
    assert pairs.shape == (900, 5)
    for stack in (1, 2):
        again, _ = everything(
            sampler(toy, 40, 15, 5, config=config, generator=generator, stack=stack)
        )
        assert torch.equal(again, pairs)


@given(st.lists(st.integers(0, 899), min_size=1, max_size=60), st.integers(1, 5))
def test_candidates_made_again_are_the_same(toy, at, stack):
    config = CONFIG.changed(candidates=900)
    made = sampler(toy, 40, 15, 5, config=config, generator=WGAN_GP, stack=stack)
    pairs, _ = everything(made)
    assert torch.equal(made.take(torch.tensor(at)), pairs[at])


def test_candidates_have_their_clients_mean_and_covariance(toy):
    config = CONFIG.changed(candidates=20000, noise=5, truncation=1.0)
    pairs, _ = everything(sampler(toy, 60, config=config))
    torch.testing.assert_close(pairs.mean(0), toy.features.mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(pairs.T.cov(), toy.features.T.cov(), atol=0.12, rtol=0)


def test_clients_without_prototypes_give_an_empty_set(toy):
    made, candidates = pool(toy, toy.library(GAUSSIAN, CONFIG, 1, 0))
    assert made.size == 0 and candidates == 0


def test_nobody_heard_from_gives_an_empty_set(toy):
    made, candidates = pool(toy, NOBODY)
    assert made.size == 0 and candidates == 0


def broken(held, *clients):
    """What these clients have sent is not finite."""

    def take(ids, names):
        sent = held.take(ids, names)
        if "basis" in sent:
            for client in clients:
                sent["basis"][torch.tensor(ids) == client] = torch.nan
        return sent

    return Library(held.ids, take)


def test_what_a_broken_generator_makes_is_left_out(toy):
    held = toy.library(GAUSSIAN, CONFIG, 40, 15)
    whole, all_candidates = pool(toy, held, NONE)
    made, candidates = pool(toy, broken(held, 1), NONE)
    assert whole.size == all_candidates == candidates == 90
    assert 0 < made.size < 90
    assert made.take(torch.arange(made.size)).isfinite().all()


@pytest.mark.parametrize("rule", [QUOTA, NONE], ids=["quota", "none"])
def test_of_broken_generators_alone_nothing_is_kept(toy, rule):
    held = toy.library(GAUSSIAN, CONFIG, 40, 15)
    made, candidates = pool(toy, broken(held, 0, 1), rule)
    assert made.size == 0 and candidates == 90


@pytest.mark.parametrize("stack", [1, 3])
def test_the_pool_is_what_the_filter_keeps_whatever_the_stack(toy, stack):
    config = CONFIG.changed(candidates=2000, keep=0.5)
    held = toy.library(GAUSSIAN, config, 40, 15, 5)
    one, other = (pool(toy, held, config=config, stack=n)[0] for n in (stack, 50))
    assert one.size == other.size <= 1000
    at = torch.arange(one.size)
    assert torch.equal(one.take(at), other.take(at))

"""FedFTG's losses against loops, and its step: hard pairs, and the ensemble's opinion."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from fedsyn import streams
from fedsyn.models.generator import GeneratorNet, directions
from fedsyn.models.retrieval import build
from fedsyn.models.settings import ModelConfig
from fedsyn.objectives.pairs.base import PairBatch
from fedsyn.objectives.pairs.info_nce import InfoNCELoss
from fedsyn.synthesis.extension import SYNTHESIS
from fedsyn.synthesis.generators import GENERATORS
from fedsyn.synthesis.generators.wgan import WGAN_GP
from fedsyn.synthesis.steps import fedftg
from fedsyn.synthesis.steps.fedftg import FedFTGOptions

NET = build(ModelConfig(hidden=(8,), dim=4), 3, 2, {})
OBJECTIVE = InfoNCELoss(0.5)
DRAW = torch.Generator().manual_seed(0)
MODELS = torch.stack([NET.init(torch.Generator().manual_seed(seed)) for seed in range(4)])
CONFIG = SYNTHESIS.section(
    prototypes=3, noise=4, hidden=(6,), batch=7, server_batch=24, server_lr=3e-3,
    fedftg=FedFTGOptions(iterations=2, model_steps=2),
)  # fmt: skip


def step(**changes):
    return CONFIG.changed(fedftg=CONFIG.fedftg.changed(**changes))


def distil(held, config=CONFIG, models=MODELS[1:], model=MODELS[:1]):
    return fedftg.distil(NET, OBJECTIVE, model, models, held, config, 0, 1)


def unit(*shape, seed):
    draw = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return normalize(draw, dim=-1)


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def test_disagreement_is_the_mean_difference_of_similarities():
    parts = [unit(2, 3, 4, seed=seed) for seed in range(4)]
    found = fedftg.disagreement(*parts)
    for client in range(2):
        u, v, other_u, other_v = (part[client].tolist() for part in parts)
        terms = [
            abs(dot(u[i], v[j]) - dot(other_u[i], other_v[j])) for i in range(3) for j in range(3)
        ]
        assert found[client].item() == pytest.approx(sum(terms) / 9)


def test_diversity_is_the_formula():
    noise, pairs = unit(2, 4, 3, seed=0), 2 * unit(2, 4, 5, seed=1)
    found = fedftg.diversity(noise, pairs)
    for client in range(2):
        z, x = noise[client].tolist(), pairs[client].tolist()
        total = 0.0
        for i in range(4):
            for j in range(4):
                square = sum((a - b) ** 2 for a, b in zip(z[i], z[j], strict=True)) / 3
                total += square * sum(abs(a - b) for a, b in zip(x[i], x[j], strict=True)) / 5
        assert found[client].item() == pytest.approx(math.exp(-total / 16))


def test_diversity_has_a_gradient_at_the_usual_widths():
    noise = torch.randn(1, 64, 128, generator=DRAW)
    pairs = torch.randn(1, 64, 256, generator=DRAW, requires_grad=True)
    (gradient,) = torch.autograd.grad(fedftg.diversity(noise, pairs).sum(), pairs)
    assert gradient.isfinite().all() and (gradient != 0).any(-1).all()


def test_distillation_is_the_divergence_from_the_weighted_ensemble():
    image, text = unit(3, 4, seed=0), unit(3, 4, seed=1)
    teachers = unit(2, 3, 4, seed=2), unit(2, 3, 4, seed=3)
    share = torch.tensor([0.25, 0.75], dtype=torch.float64)
    found = fedftg.distillation(image, text, *teachers, share, 2.0)

    def softmax(values):
        raw = [math.exp(2.0 * value) for value in values]
        return [value / sum(raw) for value in raw]

    total = 0.0
    for a, b, a_k, b_k in (
        (image, text, *teachers),
        (text, image, *reversed(teachers)),
    ):
        for i in range(3):
            mine = softmax([dot(a[i].tolist(), b[j].tolist()) for j in range(3)])
            theirs = [
                softmax([dot(a_k[k, i].tolist(), b_k[k, j].tolist()) for j in range(3)])
                for k in range(2)
            ]
            for j in range(3):
                target = 0.25 * theirs[0][j] + 0.75 * theirs[1][j]
                total += target * math.log(target / mine[j]) / 3
    assert found.item() == pytest.approx(total / 2)


def test_generators_are_judged_by_their_own_clients_model():
    noise, pairs = torch.randn(3, 7, 4, generator=DRAW), torch.randn(3, 7, 5, generator=DRAW)
    config = step(disagreement=0.5, diversity=2.0)
    arguments = (NET, OBJECTIVE, MODELS[:1])
    found = fedftg.generator_loss(*arguments, MODELS[1:], noise, pairs, config)
    for client in range(3):
        one = slice(client, client + 1)
        mine, z, x = MODELS[1:][one], noise[one], pairs[one]
        own, world = NET.embed(mine, x), NET.embed(MODELS[:1], x)
        apart, unlike = fedftg.disagreement(*own, *world), fedftg.diversity(z, x)
        expected = OBJECTIVE({}, PairBatch(*own, x)) - 0.5 * apart + 2 * unlike
        torch.testing.assert_close(found[one], expected)
        alone = fedftg.generator_loss(*arguments, mine, z, x, config)
        torch.testing.assert_close(found[one], alone)


def test_two_steps_are_those_of_loops_over_clients(toy):
    """One iteration with torch's own Adam, a generator and a batch at a time."""
    config = CONFIG.changed(
        server_batch=30, fedftg=FedFTGOptions(iterations=1, model_steps=1, generator_lr=0.01)
    )
    held = toy.library(WGAN_GP, CONFIG, 20, 10, 30)
    sent = held.take((0, 1, 2), ("prototypes", "counts", "basis", "generator"))
    maker = GeneratorNet(config.noise, 5, config.hidden)
    model, batch = MODELS[:1].clone().requires_grad_(), []
    for client, size in enumerate((10, 5, 15)):
        one = slice(client, client + 1)
        stream = streams.generator(0, "fedftg", 1, client)
        params = sent["generator"][one].clone().requires_grad_()

        def make(count, one=one, stream=stream, params=params):
            noise = config.truncation * torch.randn(count, config.noise, generator=stream)
            mass = sent["counts"][one][0].double()
            kind = torch.multinomial(mass, count, replacement=True, generator=stream)
            prototype = sent["prototypes"][one][:, kind]
            return noise[None], maker(
                params, noise[None], prototype, directions(sent["basis"][one])
            )

        noise, pairs = make(config.batch)
        own, world = NET.embed(MODELS[1:][one], pairs), NET.embed(MODELS[:1], pairs)
        loss = OBJECTIVE({}, PairBatch(*own, pairs)) - fedftg.disagreement(*own, *world)
        optimizer = torch.optim.Adam([params], 0.01)
        (loss + fedftg.diversity(noise, pairs)).sum().backward()
        optimizer.step()
        batch.append(make(15)[1][0, :size].detach())
    batch = torch.cat(batch)[None]
    opinions = [NET.embed(one[None], batch) for one in MODELS[1:]]
    teachers = [u[:, 0] for u in map(torch.stack, zip(*opinions, strict=True))]
    share = torch.tensor([1 / 3, 1 / 6, 1 / 2])
    image, text = NET.embed(model, batch)
    loss = fedftg.distillation(image[0], text[0], *teachers, share, 1 / config.temperature)
    loss.backward()
    torch.optim.Adam([model], config.server_lr).step()
    tuned, found = distil(held, config)
    assert found == pytest.approx(loss.item(), rel=1e-4)
    torch.testing.assert_close(tuned, model.detach(), atol=1e-5, rtol=1e-4)


def test_the_model_comes_nearer_to_the_ensemble_and_inputs_stay(toy):
    held = toy.library(WGAN_GP, CONFIG, 20, 10, 30)
    inputs = MODELS.clone(), held.take((0,), ("generator",))["generator"]
    short, long = (distil(held, step(iterations=n, generator_lr=1e-6))[1] for n in (1, 30))
    assert long < 0.9 * short
    assert torch.equal(MODELS, inputs[0])
    assert torch.equal(held.take((0,), ("generator",))["generator"], inputs[1])


def test_a_model_that_agrees_with_all_clients_has_nothing_to_learn(toy):
    same = MODELS[:1].expand(3, -1)
    held, once = toy.library(WGAN_GP, CONFIG, 20, 10, 30), step(iterations=1, model_steps=1)
    _, loss = distil(held, once, models=same)
    assert loss == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("generator", GENERATORS.own, ids=GENERATORS.names)
def test_clients_without_prototypes_have_no_say(toy, generator):
    held = toy.library(generator, CONFIG, 20, 0, 30)
    odd = MODELS[1:].clone()
    odd[1] = torch.nan
    assert torch.equal(distil(held)[0], distil(held, models=odd)[0])
    assert distil(held)[0].isfinite().all()


def test_what_is_not_finite_is_left_out(toy):
    def break_it(sent):
        sent["generator"][1] = torch.nan

    tuned, _ = distil(toy.library(WGAN_GP, CONFIG, 20, 10, 30, change=break_it))
    assert tuned.isfinite().all()
    assert not torch.equal(tuned, distil(toy.library(WGAN_GP, CONFIG, 20, 10, 30))[0])


def test_without_anybody_the_model_comes_back(toy):
    held = toy.library(WGAN_GP, CONFIG, 1, 0)
    assert torch.equal(distil(held, models=MODELS[1:3])[0], MODELS[:1])

"""The closed-form generator makes of a prototype what its client's pairs are like."""

import torch

from fedsyn.synthesis import prototypes
from fedsyn.synthesis.extension import SYNTHESIS
from fedsyn.synthesis.generators.gaussian import GAUSSIAN

CONFIG = SYNTHESIS.section(prototypes=3, noise=4, condition=False)


def test_an_unconditioned_generator_makes_the_same_of_every_prototype(toy):
    pairs, state = toy.features[:30], toy.begin(GAUSSIAN, CONFIG, toy.cohort(30))
    anchor = prototypes.anchors(state["prototypes"], state["counts"], condition=False)
    mean = pairs.double().mean(0).float()
    torch.testing.assert_close(anchor, mean.expand_as(anchor))
    # The Gaussian is that of all pairs, up to the rank of the noise.
    residual = (pairs - mean).double()
    covariance = residual.T @ residual / 29
    scale, axes = torch.linalg.eigh(covariance)
    kept = axes[:, -4:] @ torch.diag(scale[-4:]) @ axes[:, -4:].T
    torch.testing.assert_close(state["basis"][0].T @ state["basis"][0], kept.float())


def test_a_pair_is_its_prototype_and_noise_along_the_directions(toy):
    state = toy.begin(GAUSSIAN, CONFIG, toy.cohort(30))
    noise = torch.randn(1, 7, 4, generator=torch.Generator().manual_seed(0))
    prototype = state["prototypes"][:, [0, 1, 2, 0, 1, 2, 0]]
    found = GAUSSIAN.sample(state, noise, prototype, CONFIG)
    torch.testing.assert_close(found, prototype + noise @ state["basis"])

"""The closed-form generator: a Gaussian around each prototype.

    x = P_y + z·B,   z ~ N(0, I)

with the client's within-cluster directions B (`fedsyn.synthesis.prototypes`). Nothing is trained.
"""

from collections.abc import Mapping

from torch import Tensor

from fedsyn.core.payload import Payload
from fedsyn.models.generator import GeneratorNet, directions
from fedsyn.synthesis.generators.base import Generator, GeneratorTraining
from fedsyn.synthesis.settings import SynthesisConfig


def train(state: Payload, training: GeneratorTraining) -> dict[str, Tensor]:
    """There is nothing to train."""
    return {}


def upload(state: Payload) -> Payload:
    """There is nothing beside what is sent once."""
    return {}


def sample(
    sent: Mapping[str, Tensor], noise: Tensor, prototype: Tensor, config: SynthesisConfig
) -> Tensor:
    """Pairs ``[C, B, D]`` around prototypes."""
    net = GeneratorNet(config.noise, prototype.shape[-1], ())
    return net(None, noise, prototype, directions(sent["basis"]))


GAUSSIAN = Generator(name="gaussian", train=train, upload=upload, sample=sample, learns=False)

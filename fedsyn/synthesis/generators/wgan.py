"""A generator that is trained against a critic: WGAN-GP, and the WGAN whose weights are clipped.

(Arjovsky et al. 2017; Gulrajani et al. 2017; constraint losses: Zhang et al., AAAI 2025. Steps and
losses: `fedsyn.synthesis.generators.adversary`.)

Both networks and their optimisers stay on the client from round to round. With a warm start the
generator begins as the closed-form Gaussian. What is sent is the generator after its last step,
the average of its weights over its steps (``ema``; Yazıcı et al. 2019, arXiv 1806.04498), or the
best of either by pairs that it has never seen (``judged_share``).
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.models.generator import directions
from fedsyn.settings.plugins import FLAT
from fedsyn.synthesis.generators.adversary import Session, build, network
from fedsyn.synthesis.generators.base import Generator, GeneratorTraining
from fedsyn.synthesis.generators.options import WGANOptions as WGANOptions
from fedsyn.synthesis.generators.private import cluster_penalty
from fedsyn.synthesis.settings import SynthesisConfig


def prepare(
    state: Payload, features: Tensor, cohort: Cohort, config: SynthesisConfig, *, clipped: bool
) -> Payload:
    """Fresh networks and optimisers of each client, and no directions without a warm start."""
    own, found = config.of(WGANOptions), Payload()
    if not own.warm_start and "basis" in state:
        found["basis"] = torch.zeros_like(state["basis"])
    adversary = build(config, features.shape[-1], clipped)
    rows = [
        (
            adversary.generator.init(stream, own.warm_start),
            adversary.critic.init(stream),
            adversary.critic.init_power(stream),
        )
        for stream in cohort.streams("adversary-init")
    ]
    parts = zip(*rows, strict=True)
    for name, values in zip(("generator", "critic", "power"), parts, strict=True):
        found[name] = torch.stack(values).to(features.device)
    for name in ("generator", "critic"):
        optimizer = getattr(adversary, f"{name}_optimizer")
        found |= {f"{name}.{slot}": value for slot, value in optimizer.init(found[name]).items()}
    for name, wanted in (("average", own.ema), ("best", own.judged_share)):
        if wanted:
            found[name] = found["generator"].clone()
    return found


def train(state: Payload, training: GeneratorTraining, *, clipped: bool) -> dict[str, Tensor]:
    """One round of adversarial training, in place on ``state``; mean losses ``[C]`` by name.

    A client's first round starts with ``critic_warmup`` steps of the critic alone: an untrained
    critic pulls a warm-started generator away from where it is already good. Clients that are not
    able are left as they are, at loss 0; so are those without directions in a warm start, for the
    Gaussian that they would start from is not there yet.
    """
    own, able = training.config.of(WGANOptions), training.able
    if not own.steps:
        return {}
    if own.warm_start:
        able = able & state["basis"].flatten(1).any(-1)
    names = ("critic", "generator", *(("distance",) if own.judged_share else ()))
    losses = {name: torch.zeros(len(able), device=able.device) for name in names}
    if able.any():
        fresh = able & (state["critic.step"] == 0)
        if own.critic_warmup and fresh.any():
            warmup = Session(state, fresh, "critic-warmup", training, clipped)
            warmup.run(critic_steps=own.critic_warmup)
        session = Session(state, able, "adversary", training, clipped)
        found = session.run(critic_steps=own.critic_steps, generator_steps=own.steps)
        for name, values in found.items():
            losses[name][able] = values
    return losses


def upload(state: Payload) -> Payload:
    """The generator, as it is to be used; its critic stays on the client."""
    kept = next(name for name in ("best", "average", "generator") if name in state)
    return {"generator": state[kept]}


def sample(
    sent: Mapping[str, Tensor], noise: Tensor, prototype: Tensor, config: SynthesisConfig
) -> Tensor:
    """Pairs ``[C, B, D]`` of prototypes by clients' generators."""
    net = network(config, prototype.shape[-1])
    return net(sent["generator"].to(noise), noise, prototype, directions(sent["basis"]))


def looks(config: SynthesisConfig) -> bool:
    """Whether a constraint loss is trained with."""
    own = config.of(WGANOptions)
    return own.steps > 0 and own.any


WGAN_GP = Generator(
    name="wgan-gp",
    options={FLAT: WGANOptions},
    prepare=partial(prepare, clipped=False),
    train=partial(train, clipped=False),
    upload=upload,
    sample=sample,
    looks=looks,
    penalty=cluster_penalty,
)
WGAN = replace(
    WGAN_GP,
    name="wgan",
    prepare=partial(prepare, clipped=True),
    train=partial(train, clipped=True),
)

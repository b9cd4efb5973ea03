"""A generator that is trained against a critic: WGAN-GP, and the WGAN whose weights are clipped.

Critic      min  E[D(G(z))] − E[D(x)] + λ · E[(‖∇D(x̂)‖ − 1)²]         (wgan-gp)
            min  E[D(G(z))] − E[D(x)],  weights clipped to ±c          (wgan)
Generator   min  −E[D(G(z))] + l1 · direct + l2 · indirect + l3 · JSD
(Arjovsky et al. 2017; Gulrajani et al. 2017; constraint losses: Zhang et al., AAAI 2025.)

Both networks and their optimisers stay on the client from round to round. With a warm start the
generator begins as the closed-form Gaussian.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor

from fedsyn import ops
from fedsyn.core.cohort import Cohort
from fedsyn.core.graphs import Step
from fedsyn.core.optim import Optimizer
from fedsyn.core.payload import Payload
from fedsyn.models.generator import SLOPE, GeneratorNet, critic, directions
from fedsyn.models.mlp import MLP
from fedsyn.models.retrieval import fuse
from fedsyn.profiling import phase
from fedsyn.settings.plugins import FLAT
from fedsyn.settings.sections import (
    Count,
    Field,
    Iterations,
    NonNegative,
    Positive,
    Share,
    Widths,
)
from fedsyn.synthesis import prototypes
from fedsyn.synthesis.generators.base import Generator, GeneratorTraining
from fedsyn.synthesis.generators.constraints import ConstraintOptions, constraint_losses
from fedsyn.synthesis.settings import SynthesisConfig

PREPARED = 16  # steps whose draws are held at a time


class WGANOptions(ConstraintOptions):
    """Options of adversarial generators."""

    warm_start: bool = Field(True, description="start from the closed-form Gaussian")
    hidden: Widths = Field((256,), description="widths of the generator's hidden layers")
    critic_hidden: Widths = Field((256, 256), description="widths of the critic's hidden layers")
    steps: Iterations = Field(20, description="generator steps a round")
    batch: Annotated[int, Field(ge=2)] = Field(64, description="pairs of a step")
    critic_steps: Count = Field(2, description="critic steps a generator step")
    critic_warmup: Iterations = Field(
        100, description="critic-only steps before a client's first generator step"
    )
    generator_lr: Positive = Field(1e-4, description="rate of generator steps")
    critic_lr: Positive = Field(1e-3, description="rate of critic steps")
    betas: tuple[Share, Share] = Field((0.0, 0.9), description="Adam's decay rates (wgan-gp)")
    penalty: NonNegative = Field(10.0, description="weight λ of the gradient penalty (wgan-gp)")
    clip: Positive = Field(0.01, description="bound c of the critic's weights (wgan)")


@dataclass(frozen=True)
class Adversary:
    """The two networks and their optimisers, for pairs of one size."""

    generator: GeneratorNet
    critic: MLP
    generator_optimizer: Optimizer
    critic_optimizer: Optimizer


def build(config: SynthesisConfig, pair_dim: int, clipped: bool) -> Adversary:
    """Networks and optimisers as configured: Adam for wgan-gp, RMSprop for the clipped wgan."""
    own = config.of(WGANOptions)
    kind: Literal["rmsprop", "adam"] = "rmsprop" if clipped else "adam"
    return Adversary(
        generator=GeneratorNet(config.noise, pair_dim, own.hidden),
        critic=critic(pair_dim, own.critic_hidden),
        generator_optimizer=Optimizer(kind, own.generator_lr, own.betas),
        critic_optimizer=Optimizer(kind, own.critic_lr, own.betas),
    )


def prepare(
    state: Payload, features: Tensor, cohort: Cohort, config: SynthesisConfig, *, clipped: bool
) -> Payload:
    """Fresh networks and optimisers of each client, and no directions without a warm start."""
    own, found = config.of(WGANOptions), Payload()
    if not own.warm_start:
        found["basis"] = torch.zeros_like(state["basis"])
    adversary = build(config, features.shape[-1], clipped)
    streams = cohort.streams("adversary-init")
    rows = [
        (
            adversary.generator.init(stream, own.warm_start),
            adversary.critic.layout.flatten(adversary.critic.init(stream)),
        )
        for stream in streams
    ]
    for name, values in zip(("generator", "critic"), zip(*rows, strict=True), strict=True):
        stacked = torch.stack(values).to(features.device)
        found[name] = stacked
        optimizer = getattr(adversary, f"{name}_optimizer")
        found |= {f"{name}.{slot}": value for slot, value in optimizer.init(stacked).items()}
    return found


def train(state: Payload, training: GeneratorTraining, *, clipped: bool) -> dict[str, Tensor]:
    """One round of adversarial training, in place on ``state``; mean losses ``[C]`` by name.

    A client's first round starts with ``critic_warmup`` steps of the critic alone: an untrained
    critic pulls a warm-started generator away from where it is already good. Clients that are not
    able are left as they are, at loss 0.
    """
    own, able = training.config.of(WGANOptions), training.able
    if not own.steps:
        return {}
    losses = {name: torch.zeros(len(able), device=able.device) for name in ("critic", "generator")}
    if able.any():
        fresh = able & (state["trained"] == 0)
        if own.critic_warmup and fresh.any():
            warmup = _Session(state, fresh, "critic-warmup", training, clipped)
            warmup.run(critic_steps=own.critic_warmup)
        session = _Session(state, able, "adversary", training, clipped)
        found = session.run(critic_steps=own.critic_steps, generator_steps=own.steps)
        for name, values in found.items():
            losses[name][able] = values
    return losses


def upload(state: Payload) -> Payload:
    """The generator; its critic stays on the client."""
    return {"generator": state["generator"]}


def sample(
    sent: Mapping[str, Tensor], noise: Tensor, prototype: Tensor, config: SynthesisConfig
) -> Tensor:
    """Pairs ``[C, B, D]`` of prototypes by clients' generators."""
    net = GeneratorNet(config.noise, prototype.shape[-1], config.of(WGANOptions).hidden)
    return net(sent["generator"].to(noise), noise, prototype, directions(sent["basis"]))


def looks(config: SynthesisConfig) -> bool:
    """Whether a constraint loss is trained with."""
    own = config.of(WGANOptions)
    return own.steps > 0 and own.any


class _Draw(NamedTuple):
    """What one step of every client looks at."""

    real: Tensor  # [C, B, D] pairs
    prototype: Tensor  # [C, B, D] what the generator is told of them
    noise: Tensor  # [C, B, noise]
    mix: Tensor  # [C, B, 1], how far from real to fake the penalty is taken


class _Session:
    """The tensors and streams of the clients that train together, those ``chosen [C]``."""

    def __init__(
        self,
        state: Payload,
        chosen: Tensor,
        purpose: str,
        training: GeneratorTraining,
        clipped: bool,
    ) -> None:
        self.whole, self.positions = state, chosen.nonzero().squeeze(-1)
        # Where all clients train, what they keep is changed where it lies.
        everyone = bool(chosen.all())
        self.state = state if everyone else {k: v[self.positions] for k, v in state.items()}
        self.features, self.net, self.clipped = training.features, training.net, clipped
        self.config, self.options = training.config, training.config.of(WGANOptions)
        self.adversary = build(self.config, self.features.shape[-1], clipped)
        self.cohort = training.cohort.take(self.positions.tolist())
        self.streams = self.cohort.streams(purpose)
        self.alive = self.state["counts"] > 0
        self.owner = self._owners()
        self.directions = directions(self.state["basis"])
        self.anchors = prototypes.anchors(
            self.state["prototypes"], self.state["counts"], self.config.condition
        ).flatten(0, 1)
        self.encoder = training.encoder[self.positions]
        self.prototype_embedding = fuse(*self.net.embed(self.encoder, self.state["prototypes"]))

    def run(self, critic_steps: int, generator_steps: int = 0) -> dict[str, Tensor]:
        """``critic_steps`` before each generator step, or alone; mean losses ``[C]``."""
        total: dict[str, Tensor] = {}
        turns = max(generator_steps, 1)
        draws = self._draws(turns * critic_steps + generator_steps)
        critic_step, generator_step = (
            Step(lambda *draw, one=one: one(_Draw(*draw)), self.features.device)
            for one in (self._critic_step, self._generator_step)
        )
        for _ in range(turns):
            with phase("critic"):
                for _ in range(critic_steps):
                    critic = critic_step(*next(draws))
            if critic_steps:
                total["critic"] = total.get("critic", 0) + critic
            if generator_steps:
                with phase("generator"):
                    loss = generator_step(*next(draws))
                total["generator"] = total.get("generator", 0) + loss
        if self.state is not self.whole:
            for name, value in self.state.items():
                self.whole[name][self.positions] = value
        return {name: value / turns for name, value in total.items()}

    def _owners(self) -> list[Tensor]:
        """The prototype of each training pair of each client."""
        owners = []
        for client, rows in enumerate(self.cohort.rows):
            points = self.features[torch.from_numpy(rows)][None]
            own = slice(client, client + 1)
            owners.append(
                prototypes.assign(points, self.state["prototypes"][own], self.alive[own])[0]
            )
        return owners

    def _draws(self, steps: int) -> Iterator[_Draw]:
        """What ``steps`` steps look at, prepared a few steps at a time."""
        batch, config = self.options.batch, self.config
        clusters = self.alive.shape[1]
        for first in range(0, steps, PREPARED):
            count = min(PREPARED, steps - first)
            with phase("gather"):
                index, owner, noise, mix = [], [], [], []
                mine = zip(self.cohort.rows, self.owner, self.streams, strict=True)
                for client, (rows, owners, stream) in enumerate(mine):
                    chosen = torch.randint(len(rows), (count, batch), generator=stream)
                    index.append(torch.from_numpy(rows)[chosen])
                    owner.append(owners[chosen] + client * clusters)
                    noise.append(torch.randn(count, batch, config.noise, generator=stream))
                    mix.append(torch.rand(count, batch, 1, generator=stream))
                device = self.features.device
                drawn = [torch.stack(parts, 1).to(device) for parts in (index, owner, noise, mix)]
            for at, kind, *rest in zip(*drawn, strict=True):
                yield _Draw(self.features[at], self.anchors[kind], *rest)

    def _generate(self, params: Tensor, noise: Tensor, prototype: Tensor) -> Tensor:
        return self.adversary.generator(params, noise, prototype, self.directions)

    def _critic_step(self, draw: _Draw) -> Tensor:
        own, adversary = self.options, self.adversary
        with torch.no_grad():
            fake = self._generate(self.state["generator"], draw.noise, draw.prototype)
        between = None
        if not self.clipped:
            between = torch.lerp(draw.real, fake, draw.mix)
        params = adversary.critic.layout.views(self.state["critic"])
        layers = adversary.critic.layers(params)
        step = ops.critic_step(draw.real, fake, between, *layers, SLOPE, own.penalty)
        self._step("critic", adversary.critic_optimizer, step.gradient)
        if self.clipped:
            self.state["critic"].clamp_(-own.clip, own.clip)
        return step.loss

    def _generator_step(self, draw: _Draw) -> Tensor:
        adversary = self.adversary
        leaf = self.state["generator"].detach().requires_grad_()
        fake = self._generate(leaf, draw.noise, draw.prototype)
        score = adversary.critic(self.state["critic"], fake)
        loss = -score.squeeze(-1).mean(-1) + self._constraints(fake)
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        self._step("generator", adversary.generator_optimizer, gradient)
        return loss.detach()

    def _constraints(self, fake: Tensor) -> Tensor:
        if not self.options.any:
            return fake.new_zeros(len(fake))
        image, text = self.net.embed(self.encoder, fake)
        return constraint_losses(
            image,
            text,
            self.prototype_embedding,
            self.alive,
            self.options,
            self.config.temperature,
        )

    def _step(self, name: str, optimizer: Optimizer, gradient: Tensor) -> None:
        prefix = f"{name}."
        slots = {k.removeprefix(prefix): v for k, v in self.state.items() if k.startswith(prefix)}
        optimizer.step(self.state[name], gradient, slots)


WGAN_GP = Generator(
    name="wgan-gp",
    options={FLAT: WGANOptions},
    prepare=partial(prepare, clipped=False),
    train=partial(train, clipped=False),
    upload=upload,
    sample=sample,
    looks=looks,
)
WGAN = replace(
    WGAN_GP,
    name="wgan",
    prepare=partial(prepare, clipped=True),
    train=partial(train, clipped=True),
)

"""What a client does for synthesis: keep a generator and a critic, and train them every round.

Critic      min  E[D(G(z))] − E[D(x)] + λ · E[(‖∇D(x̂)‖ − 1)²]         (wgan-gp)
            min  E[D(G(z))] − E[D(x)],  weights clipped to ±c          (wgan)
Generator   min  −E[D(G(z))] + l1 · direct + l2 · indirect + l3 · JSD
(Arjovsky et al. 2017; Gulrajani et al. 2017; constraint losses: Zhang et al., AAAI 2025.)
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fedsyn import ops
from fedsyn.config import SynthesisConfig
from fedsyn.core.cohort import Cohort
from fedsyn.core.graphs import Step
from fedsyn.core.optim import Optimizer
from fedsyn.core.payload import Payload
from fedsyn.models.generator import SLOPE, Generator, critic, directions
from fedsyn.models.mlp import MLP
from fedsyn.models.retrieval import RetrievalNet, fuse
from fedsyn.ops.prototype_nce import prototype_logits
from fedsyn.profiling import phase
from fedsyn.synthesis import prototypes

INTRODUCED = ("prototypes", "counts", "basis")  # never change, so are sent once
PREPARED = 16  # steps whose draws are held at a time


@dataclass(frozen=True)
class Adversary:
    """The two networks and their optimisers, for pairs of one size."""

    generator: Generator
    critic: MLP
    generator_optimizer: Optimizer
    critic_optimizer: Optimizer


def build(config: SynthesisConfig, pair_dim: int) -> Adversary:
    """Networks and optimisers as configured: Adam for wgan-gp, RMSprop for the clipped wgan."""
    kind: Literal["rmsprop", "adam"] = "rmsprop" if config.generator == "wgan" else "adam"
    return Adversary(
        generator=Generator(config.noise, pair_dim, config.hidden),
        critic=critic(pair_dim, config.critic_hidden),
        generator_optimizer=Optimizer(kind, config.generator_lr, config.betas),
        critic_optimizer=Optimizer(kind, config.critic_lr, config.betas),
    )


def init(features: Tensor, cohort: Cohort, config: SynthesisConfig, code: int) -> Payload:
    """A cohort's synthesis state before its first round, stacked ``[C, ...]``.

    ``code`` is the size of an embedding.

    Prototypes are fitted once: features do not change between rounds. ``trained`` counts the
    rounds in which a client's generator was trained.
    """
    state = prototypes.fit(features, cohort, config)
    # The client goes by what the server will see of them.
    state |= {k: _sent(v, config).to(v.dtype) for k, v in state.items() if k in INTRODUCED}
    state["trained"] = torch.zeros(len(cohort.ids), dtype=torch.long, device=features.device)
    if config.space == "private":
        clients, clusters = state["counts"].shape
        state["embedded"] = features.new_zeros(clients, clusters, code)
    if config.generator == "gaussian":
        return state
    if not config.warm_start:
        state["basis"].zero_()
    adversary = build(config, features.shape[-1])
    streams = cohort.streams("adversary-init")
    rows = [
        (
            adversary.generator.init(stream, config.warm_start),
            adversary.critic.layout.flatten(adversary.critic.init(stream)),
        )
        for stream in streams
    ]
    for name, values in zip(("generator", "critic"), zip(*rows, strict=True), strict=True):
        stacked = torch.stack(values).to(features.device)
        state[name] = stacked
        optimizer = getattr(adversary, f"{name}_optimizer")
        state |= {f"{name}.{slot}": value for slot, value in optimizer.init(stacked).items()}
    if config.upload != "float32":
        state["sent"] = _sent(state["generator"], config)
    return state


def train(
    state: Payload,
    features: Tensor,  # [N, D] concatenated pairs
    cohort: Cohort,
    config: SynthesisConfig,
    net: RetrievalNet,
    encoder: Tensor,  # [C, P] each client's encoder, constant here
) -> dict[str, Tensor]:
    """One round of adversarial training, in place on ``state``; mean losses ``[C]`` by name.

    A client's first round starts with ``critic_warmup`` steps of the critic alone: an untrained
    critic pulls a warm-started generator away from where it is already good. Clients without
    prototypes or pairs are left as they are, at loss 0.
    """
    sizes = torch.tensor(cohort.sizes, device=features.device)
    able = (state["counts"].sum(-1) > 0) & (sizes > 0)
    adversarial = config.generator != "gaussian" and config.steps > 0
    names = ("critic", "generator") if adversarial else ()
    losses = {name: torch.zeros(len(cohort.ids), device=features.device) for name in names}
    if adversarial and able.any():
        fresh = able & (state["trained"] == 0)
        if config.critic_warmup and fresh.any():
            warmup = _Session(state, fresh, "critic-warmup", features, cohort, config, net, encoder)
            warmup.run(critic_steps=config.critic_warmup)
        session = _Session(state, able, "adversary", features, cohort, config, net, encoder)
        found = session.run(critic_steps=config.critic_steps, generator_steps=config.steps)
        for name, values in found.items():
            losses[name][able] = values
    state["trained"] += able
    if config.space == "private":
        state["embedded"] = fuse(*net.embed(encoder, state["prototypes"]))
    if "sent" in state:
        state["sent"] = _sent(state["generator"], config)
    return losses


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
        features: Tensor,
        cohort: Cohort,
        config: SynthesisConfig,
        net: RetrievalNet,
        encoder: Tensor,
    ) -> None:
        self.whole, self.positions = state, chosen.nonzero().squeeze(-1)
        # Where all clients train, what they keep is changed where it lies.
        everyone = bool(chosen.all())
        self.state = state if everyone else {k: v[self.positions] for k, v in state.items()}
        self.features, self.config, self.net = features, config, net
        self.adversary = build(config, features.shape[-1])
        self.cohort = cohort.take(self.positions.tolist())
        self.streams = self.cohort.streams(purpose)
        self.alive = self.state["counts"] > 0
        self.owner = self._owners()
        self.directions = directions(self.state["basis"])
        self.anchors = prototypes.anchors(
            self.state["prototypes"], self.state["counts"], config.condition
        ).flatten(0, 1)
        self.encoder = encoder[self.positions]
        self.prototype_embedding = fuse(*net.embed(self.encoder, self.state["prototypes"]))

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
        batch, config = self.config.batch, self.config
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
        config, adversary = self.config, self.adversary
        with torch.no_grad():
            fake = self._generate(self.state["generator"], draw.noise, draw.prototype)
        between = None
        if config.generator == "wgan-gp":
            between = torch.lerp(draw.real, fake, draw.mix)
        params = adversary.critic.layout.views(self.state["critic"])
        layers = adversary.critic.layers(params)
        step = ops.critic_step(draw.real, fake, between, *layers, SLOPE, config.penalty)
        self._step("critic", adversary.critic_optimizer, step.gradient)
        if config.generator == "wgan":
            self.state["critic"].clamp_(-config.clip, config.clip)
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
        config = self.config
        if not (config.direct or config.indirect or config.jsd):
            return fake.new_zeros(len(fake))
        image, text = self.net.embed(self.encoder, fake)
        return constraint_losses(image, text, self.prototype_embedding, self.alive, config)

    def _step(self, name: str, optimizer: Optimizer, gradient: Tensor) -> None:
        prefix = f"{name}."
        slots = {k.removeprefix(prefix): v for k, v in self.state.items() if k.startswith(prefix)}
        optimizer.step(self.state[name], gradient, slots)


def constraint_losses(
    image: Tensor,  # [C, B, d] unit rows
    text: Tensor,  # [C, B, d] unit rows
    prototype: Tensor,  # [C, M, d] unit rows
    alive: Tensor,  # [C, M] bool
    config: SynthesisConfig,
) -> Tensor:  # [C]
    """l1 · direct + l2 · indirect + l3 · JSD of generated pairs, under one temperature.

    direct: symmetric InfoNCE between the two embeddings of a pair. indirect: each embedding against
    the prototype that its pair's fused embedding is nearest to, mean of both modalities. JSD:
    between the softmax assignments of the two embeddings to the prototypes.
    """
    scale = 1 / config.temperature
    loss = image.new_zeros(len(image))
    if config.direct:
        loss = loss + config.direct * ops.info_nce(image, text, scale)
    if config.indirect:
        nearest = prototype_logits(fuse(image, text).detach(), prototype, 1.0, alive).argmax(-1)
        both = ops.prototype_nce(image, prototype, nearest, scale, alive)
        both = both + ops.prototype_nce(text, prototype, nearest, scale, alive)
        loss = loss + config.indirect * both / 2
    if config.jsd:
        p, q = (prototype_logits(u, prototype, scale, alive).softmax(-1) for u in (image, text))
        loss = loss + config.jsd * ops.js_divergence(p, q).mean(-1)
    return loss


def introduction(state: Mapping[str, Tensor], config: SynthesisConfig) -> Payload:
    """What a client sends once: prototypes, counts and Gaussian directions."""
    return {name: _sent(state[name], config) for name in INTRODUCED}


def upload(state: Mapping[str, Tensor], config: SynthesisConfig) -> Payload:
    """What a client sends in every round: the generator, and its own view of its prototypes."""
    names = (*trained_parts(config), *(("embedded",) if config.space == "private" else ()))
    return {name: state[name] for name in names}


def trained_parts(config: SynthesisConfig) -> tuple[str, ...]:
    """What of a client's state holds the trained generator as it is sent."""
    if config.generator == "gaussian":
        return ()
    return ("generator",) if config.upload == "float32" else ("sent",)


def _sent(value: Tensor, config: SynthesisConfig) -> Tensor:
    """A tensor as it travels."""
    half = config.upload == "float16" and value.is_floating_point()
    return value.half() if half else value

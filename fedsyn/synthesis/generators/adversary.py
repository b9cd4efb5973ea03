"""The generator and the critic of clients that train together, step by step.

Critic      min  E[D(G(z))] − E[D(x)] + λ · E[(‖∇D(x̂)‖ − 1)²]         with a penalty
            min  E[D(G(z))] − E[D(x)],  weights clipped to ±c          clipped
Generator   min  −E[D(G(z))] + l1 · direct + l2 · indirect + l3 · JSD
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fedsyn.core.batches import everything
from fedsyn.core.cohort import Cohort
from fedsyn.core.graphs import Step
from fedsyn.core.optim import Optimizer
from fedsyn.core.payload import Payload
from fedsyn.models.generator import GeneratorNet, directions
from fedsyn.models.retrieval import fuse
from fedsyn.profiling import phase
from fedsyn.synthesis.generators.base import GeneratorTraining
from fedsyn.synthesis.generators.constraints import constraint_losses, marginal
from fedsyn.synthesis.generators.critics import Critic, Scored
from fedsyn.synthesis.generators.drawing import Draw, Drawing
from fedsyn.synthesis.generators.options import WGANOptions
from fedsyn.synthesis.generators.private import embedded_clusters
from fedsyn.synthesis.generators.stopping import Best, Judge
from fedsyn.synthesis.settings import SynthesisConfig


@dataclass(frozen=True)
class Adversary:
    """The two networks and their optimisers, for pairs of one size."""

    generator: GeneratorNet
    critic: Critic
    generator_optimizer: Optimizer
    critic_optimizer: Optimizer


def network(config: SynthesisConfig, pair_dim: int) -> GeneratorNet:
    """The generator as configured, for training and for sampling alike."""
    own = config.of(WGANOptions)
    bound = own.output_range if own.output == "tanh" else None
    return GeneratorNet(config.noise, pair_dim, own.hidden, config.condition, own.warm_start, bound)


def build(config: SynthesisConfig, pair_dim: int, clipped: bool) -> Adversary:
    """Networks and optimisers: Adam with a penalty, RMSprop where weights are clipped."""
    own = config.of(WGANOptions)
    kind: Literal["rmsprop", "adam"] = "rmsprop" if clipped else "adam"
    return Adversary(
        generator=network(config, pair_dim),
        critic=Critic(pair_dim, own.critic_hidden, own.critic, own.critic_norm, own.critic_dropout),
        generator_optimizer=Optimizer(kind, own.generator_lr, own.betas),
        critic_optimizer=Optimizer(kind, own.critic_lr, own.betas),
    )


class Session:
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
        cohort = training.cohort.take(self.positions.tolist())
        self.drawing = Drawing(self.features, cohort, self.state, self.config, purpose)
        self.directions = directions(self.state["basis"])
        self.encoder = training.encoder[self.positions]
        self.embedded, self.alive = self._embedded(cohort)
        self.marginal = self._marginal()

    def run(self, critic_steps: int, generator_steps: int = 0) -> dict[str, Tensor]:
        """``critic_steps`` before each generator step, or alone; mean losses ``[C]``.

        With ``judged_share`` also the energy ``distance`` of what is kept in the end, 0 where it is
        not known.
        """
        total: dict[str, Tensor] = {}
        turns = max(generator_steps, 1)
        needed = turns * critic_steps + generator_steps
        draws = self.drawing.steps(needed, self.adversary.critic.dropped)
        critic_step, generator_step = (
            Step(lambda *draw, one=one: one(Draw(*draw)), self.features.device)
            for one in (self._critic_step, self._generator_step)
        )
        best = self._best() if generator_steps and self.options.judged_share else None
        for turn in range(1, turns + 1):
            with phase("critic"):
                for _ in range(critic_steps):
                    critic = critic_step(*next(draws))
            if critic_steps:
                total["critic"] = total.get("critic", 0) + critic
            if generator_steps:
                with phase("generator"):
                    loss = generator_step(*next(draws))
                total["generator"] = total.get("generator", 0) + loss
            if best is not None and (turn == turns or turn % self.options.judged_every == 0):
                best.offer(self.state["average" if self.options.ema else "generator"])
        if self.state is not self.whole:
            for name, value in self.state.items():
                self.whole[name][self.positions] = value
        losses = {name: value / turns for name, value in total.items()}
        return losses if best is None else losses | {"distance": best.distance.nan_to_num(0.0)}

    def _embedded(self, cohort: Cohort) -> tuple[Tensor, Tensor]:
        """Prototypes, or clusters, that losses look at ``[C, M, d]``, and which there are."""
        number, state = self.options.embedding_clusters, self.state
        if number:
            found = embedded_clusters(self.net, self.encoder, self.features, cohort, number)
            return found[0], found[1] > 0
        return fuse(*self.net.embed(self.encoder, state["prototypes"])), state["counts"] > 0

    def _marginal(self) -> Tensor | None:
        """How each client's pairs are spread over its prototypes, if a loss compares with it."""
        if not (self.options.jsd and self.options.jsd_form == "marginal"):
            return None
        scale, found = 1 / self.config.temperature, []
        for client, rows in enumerate(self.drawing.cohort.rows):
            own = slice(client, client + 1)
            points = self.features[torch.from_numpy(rows)][None]
            fused = fuse(*self.net.embed(self.encoder[own], points))
            found.append(marginal(fused, self.embedded[own], self.alive[own], scale))
        return torch.cat(found)

    def _best(self) -> Best:
        """What is kept, and what candidates for it are judged by."""
        index, valid = everything(self.drawing.kept, self.features.device)
        pairs, cohort = self._judged(self.features[index]), self.drawing.cohort
        judge = Judge(pairs, valid, cohort, self.state["counts"], self.config.noise)
        noise, prototype = self.config.truncation * judge.noise, self.drawing.told(judge.kinds)

        def make(rows: Tensor) -> Tensor:
            return self._judged(self._generate(rows, noise, prototype))

        return Best(self.state["best"], judge, make)

    def _judged(self, pairs: Tensor) -> Tensor:
        """What of pairs is compared: both embeddings, side by side."""
        return torch.cat(self.net.embed(self.encoder, pairs), -1)

    def _generate(self, params: Tensor, noise: Tensor, prototype: Tensor) -> Tensor:
        return self.adversary.generator(params, noise, prototype, self.directions)

    def _critic_step(self, draw: Draw) -> Tensor:
        own, critic = self.options, self.adversary.critic
        with torch.no_grad():
            fake = self._generate(self.state["generator"], draw.noise, draw.prototype)
        between = None if self.clipped else torch.lerp(draw.real, fake, draw.mix)
        self.state["power"].copy_(critic.turned(self.state["critic"], self.state["power"]))
        rows = Scored(draw.real, fake, between, draw.prototype, draw.kept)
        loss, gradient = critic.step(self.state["critic"], self.state["power"], rows, own.penalty)
        self._step("critic", self.adversary.critic_optimizer, gradient)
        if self.clipped:
            self.state["critic"].clamp_(-own.clip, own.clip)
        return loss

    def _generator_step(self, draw: Draw) -> Tensor:
        leaf = self.state["generator"].detach().requires_grad_()
        fake = self._generate(leaf, draw.noise, draw.prototype)
        score = self.adversary.critic.score(
            self.state["critic"], self.state["power"], fake, draw.prototype, draw.kept
        )
        loss = -score.mean(-1) + self._constraints(fake)
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        self._step("generator", self.adversary.generator_optimizer, gradient)
        if self.options.ema:
            self._average()
        return loss.detach()

    def _average(self) -> None:
        """Move it by β a + (1 − β) G, β = min(decay, (1 + t) / (10 + t)): the first soon go."""
        steps = self.state["generator.step"][:, None]
        decay = ((1 + steps) / (10 + steps)).clamp(max=self.options.ema)
        self.state["average"].lerp_(self.state["generator"], 1 - decay)

    def _constraints(self, fake: Tensor) -> Tensor:
        if not self.options.any:
            return fake.new_zeros(len(fake))
        image, text = self.net.embed(self.encoder, fake)
        return constraint_losses(
            image,
            text,
            self.embedded,
            self.alive,
            self.options,
            self.config.temperature,
            self.marginal,
        )

    def _step(self, name: str, optimizer: Optimizer, gradient: Tensor) -> None:
        prefix = f"{name}."
        slots = {k.removeprefix(prefix): v for k, v in self.state.items() if k.startswith(prefix)}
        optimizer.step(self.state[name], gradient, slots)

"""FedFTG's server step (Zhang et al., CVPR 2022), read for retrieval without labels.

w: the aggregated model;  w_k, G_k, n_k: model, generator and pairs of client k;  a_k = n_k / Σ n_k
``iterations`` times:
    x_k = G_k(z, P_y),  y ~ the client's prototypes by their pairs
    G_k ← Adam step of  L(w_k; x_k) − l_dis · dis(w, w_k; x_k) + l_div · div(z, x_k)
    ``model_steps`` times:
        x: pairs of all G_k, of each by its share a_k
        w ← Adam step of  KL(Σ_k a_k p_k(x) ‖ p_w(x)),  mean of rows and of both directions

L is the clients' own objective (fidelity: pairs that k's model finds aligned), dis the mean
|S_w − S_k| between the image–text similarity matrices of the batch under both models (hard pairs:
where the aggregated model differs), div = exp(−mean_ij ‖z_i − z_j‖² · ‖x_i − x_j‖₁) (unlike noise
makes unlike pairs), and p the softmax of a row of scale · S.

Read differently from the paper, which classifies: labels and their cross-entropy have no
counterpart, the objective takes their place and prototypes that of the classes to sample; ensemble
weights are a client's share of all pairs, not of a class's; predictions are rows of similarities.
There is a generator a client, started from what it uploaded, not one trained on the server
throughout. The disagreement is an L1 distance, as in the authors' code, where the paper writes KL;
both norms of the diversity are means over coordinates, for the sums over hundreds of them
make the exponential, and its gradient, zero. Batches of the model's step mix the clients' pairs, so
that different clients' are contrasted. w moves by Adam, not SGD, as in the other fine-tuning.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from fedsyn import streams
from fedsyn.core.extension import Pool, ServerView
from fedsyn.core.optim import Optimizer
from fedsyn.core.wire import Library
from fedsyn.models.generator import GeneratorNet, directions
from fedsyn.models.retrieval import RetrievalNet
from fedsyn.objectives.pairs.base import PairBatch, PairObjective
from fedsyn.settings.plugins import FLAT
from fedsyn.settings.sections import Count, Field, NonNegative, Positive, Repeated, Section
from fedsyn.synthesis.generators.base import Generator
from fedsyn.synthesis.generators.wgan import WGANOptions
from fedsyn.synthesis.prototypes import anchors
from fedsyn.synthesis.scores import quotas
from fedsyn.synthesis.settings import SynthesisConfig
from fedsyn.synthesis.steps.base import ServerStep
from fedsyn.synthesis.steps.fine_tuning import FineTuningOptions


class FedFTGOptions(Section):
    """Options of the server step of FedFTG."""

    iterations: Annotated[Count, Repeated()] = Field(10, description="iterations a round")
    model_steps: Count = Field(
        5, description="steps of the model an iteration, after one of the generators"
    )
    generator_lr: Positive = Field(1e-3, description="rate of the generators' steps")
    disagreement: NonNegative = Field(
        1.0, description="weight l_dis of the disagreement in the generators' loss"
    )
    diversity: NonNegative = Field(
        1.0, description="weight l_div of the diversity in the generators' loss"
    )


def disagreement(
    image: Tensor,  # [C, B, d] under one model ...
    text: Tensor,
    other_image: Tensor,  # [C, B, d] ... and under another
    other_text: Tensor,
) -> Tensor:  # [C]
    """Mean absolute difference of the image–text similarity matrices."""
    return (image @ text.mT - other_image @ other_text.mT).abs().mean((-2, -1))


def diversity(noise: Tensor, pairs: Tensor) -> Tensor:  # [C, B, n], [C, B, D] -> [C]
    """exp(−mean_ij ‖z_i − z_j‖² · ‖x_i − x_j‖₁), norms per coordinate."""
    inputs = torch.cdist(noise, noise).square() / noise.shape[-1]
    outputs = torch.cdist(pairs, pairs, p=1) / pairs.shape[-1]
    return (-(inputs * outputs).mean((-2, -1))).exp()


def distillation(
    image: Tensor,  # [B, d] under the model
    text: Tensor,
    teacher_image: Tensor,  # [C, B, d] under the clients' models
    teacher_text: Tensor,
    share: Tensor,  # [C], adds up to one
    scale: float,
) -> Tensor:  # []
    """KL of the clients' ensemble to the model: mean over rows, and over both directions."""
    mine, theirs = scale * image @ text.T, scale * teacher_image @ teacher_text.mT
    loss = image.new_zeros(())
    for logits, taught in ((mine, theirs), (mine.T, theirs.mT)):
        target = torch.einsum("c,cij->ij", share, taught.softmax(-1))
        loss = loss + torch.nn.functional.kl_div(
            logits.log_softmax(-1), target, reduction="batchmean"
        )
    return loss / 2


@dataclass(frozen=True)
class _Clients:
    """The clients that take part, stacked."""

    models: Tensor  # [C, P]
    prototypes: Tensor  # [C, M, D], what the generator is told of them
    counts: Tensor  # [C, M], on the host
    directions: Tensor  # [C, ...] as the generator takes them
    generators: Tensor  # [C, P'], trained here
    streams: list[torch.Generator]

    def draw(self, size: int, config: SynthesisConfig) -> tuple[Tensor, Tensor]:
        """Noise ``[C, size, noise]`` and prototypes ``[C, size, D]`` for as many pairs of each."""
        noise, kind = [], []
        for stream, counts in zip(self.streams, self.counts, strict=True):
            noise.append(torch.randn(size, config.noise, generator=stream))
            kind.append(torch.multinomial(counts.double(), size, True, generator=stream))
        owner = torch.stack(kind).to(self.prototypes.device)
        prototype = self.prototypes.take_along_dim(owner[..., None], 1)
        return config.truncation * torch.stack(noise).to(prototype), prototype


def distil(
    net: RetrievalNet,
    objective: PairObjective,
    model: Tensor,  # [1, P] the aggregated model
    models: Tensor,  # [C, P] the models of the round's clients
    library: Library,  # what these clients uploaded
    config: SynthesisConfig,
    seed: int,
    round_number: int,
) -> tuple[Tensor, float]:
    """Adapt the clients' generators, and the model to the clients on their pairs.

    Returns the model ``[1, P]`` and the mean loss of its steps. All of the round's clients are
    stacked. Where no client has prototypes the model comes back unchanged.
    """
    clients = _clients(models, library, config, seed, round_number)
    if clients is None:
        return model, 0.0
    own, tuning = config.of(FedFTGOptions), config.of(FineTuningOptions)
    adversarial, tuned = config.of(WGANOptions), model.clone()
    generator = GeneratorNet(config.noise, clients.prototypes.shape[-1], adversarial.hidden)
    rules = Optimizer("adam", own.generator_lr), Optimizer("adam", tuning.server_lr)
    states = rules[0].init(clients.generators), rules[1].init(tuned)
    weight = clients.counts.sum(-1).double()
    share = (weight / weight.sum()).to(model)
    sizes = quotas(weight.tolist(), tuning.server_batch, 0.0)
    total = 0.0
    for _ in range(own.iterations):
        noise, prototype = clients.draw(adversarial.batch, config)
        leaf = clients.generators.detach().requires_grad_()
        pairs = generator(leaf, noise, prototype, clients.directions)
        losses = generator_loss(net, objective, tuned, clients.models, noise, pairs, config)
        (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        rules[0].step(clients.generators, gradient, states[0])
        for _ in range(own.model_steps):
            noise, prototype = clients.draw(max(sizes), config)
            made = generator(clients.generators, noise, prototype, clients.directions)
            batch = torch.cat([x[:size] for x, size in zip(made, sizes, strict=True)])
            teachers = net.embed(clients.models, batch.expand(len(share), -1, -1))
            leaf = tuned.detach().requires_grad_()
            image, text = net.embed(leaf, batch[None])
            loss = distillation(image[0], text[0], *teachers, share, 1 / config.temperature)
            (gradient,) = torch.autograd.grad(loss, leaf)
            rules[1].step(tuned, gradient, states[1])
            total += float(loss.detach())
    return tuned, total / (own.iterations * own.model_steps)


def generator_loss(
    net: RetrievalNet,
    objective: PairObjective,
    model: Tensor,  # [1, P]
    models: Tensor,  # [C, P]
    noise: Tensor,  # [C, B, n]
    pairs: Tensor,  # [C, B, D] made of it
    config: SynthesisConfig,
) -> Tensor:  # [C]
    """What each client's generator minimises: fidelity − l_dis · dis + l_div · div."""
    options = config.of(FedFTGOptions)
    own = net.embed(models, pairs)
    aggregated = net.embed(model, pairs.flatten(0, 1)[None])
    image, text = (u.view_as(own[0]) for u in aggregated)
    loss = objective(net.extras(models), PairBatch(*own, pairs))
    loss = loss - options.disagreement * disagreement(image, text, *own)
    return loss + options.diversity * diversity(noise, pairs)


def _clients(
    models: Tensor, library: Library, config: SynthesisConfig, seed: int, round_number: int
) -> _Clients | None:
    """The clients that have prototypes and sent finite numbers."""
    if not library.ids:
        return None
    sent = {"model": models} | library.take(library.ids, ())
    counts = sent.pop("counts")
    sent["prototypes"] = anchors(sent["prototypes"], counts, config.condition)
    if "generator" in sent:
        sent["generator"] = sent["generator"].to(models)
    else:  # the correction of one that is not trained starts at zero
        hidden = config.of(WGANOptions).hidden
        fresh = GeneratorNet(config.noise, sent["prototypes"].shape[-1], hidden)
        seeds = (
            streams.generator(seed, "fedftg-init", round_number, client) for client in library.ids
        )
        rows = [fresh.init(stream, warm=True) for stream in seeds]
        sent["generator"] = torch.stack(rows).to(models)
    able = counts.sum(-1) > 0
    for value in sent.values():
        able &= value.isfinite().flatten(1).all(-1)
    if not able.any():
        return None
    ids = [client for client, use in zip(library.ids, able.tolist(), strict=True) if use]
    return _Clients(
        sent["model"][able],
        sent["prototypes"][able],
        counts[able].cpu(),
        directions(sent["basis"][able]),
        sent["generator"][able],
        [streams.generator(seed, "fedftg", round_number, client) for client in ids],
    )


def tune(view: ServerView, pool: Pool, generator: Generator) -> tuple[Tensor, float]:
    """The aggregated model, distilled from those of the round's clients."""
    problem, heard = view.problem, view.method
    library = view.uploads.library.only(heard.ids)
    able = set(library.ids)
    places = [place for place, client in enumerate(heard.ids) if client in able]
    return distil(
        problem.net, problem.objective, view.model, heard.own["model"][places], library,
        view.config, view.seed, view.round_number,
    )  # fmt: skip


FEDFTG = ServerStep(
    name="fedftg",
    options={FLAT: FineTuningOptions, "fedftg": FedFTGOptions},
    tune=tune,
    reads=("model",),
)

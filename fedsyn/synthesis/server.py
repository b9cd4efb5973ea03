"""What the server does for synthesis: sample the generators, filter, fine-tune, and look back."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedsyn import streams
from fedsyn.config import SynthesisConfig
from fedsyn.core.batches import draws
from fedsyn.core.optim import Optimizer
from fedsyn.core.payload import Payload
from fedsyn.models.generator import Generator
from fedsyn.models.retrieval import RetrievalNet, fuse
from fedsyn.objectives import Objective
from fedsyn.synthesis.filtering import global_prototypes, score, select
from fedsyn.synthesis.filtering import quotas as shares


@dataclass(frozen=True)
class Synthetic:
    """Filtered synthetic pairs, and out of how many candidates."""

    pairs: Tensor  # [S, D] concatenated features
    candidates: int


def sample(
    library: Payload,  # stacked uploads of the clients heard from
    ids: tuple[int, ...],
    config: SynthesisConfig,
    seed: int,
    round: int,
    stack: int,
) -> tuple[Tensor, Tensor]:
    """Draw candidates from every client's generator, as many as its share of all pairs.

    Noise is scaled by ``truncation``: below 1, variety is given up for typical pairs (Brock et al.
    2019, arXiv 1809.11096, section 3.1).

    Returns
    -------
    pairs : Tensor [S, D]
    maker : Tensor [S]
        Position of the client that made each pair.
    """
    counts = library["counts"]
    sizes = shares(counts.sum(-1).tolist(), config.candidates, 0.0)
    generator = Generator(config.noise, library["prototypes"].shape[-1], config.hidden)
    width = max(sizes)
    pairs: list[Tensor] = []
    for start in range(0, len(ids), stack):
        part = slice(start, start + stack)
        generators = [streams.generator(seed, "candidates", round, client) for client in ids[part]]
        noise = config.truncation * streams.normal(generators, width, config.noise)
        noise = noise.to(counts.device)
        mass = counts[part].double().cumsum(-1)
        draw = streams.uniform(generators, width).double().to(counts.device) * mass[:, -1:]
        owner = torch.searchsorted(mass, draw, right=True).clamp(max=counts.shape[1] - 1)
        prototype = library["prototypes"][part].take_along_dim(owner[..., None], 1)
        params = None
        if "generator" in library:
            params = generator.layout.views(library["generator"][part])
        made = generator(params, noise, prototype, library["basis"][part])
        pairs.extend(rows[:size] for rows, size in zip(made, sizes[part], strict=True))
    maker = torch.arange(len(ids)).repeat_interleave(torch.tensor(sizes))
    return torch.cat(pairs), maker.to(counts.device)


def synthesise(
    net: RetrievalNet,
    model: Tensor,  # [1, P] the aggregated model
    library: Payload,
    ids: tuple[int, ...],
    config: SynthesisConfig,
    seed: int,
    round: int,
    stack: int,
) -> Synthetic:
    """Sample all generators and keep what passes the filter; empty where nobody has prototypes."""
    pair_dim = library["prototypes"].shape[-1]
    if library["counts"].sum() == 0:
        return Synthetic(library["prototypes"].new_zeros(0, pair_dim), 0)
    pairs, maker = sample(library, ids, config, seed, round, stack)
    finite = pairs.isfinite().all(-1)
    pairs, maker = pairs[finite], maker[finite]
    params = net.layout.views(model)
    flat = library["prototypes"].flatten(0, 1)[None]
    embedded = fuse(*net.embed(params, flat))[0].unflatten(0, library["counts"].shape)
    generator = streams.generator(seed, "filter", round)
    world = global_prototypes(embedded, library["counts"], config.global_prototypes, generator)
    image, text = (u[0] for u in net.embed(params, pairs[None]))
    scores = score(image, text, maker, embedded, library["counts"], world, 1 / config.temperature)
    return Synthetic(pairs[select(scores, world, config, generator)], len(finite))


def fine_tune(
    net: RetrievalNet,
    objective: Objective,
    model: Tensor,  # [1, P]
    pairs: Tensor,  # [S, D] synthetic (or, for the oracle, real) pairs
    config: SynthesisConfig,
    generator: torch.Generator,
) -> tuple[Tensor, float]:
    """Train the aggregated model on ``pairs``; returns the model ``[1, P]`` and the mean loss.

    ``proximal`` adds ``proximal / 2 · ‖w − w_avg‖²``. With fewer than two pairs there is nothing to
    contrast: the model comes back unchanged.
    """
    if len(pairs) < 2:
        return model, 0.0
    optimizer = Optimizer("adam", config.server_lr)
    tuned, state, total = model.clone(), optimizer.init(model), 0.0
    index = draws([len(pairs)], config.server_steps, config.server_batch, [generator])
    for batch in index[:, 0].to(pairs.device):
        leaf = tuned.detach().requires_grad_()
        params = net.layout.views(leaf)
        loss = objective(params, *net.embed(params, pairs[batch][None]), None).sum()
        if config.proximal:
            loss = loss + config.proximal / 2 * (leaf - model).square().sum()
        (gradient,) = torch.autograd.grad(loss, leaf)
        optimizer.step(tuned, gradient, state)
        total += float(loss.detach())
    return tuned, total / max(config.server_steps, 1)

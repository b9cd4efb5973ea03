"""A round with synthesis written plainly: the same algorithm, steps and sizes as the workload's.

One client after another, ordinary modules and optimisers, the gradient penalty by differentiating
twice, k-means from scikit-learn. docs/synthesis.md says what is done and why; the numbers here are
those of `simulator.fedsyn_system`.

What it does not do is what the algorithm has no use for: scores that the chosen filter does not
read.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from simulator.workload import FEATURES, Net, Pairs, adam, info_nce, train

PAIR = 2 * FEATURES
EPOCHS = 2
PROTOTYPES, MIN_CLUSTER, ITERATIONS = 32, 3, 25
RANK, WIDTH, SLOPE = 128, 256, 0.2  # of the noise, of hidden layers, of the leaky ReLU
STEPS, DRAWN, CRITIC_STEPS, CRITIC_WARMUP = 20, 64, 2, 100
GENERATOR_LR, CRITIC_LR, BETAS, PENALTY = 1e-4, 1e-3, (0.0, 0.9), 10.0
DIRECT, INDIRECT, JSD, SCALE = 0.1, 0.1, 0.1, 1 / 0.3
GLOBAL_PROTOTYPES, CANDIDATES, TRUNCATION = 24, 8192, 0.6
QUANTILE, KEEP, BALANCE = 0.01, 0.75, 0.75
SERVER_STEPS, SERVER_BATCH, SERVER_LR = 20, 256, 1e-3


# ---- A client -------------------------------------------------------------------------------


class Generator(nn.Module):
    """Pairs from noise and a prototype: a Gaussian, corrected by an MLP that starts at zero."""

    basis: Tensor

    def __init__(self, basis: Tensor) -> None:
        super().__init__()
        first, last = nn.Linear(RANK + PAIR, WIDTH), nn.Linear(WIDTH, PAIR)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(first, nn.LeakyReLU(SLOPE, inplace=True), last)
        self.register_buffer("basis", basis)

    def forward(self, noise: Tensor, prototype: Tensor) -> Tensor:
        """Synthetic pairs ``[B, 256]``."""
        correction: Tensor = self.mlp(torch.cat([noise, prototype], 1))
        return torch.addmm(prototype, noise, self.basis) + correction


def critic() -> nn.Sequential:
    """The critic: one score a pair."""
    return nn.Sequential(
        nn.Linear(PAIR, WIDTH), nn.LeakyReLU(SLOPE),
        nn.Linear(WIDTH, WIDTH), nn.LeakyReLU(SLOPE), nn.Linear(WIDTH, 1),
    )  # fmt: skip


@dataclass
class Upload:
    """What leaves a client besides its model."""

    generator: Generator
    prototypes: Tensor  # [M, 256]
    counts: Tensor  # [M] pairs behind each


@dataclass
class Client:
    """What a client holds and keeps between rounds."""

    pairs: Pairs
    private: Net
    ready: bool = False
    upload: Upload = field(init=False)
    optimizers: tuple[torch.optim.Optimizer, ...] = field(init=False)
    critic: nn.Sequential = field(init=False)
    joined: Tensor = field(init=False)  # [N, 256] image beside text
    owner: Tensor = field(init=False)  # [N] prototype of each pair


def client(held: Pairs, initial: Net) -> Client:
    """A client before its first round."""
    private = Net()
    private.load_state_dict(initial.state_dict())
    return Client(held, private)


def local_round(net: Net, optimizer: torch.optim.Optimizer, state: Client) -> Upload:
    """A client's round: ``net`` is trained in place; generator and critic stay in ``state``."""
    train(net, optimizer, state.pairs, EPOCHS)
    train(state.private, adam(state.private.parameters()), state.pairs, EPOCHS)
    if not state.ready:
        prepare(state)
        for _ in range(CRITIC_WARMUP):
            critic_step(state)
        state.ready = True
    with torch.no_grad():
        prototype = fused(state.private, state.upload.prototypes)
    for _ in range(STEPS):
        for _ in range(CRITIC_STEPS):
            critic_step(state)
        generator_step(state, prototype)
    return state.upload


def prepare(state: Client) -> None:
    """Prototypes, closed-form generator, critic and optimisers."""
    state.joined = torch.cat(state.pairs, 1)
    prototypes, counts, state.owner = find_prototypes(state.joined)
    basis = directions(state.joined, prototypes[state.owner], len(prototypes))
    state.upload = Upload(Generator(basis), prototypes, counts)
    state.critic = critic()
    state.optimizers = optimizers(state.upload.generator, state.critic)


def optimizers(
    generator: Generator, against: nn.Module
) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Those of a generator and of its critic."""
    return (
        adam(generator.parameters(), GENERATOR_LR, BETAS),
        adam(against.parameters(), CRITIC_LR, BETAS),
    )


def find_prototypes(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Means of k-means clusters of at least three pairs, their counts, and each pair's own."""
    k = min(PROTOTYPES, len(points))
    found = KMeans(k, n_init=1, max_iter=ITERATIONS, tol=0.0).fit(points.numpy(force=True))
    counts = torch.tensor(np.bincount(found.labels_, minlength=k))
    alive = counts >= MIN_CLUSTER
    if not alive.any():
        alive[counts.argmax()] = True
    centres = torch.tensor(found.cluster_centers_)[alive]
    owner = torch.cdist(points, centres).argmin(1)
    counts = owner.bincount(minlength=len(centres))
    sums = torch.zeros_like(centres).index_add_(0, owner, points)
    return sums / counts.clamp(min=1)[:, None], counts, owner


def directions(points: Tensor, means: Tensor, clusters: int) -> Tensor:
    """Pooled principal directions within clusters, times their standard deviations."""
    freedom = max(1, len(points) - clusters)
    _, scale, rows = torch.linalg.svd((points - means).double(), full_matrices=False)
    kept = min(RANK, freedom, len(scale))
    basis = torch.zeros(RANK, PAIR)
    basis[:kept] = rows[:kept] * (scale[:kept, None] / math.sqrt(freedom))
    return basis


def draw(state: Client) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of real pairs, noise, and the prototypes of those pairs."""
    rows = torch.randint(len(state.joined), (DRAWN,))
    return rows, torch.randn(DRAWN, RANK), state.upload.prototypes[state.owner[rows]]


def critic_step(state: Client) -> None:
    """One step of WGAN-GP's critic (Gulrajani et al. 2017, algorithm 1)."""
    rows, noise, prototype = draw(state)
    with torch.no_grad():
        fake = state.upload.generator(noise, prototype)
    real = state.joined[rows]
    between = torch.lerp(real, fake, torch.rand(DRAWN, 1)).requires_grad_()
    scores = state.critic(torch.cat([fake, real]))
    (slope,) = torch.autograd.grad(state.critic(between).sum(), between, create_graph=True)
    loss = scores[:DRAWN].mean() - scores[DRAWN:].mean()
    loss = loss + PENALTY * (slope.norm(dim=1) - 1).square().mean()
    optimizer = state.optimizers[1]
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def generator_step(state: Client, prototype: Tensor) -> None:
    """One step of the generator: against the critic, and its constraints."""
    _, noise, condition = draw(state)
    fake = state.upload.generator(noise, condition)
    image, text = state.private(*fake.split(FEATURES, 1))
    loss = constraints(image, text, prototype) - state.critic(fake).mean()
    # Only these gradients are wanted: the critic and the private network stand still.
    parameters = list(state.upload.generator.parameters())
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = gradient
    state.optimizers[0].step()


def constraints(image: Tensor, text: Tensor, prototype: Tensor) -> Tensor:
    """Direct contrast, contrast with prototypes, and divergence of the assignments to them."""
    to_image, to_text = SCALE * (image @ prototype.T), SCALE * (text @ prototype.T)
    nearest = (to_image + to_text).detach().argmax(1)
    indirect = (cross_entropy(to_image, nearest) + cross_entropy(to_text, nearest)) / 2
    divergence = jensen_shannon(to_image, to_text).mean()
    return DIRECT * info_nce(image, text, SCALE) + INDIRECT * indirect + JSD * divergence


def jensen_shannon(one: Tensor, other: Tensor) -> Tensor:
    """Divergence in nats between the softmax of two rows of logits."""
    p, q = one.log_softmax(1), other.log_softmax(1)
    middle = torch.logaddexp(p, q) - math.log(2)
    return ((p.exp() * (p - middle)).sum(1) + (q.exp() * (q - middle)).sum(1)) / 2


def fused(net: Net, joined: Tensor) -> Tensor:
    """Normalised mean of both embeddings of pairs ``[N, 256]``."""
    image, text = net(*joined.split(FEATURES, 1))
    return normalize(image + text, dim=1)


# ---- The server -----------------------------------------------------------------------------


def server_round(net: Net, uploads: Sequence[Upload]) -> None:
    """Fine-tune the aggregated ``net`` on filtered synthetic pairs."""
    with torch.no_grad():
        pairs = synthesise(net, uploads)
    optimizer = adam(net.parameters(), SERVER_LR)
    for rows in torch.randint(len(pairs), (SERVER_STEPS, SERVER_BATCH)):
        optimizer.zero_grad()
        net.loss(*pairs[rows].split(FEATURES, 1)).backward()
        optimizer.step()
    optimizer.zero_grad()


def synthesise(net: Net, uploads: Sequence[Upload]) -> Tensor:
    """Candidates from all generators that pass the filter."""
    counts = torch.stack([upload.counts.sum() for upload in uploads])
    made = [
        candidates(upload, size)
        for upload, size in zip(uploads, shares(counts, CANDIDATES), strict=True)
    ]
    pairs = torch.cat(made)
    image, text = net(*pairs.split(FEATURES, 1))
    known = [fused(net, upload.prototypes) for upload in uploads]
    world, mass = global_prototypes(torch.cat(known), torch.cat([u.counts for u in uploads]))
    to_image, to_text = SCALE * (image @ world.T), SCALE * (text @ world.T)
    divergence, nearest = jensen_shannon(to_image, to_text), (to_image + to_text).argmax(1)
    own = normalize(image + text, dim=1).split([len(rows) for rows in made])
    # (A client whose share rounds to no candidate has nothing to compare.)
    realism = torch.cat(
        [(rows @ mine.T).amax(1) for rows, mine in zip(own, known, strict=True) if len(rows)]
    )
    plausible = (divergence <= divergence.quantile(1 - QUANTILE)) & (
        realism >= realism.quantile(QUANTILE)
    )
    rows = plausible.nonzero().squeeze(1)
    rows = rows[torch.randperm(len(rows))]
    places = shares(mass ** (1 - BALANCE), round(KEEP * len(pairs)))
    chosen = [rows[nearest[rows] == g][:place] for g, place in enumerate(places)]
    return pairs[torch.cat(chosen)]


def candidates(upload: Upload, size: int) -> Tensor:
    """Typical pairs of one generator."""
    owner = torch.multinomial(upload.counts.float(), max(size, 1), replacement=True)[:size]
    noise = TRUNCATION * torch.randn(size, RANK)
    pairs: Tensor = upload.generator(noise, upload.prototypes[owner])
    return pairs


def global_prototypes(embedded: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine clusters of all clients' prototypes, and the pairs behind each.

    Lloyd's iterations on unit rows, normalised at the end rather than in every iteration.
    """
    k, weight = min(GLOBAL_PROTOTYPES, len(embedded)), counts.numpy(force=True).astype(np.float32)
    found = KMeans(k, n_init=1, max_iter=ITERATIONS, tol=0.0)
    found.fit(embedded.numpy(force=True), sample_weight=weight)
    mass = torch.tensor(np.bincount(found.labels_, weight, minlength=k))
    return normalize(torch.tensor(found.cluster_centers_), dim=1), mass


def shares(weights: Tensor, budget: int) -> list[int]:
    """Split ``budget`` in proportion to the weights, by largest remainder."""
    exact = budget * weights.double() / weights.sum()
    whole = exact.long()
    whole[(exact - whole).topk(budget - int(whole.sum())).indices] += 1
    return whole.tolist()

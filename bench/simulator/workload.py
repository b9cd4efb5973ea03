"""What every system is given: the pairs, the model, its training on one client, and the judgement.

Plain PyTorch without fedsyn, so that the peers' environment needs no fedsyn and the plain loop has
none of its operators.

Pairs are made on the spot. A pair is a point of a latent class; its image and text features are two
fixed random non-linear views of the point with noise of their own. A client draws its classes from
a Dirichlet distribution of its own, so clients differ. Which of a thousand held-out texts belongs
to a picture can be told from the features, but not perfectly.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

# PyTorch imports this with the first optimiser; here, so that no round has an import in it.
import torch._dynamo
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

FEATURES, HIDDEN, EMBEDDING = 128, 256, 64
BATCH, LR, TEMPERATURE = 64, 1e-3, 0.2
TEST, NEAREST = 1000, 10
CLASSES, LATENT, SKEW, SPREAD, NOISE = 100, 24, 0.1, 0.7, 1.2


@dataclass(frozen=True)
class Task:
    """One measurement of one system."""

    workload: str  # local or synthesis
    clients: int
    pairs: int  # of each client
    rounds: int
    threads: int
    seed: int
    data: str  # folder that `write` has filled
    result: str  # file that receives the result
    extra: list[str] = field(default_factory=list)  # overrides, for fedsyn only
    device: str = "cpu"  # of fedsyn and of the loop; the others are measured on the CPU alone


class Clock:
    """When rounds end, counted from when the system could begin: after its imports."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.ends: list[float] = []

    def lap(self) -> None:
        """A round is done."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter() - self.start)


def parse() -> Task:
    """The task on the command line, as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("task")
    return Task(**json.loads(parser.parse_args().task))


def report(task: Task, clock: Clock, metric: float, versions: dict[str, str]) -> None:
    """Write what was measured."""
    found = {"ends": clock.ends, "metric": metric, "versions": versions}
    Path(task.result).write_text(json.dumps(found))


def command_line(task: Task) -> str:
    """The argument that `parse` reads."""
    return json.dumps(asdict(task))


# ---- Pairs ----------------------------------------------------------------------------------


def write(folder: Path, clients: int, pairs: int, seed: int = 0) -> None:
    """Make the pairs: ``pairs.npz`` as fedsyn reads it, and the same arrays one file each.

    Rows are ordered by client; the test pairs, drawn evenly over the classes, come last and belong
    to nobody.
    """
    stream = np.random.default_rng(seed)
    centres = stream.normal(size=(CLASSES, LATENT)).astype(np.float32)
    views = stream.normal(size=(2, LATENT, FEATURES)).astype(np.float32) / LATENT**0.5
    shares = stream.dirichlet(np.full(CLASSES, SKEW), clients)
    classes = [stream.choice(CLASSES, pairs, p=share) for share in shares]
    classes.append(stream.integers(CLASSES, size=TEST))
    label = np.concatenate(classes)
    points = centres[label] + SPREAD * stream.standard_normal((len(label), LATENT), np.float32)
    arrays: dict[str, Any] = {}
    for name, view in zip(("image", "text"), views, strict=True):
        features = np.tanh(points @ view)
        features += NOISE * stream.standard_normal(features.shape, np.float32)
        arrays[name] = features
    owner = np.concatenate([np.repeat(np.arange(clients), pairs), np.full(TEST, -1)])
    split = np.where(owner < 0, "test", "train")
    folder.mkdir(parents=True)
    np.savez(folder / "pairs.npz", client=owner, split=split, **arrays)
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)


Pairs = tuple[Tensor, Tensor]  # image [N, 128] and text [N, 128] features, row by row


def read(folder: str, pairs: int) -> tuple[list[Pairs], Pairs]:
    """Each client's pairs and the test pairs, on torch's default device.

    On the CPU they are views of mapped files, which processes share.
    """
    device = torch.get_default_device()
    image, text = (
        # Copy on write only because torch wants memory that it may write to.
        torch.from_numpy(np.load(Path(folder, f"{name}.npy"), mmap_mode="c")).to(device)
        for name in ("image", "text")
    )
    train = len(image) - TEST
    clients = zip(image[:train].split(pairs), text[:train].split(pairs), strict=True)
    return list(clients), (image[train:], text[train:])


# ---- Model ----------------------------------------------------------------------------------


class Net(nn.Module):
    """An MLP a modality into a common space; embeddings have unit norm."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = tower(), tower()

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Both embeddings ``[B, 64]``."""
        return normalize(self.image(image), dim=-1), normalize(self.text(text), dim=-1)

    def loss(self, image: Tensor, text: Tensor) -> Tensor:
        """InfoNCE of a batch of pairs."""
        u, v = self(image, text)
        return info_nce(u, v, 1 / TEMPERATURE)


def tower() -> nn.Sequential:
    """The MLP of one modality."""
    return nn.Sequential(
        nn.Linear(FEATURES, HIDDEN), nn.ReLU(inplace=True), nn.Linear(HIDDEN, EMBEDDING)
    )


def info_nce(u: Tensor, v: Tensor, scale: float) -> Tensor:
    """Symmetric InfoNCE, mean of both directions."""
    logits = scale * (u @ v.T)
    target = torch.arange(len(u))
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2


def adam(parameters: Any, lr: float = LR, betas: tuple[float, float] = (0.9, 0.999)) -> Any:
    """PyTorch's fastest Adam on a CPU."""
    return torch.optim.Adam(parameters, lr=lr, betas=betas, fused=True)


def train(net: Net, optimizer: torch.optim.Optimizer, held: Pairs, epochs: int = 1) -> None:
    """A client's local training: shuffled passes with fresh moments.

    An epoch gathers the shuffled pairs once; batches are views of nearly equal size.
    """
    optimizer.state.clear()
    size = len(held[0])
    for _ in range(epochs):
        order = torch.randperm(size)
        steps = -(-size // BATCH)
        batches = (side[order].tensor_split(steps) for side in held)
        for image, text in zip(*batches, strict=True):
            net.loss(image, text).backward()
            optimizer.step()
            optimizer.zero_grad()


@torch.no_grad()
def recall(net: Net, test: Pairs) -> float:
    """Recall@10 among the test pairs, mean of both directions."""
    image, text = net(*test)
    similarity = image @ text.T
    own = similarity.diagonal()
    ranks = [(similarity > own[:, None]).sum(1), (similarity > own).sum(0)]
    return float(torch.cat(ranks).lt(NEAREST).float().mean())

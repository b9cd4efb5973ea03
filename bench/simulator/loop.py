"""Federated averaging written plainly: one client after another, one model that they take turns in.

Good PyTorch, so that a comparison with it is honest: fused Adam, nothing copied that need not be,
sums of models in place.
"""

import platform

import torch
from torch import Tensor

from simulator import synthesis_loop
from simulator.workload import Clock, Net, Pairs, adam, parse, read, recall, report, train


def main() -> None:
    """Run the task on the command line."""
    task = parse()
    torch.set_num_threads(task.threads)
    torch.set_default_device(task.device)
    clock = Clock()
    torch.manual_seed(task.seed)
    clients, test = read(task.data, task.pairs)
    net = Net()
    if task.workload == "local":
        average(net, clients, task.rounds, clock)
    else:
        synthesis_loop.run(net, clients, task.rounds, clock)
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    report(task, clock, recall(net, test), versions)


def average(net: Net, clients: list[Pairs], rounds: int, clock: Clock) -> None:
    """Federated averaging, all clients in every round."""
    parameters = list(net.parameters())
    optimizer = adam(parameters)
    pairs = sum(len(image) for image, _ in clients)
    for _ in range(rounds):
        received = [parameter.detach().clone() for parameter in parameters]
        total = [torch.zeros_like(value) for value in received]
        for held in clients:
            copy(received, parameters)
            train(net, optimizer, held)
            add(parameters, total, len(held[0]) / pairs)
        copy(total, parameters)
        clock.lap()


@torch.no_grad()
def copy(values: list[Tensor], into: list[Tensor]) -> None:
    """``into`` ← ``values``."""
    torch._foreach_copy_(into, values)


@torch.no_grad()
def add(values: list[Tensor], into: list[Tensor], share: float) -> None:
    """``into`` ← ``into`` + ``share`` · ``values``."""
    torch._foreach_add_(into, values, alpha=share)


if __name__ == "__main__":
    main()

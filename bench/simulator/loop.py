"""Federated averaging written plainly: one client after another, one model that they take turns in.

Good PyTorch, so that a comparison with it is honest: fused Adam, nothing copied that need not be,
sums of models in place.
"""

import platform
from collections.abc import Callable, Sequence

import torch

from simulator.synthesis_loop import client, local_round, server_round
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
    run = local if task.workload == "local" else synthesis
    run(net, clients, task.rounds, clock)
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    report(task, clock, recall(net, test), versions)


def local(net: Net, held: Sequence[Pairs], rounds: int, clock: Clock) -> None:
    """Clients train the model and nothing else."""
    optimizer = adam(net.parameters())
    sizes = [len(image) for image, _ in held]
    for _ in range(rounds):
        average(net, sizes, lambda number: train(net, optimizer, held[number]))
        clock.lap()


def synthesis(net: Net, held: Sequence[Pairs], rounds: int, clock: Clock) -> None:
    """Clients make generators too, and the server fine-tunes on what these make."""
    optimizer = adam(net.parameters())
    states = [client(pairs, net) for pairs in held]
    sizes = [len(image) for image, _ in held]
    for _ in range(rounds):
        average(net, sizes, lambda number: local_round(net, optimizer, states[number]))
        server_round(net, [state.upload for state in states])
        clock.lap()


def average(net: Net, sizes: Sequence[int], learn: Callable[[int], object]) -> None:
    """A round of federated averaging: every client learns from the model that the round began with.

    ``learn`` trains ``net`` in place as the client of a number does.
    """
    parameters = [parameter.detach() for parameter in net.parameters()]
    received = [parameter.clone() for parameter in parameters]
    total = [torch.zeros_like(value) for value in received]
    for number, size in enumerate(sizes):
        torch._foreach_copy_(parameters, received)
        learn(number)
        torch._foreach_add_(total, parameters, alpha=size / sum(sizes))
    torch._foreach_copy_(parameters, total)


if __name__ == "__main__":
    main()

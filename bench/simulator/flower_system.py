"""The workload in Flower's simulation engine (Ray), by its message API.

Two workers of one core each; all clients in every round, no federated evaluation. A round ends
where the strategy evaluates, which is right after aggregation. With synthesis, which Flower has
not, clients run the plain loop's function; what a client keeps lies in its context, as Flower asks
for, and what it uploads travels in its reply, both as bytes.
"""

import logging
import os
import platform
import warnings
from collections.abc import Iterable
from functools import cache
from typing import Any

# Before Flower is imported: nothing is sent anywhere.
os.environ |= {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # (silences a warning about absent GPUs)
}

import flwr
import ray
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from simulator import synthesis_loop
from simulator.workload import Clock, Net, Pairs, Task, adam, parse, read, recall, report, train

WORKERS = 2


def main() -> None:
    """Run the task on the command line."""
    task = parse()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    torch.set_num_threads(task.threads)
    clock = Clock()
    torch.manual_seed(task.seed)
    net = Net()
    run_simulation(
        server_app=server(task, net, clock),
        client_app=client(task),
        num_supernodes=task.clients,
        backend_config={
            "init_args": {"num_cpus": WORKERS, "include_dashboard": False},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
    if len(clock.ends) < task.rounds:
        raise RuntimeError(f"Flower ended after {len(clock.ends)} of {task.rounds} rounds")
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    versions |= {"flwr": flwr.__version__, "ray": ray.__version__}
    report(task, clock, recall(net, read(task.data, task.pairs)[1]), versions)


def server(task: Task, net: Net, clock: Clock) -> ServerApp:
    """FedAvg over all clients; leaves the final model in ``net``."""
    app = ServerApp()
    everyone = {"min_train_nodes": task.clients, "min_available_nodes": task.clients}

    def evaluate(round: int, arrays: ArrayRecord) -> None:
        if round:  # it is also called before the first
            clock.lap()

    @app.main()
    def _(grid: Grid, context: Context) -> None:
        kind = FedAvg if task.workload == "local" else WithSynthesis
        strategy = kind(fraction_train=1.0, fraction_evaluate=0.0, **everyone)
        arrays = ArrayRecord(net.state_dict())
        found = strategy.start(grid, arrays, task.rounds, evaluate_fn=evaluate)
        net.load_state_dict(found.arrays.to_torch_state_dict())

    return app


def client(task: Task) -> ClientApp:
    """Local training, or the whole of the plain loop's client."""
    app = ClientApp()

    @app.train()
    def _(message: Message, context: Context) -> Message:
        number = int(context.node_config["partition-id"])
        clients, net, optimizer = worker(task.data, task.pairs)
        net.load_state_dict(message.content["arrays"].to_torch_state_dict())
        records: dict[str, Any] = {}
        held = clients[number]
        if task.workload == "local":
            train(net, optimizer, held)
        else:
            state = recall_state(context, held, net)
            upload = synthesis_loop.local_round(net, optimizer, state)
            context.state["client"], context.state["upload"] = kept(state), sent(upload)
            records["upload"] = sent(upload)
        records["arrays"] = ArrayRecord(net.state_dict())
        records["metrics"] = MetricRecord({"num-examples": len(held[0])})
        return Message(content=RecordDict(records), reply_to=message)

    return app


@cache
def worker(data: str, pairs: int) -> tuple[list[Pairs], Net, torch.optim.Optimizer]:
    """What a worker process needs for every message, made once."""
    torch.set_num_threads(1)
    net = Net()
    return read(data, pairs)[0], net, adam(net.parameters())


class WithSynthesis(FedAvg):
    """FedAvg whose server also does what synthesis adds."""

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The plain loop's server, on the aggregated model."""
        replies = list(replies)
        uploads = [received(reply.content.pop("upload")) for reply in replies]
        arrays, metrics = super().aggregate_train(server_round, replies)
        net = Net()
        net.load_state_dict(arrays.to_torch_state_dict())
        synthesis_loop.server_round(net, uploads)
        return ArrayRecord(net.state_dict()), metrics


def sent(upload: synthesis_loop.Upload) -> ArrayRecord:
    """What leaves a client besides its model, as arrays."""
    own = {f"generator.{name}": v for name, v in upload.generator.state_dict().items()}
    return ArrayRecord(own | {"prototypes": upload.prototypes, "counts": upload.counts})


def received(record: ArrayRecord) -> synthesis_loop.Upload:
    """The inverse of `sent`."""
    arrays = dict(record.to_torch_state_dict())
    own = part(arrays, "generator.")
    generator = synthesis_loop.Generator(own["basis"])
    generator.load_state_dict(own)
    return synthesis_loop.Upload(generator, arrays["prototypes"], arrays["counts"])


def kept(state: synthesis_loop.Client) -> ArrayRecord:
    """What a client keeps between rounds beside its upload, as arrays."""
    arrays = {"joined": state.joined, "owner": state.owner}
    for name in ("private", "critic"):
        arrays |= {f"{name}.{k}": v for k, v in getattr(state, name).state_dict().items()}
    for number, optimizer in enumerate(state.optimizers):
        for place, slots in optimizer.state_dict()["state"].items():
            arrays |= {f"optimizer.{number}.{place}.{k}": v for k, v in slots.items()}
    return ArrayRecord(arrays)


def recall_state(context: Context, held: Pairs, net: Net) -> synthesis_loop.Client:
    """The client as the last round left it; at first, as it begins."""
    state = synthesis_loop.client(held, net)
    if "client" not in context.state:
        return state
    arrays = dict(context.state["client"].to_torch_state_dict())
    state.ready, state.joined, state.owner = True, arrays["joined"], arrays["owner"]
    state.upload, state.critic = received(context.state["upload"]), synthesis_loop.critic()
    state.private.load_state_dict(part(arrays, "private."))
    state.critic.load_state_dict(part(arrays, "critic."))
    state.optimizers = synthesis_loop.optimizers(state.upload.generator, state.critic)
    for turn, optimizer in enumerate(state.optimizers):
        slots: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in part(arrays, f"optimizer.{turn}.").items():
            place, _, slot = name.partition(".")
            slots.setdefault(int(place), {})[slot] = value
        optimizer.load_state_dict(optimizer.state_dict() | {"state": slots})
    return state


def part(arrays: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The arrays whose names begin so, by the rest of their names."""
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


if __name__ == "__main__":
    # By its name, not as __main__: Ray's workers, whose __main__ is another, import the app so.
    from simulator import flower_system

    flower_system.main()

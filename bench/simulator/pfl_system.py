"""The workload in pfl-research: its simulated backend, federated averaging and PyTorch model.

Local training is the framework's own loop over a `PyTorchTensorDataset`, shuffled when a user is
fetched. With synthesis, which pfl has not, clients run the plain loop's function inside
``train_one_user``; their state stays in the process. Run under torch.distributed.run, clients are
divided over the processes (pfl's way to use several cores); clients stay with one process only
where there is one, so that synthesis runs in one.
"""

import platform
from typing import Any

import pfl
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.internal.ops import pytorch_ops
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor

from simulator import synthesis_loop
from simulator.workload import BATCH, LR, Clock, Net, Pairs, adam, parse, read, recall, report


class PflNet(Net):
    """The network with the two methods that pfl asks for; `loss` is inherited."""

    def metrics(self, image: Tensor, text: Tensor) -> dict[str, Any]:
        """Nothing worth a computation: no system evaluates on clients."""
        return {"pairs": Weighted(len(image), len(image))}


class Laps(TrainingProcessCallback):
    """Notes when each round is done."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """Go on."""
        self.clock.lap()
        return False, Metrics()


class Synthesis(FederatedAveraging):
    """Federated averaging whose clients and server also do what synthesis adds."""

    def __init__(self, states: list[synthesis_loop.Client]) -> None:
        super().__init__()
        self.states = states

    def train_one_user(
        self, initial_model_state: Any, model: PyTorchModel, user_dataset: Any, central_context: Any
    ) -> tuple[Any, Metrics]:
        """The plain loop's client."""
        state = self.states[int(user_dataset.user_id)]
        optimizer = model.new_local_optimizer(LR)
        synthesis_loop.local_round(model.pytorch_model, optimizer, state)
        difference: Any = model.get_model_difference(initial_model_state)
        return difference, Metrics()

    def process_aggregated_statistics(
        self, central_context: Any, aggregate_metrics: Metrics, model: PyTorchModel, statistics: Any
    ) -> tuple[PyTorchModel, Metrics]:
        """The plain loop's server, on the aggregated model."""
        found: tuple[PyTorchModel, Metrics] = super().process_aggregated_statistics(
            central_context, aggregate_metrics, model, statistics
        )
        uploads = [state.upload for state in self.states]
        synthesis_loop.server_round(model.pytorch_model, uploads)
        return found


def main() -> None:
    """Run the task on the command line."""
    task = parse()
    torch.set_num_threads(task.threads)
    clock = Clock()
    torch.manual_seed(task.seed)
    clients, test = read(task.data, task.pairs)
    net = PflNet()
    algorithm = FederatedAveraging()
    if task.workload == "synthesis":
        algorithm = Synthesis([synthesis_loop.client(held, net) for held in clients])
    train(algorithm, net, clients, task.rounds, clock)
    if pytorch_ops.distributed.global_rank == 0:
        versions = {"python": platform.python_version(), "torch": torch.__version__}
        report(task, clock, recall(net, test), versions | {"pfl": pfl.__version__})


def train(
    algorithm: FederatedAveraging, net: PflNet, clients: list[Pairs], rounds: int, clock: Clock
) -> None:
    """All clients in every round."""

    def user(number: int) -> PyTorchTensorDataset:
        image, text = clients[number]
        order = torch.randperm(len(image))
        return PyTorchTensorDataset((image[order], text[order]), user_id=str(number))

    users = range(len(clients))
    sampler = get_user_sampler("minimize_reuse", users)
    weights = {number: len(clients[number][0]) for number in users}
    backend = SimulatedBackend(
        training_data=FederatedDataset(user, sampler, weights),
        val_data=None,
        postprocessors=[WeightByDatapoints()],
    )
    model = PyTorchModel(net, adam, torch.optim.SGD(net.parameters(), lr=1.0))
    algorithm.run(
        NNAlgorithmParams(
            central_num_iterations=rounds,
            evaluation_frequency=rounds,
            train_cohort_size=len(clients),
            val_cohort_size=None,
        ),
        backend,
        model,
        NNTrainHyperParams(local_batch_size=BATCH, local_num_epochs=1, local_learning_rate=LR),
        NNEvalHyperParams(local_batch_size=None),
        callbacks=[Laps(clock)],
        send_metrics_to_platform=False,
    )


if __name__ == "__main__":
    main()

"""The workload in fedsyn, by its public interface and on files, as a user runs it."""

import platform
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import fedsyn
from simulator.workload import TEMPERATURE, Clock, Net, Task, parse, read, recall, report

# Bound here: fedsyn imports its engine with the first use of these names.
run, load_config = fedsyn.run, fedsyn.load_config

# Everything that synthesis can do, in every round: adversarial training under all three losses.
SYNTHESIS = (
    *("synthesis.generator=wgan-gp", "synthesis.steps=20", "synthesis.last_round=0"),
    *("synthesis.direct=0.1", "synthesis.indirect=0.1", "synthesis.jsd=0.1"),
    *("synthesis.prototypes=32", "synthesis.noise=128", "synthesis.truncation=0.6"),
    "synthesis.server_steps=20",
)


class Laps:
    """An observer that notes when each round, its checkpoint included, is done."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def phase(self, round_number: int, name: str) -> None:
        """A phase of a round begins."""

    def row(self, row: dict[str, Any]) -> None:
        """A round is done."""
        self.clock.lap()


def main() -> None:
    """Run the task on the command line."""
    task = parse()
    clock = Clock()
    config = load_config(None, [*overrides(task), *task.extra])
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        run(config, out, observer=Laps(clock))
        model = load_file(out / "model.safetensors")
    _, test = read(task.data, task.pairs)
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "fedsyn": fedsyn.__version__,
    }
    report(task, clock, recall(plain(model), test), versions)


def overrides(task: Task) -> list[str]:
    """The workload as configuration; what is not said here is fedsyn's default."""
    common = [
        f"data.path={Path(task.data, 'pairs.npz')}",
        "data.label=",
        "data.standardize=false",
        "partition.scheme=column",
        "partition.column=client",
        f"objective.temperature={TEMPERATURE}",
        f"engine.threads={task.threads}",
        f'engine.devices=["{task.device}"]',
        f"run.rounds={task.rounds}",
        f"run.evaluate_every={task.rounds}",
        f"run.seed={task.seed}",
    ]
    if task.workload == "local":
        return [*common, "data.holdout=0", "method.epochs=1", "synthesis.enabled=false"]
    return [*common, *SYNTHESIS]


def plain(model: dict[str, torch.Tensor]) -> Net:
    """The shared evaluation's model with fedsyn's parameters (its matrices are transposed)."""
    net = Net()
    state = {}
    for modality in ("image", "text"):
        for layer in (0, 1):
            name, mine = f"{modality}.{layer}", f"{modality}.{2 * layer}"  # a ReLU lies between
            state[f"{mine}.weight"] = model[f"{name}.weight"].T
            state[f"{mine}.bias"] = model[f"{name}.bias"].squeeze(0)
    net.load_state_dict(state)
    return net


if __name__ == "__main__":
    main()

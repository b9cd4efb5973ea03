"""The workload in fedsyn, by its public interface and on files, as a user runs it."""

import platform
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import fedsyn
from simulator.workload import (
    BATCH,
    EMBEDDING,
    HIDDEN,
    LR,
    TEMPERATURE,
    Clock,
    Net,
    Task,
    parse,
    read,
    recall,
    report,
)

# Bound here: fedsyn imports its engine with the first use of these names.
run, load_config = fedsyn.run, fedsyn.load_config

# Adversarial training under all three losses in every round, and fine-tuning on the server. Every
# number that `simulator.synthesis_loop` has is here too, so that defaults may change; options that
# are off unless they are asked for are not named.
SYNTHESIS = (
    *("method.epochs=2", "synthesis.enabled=true"),
    *("synthesis.clusters=own", "synthesis.directions=own", "synthesis.space=global"),
    *("synthesis.prototypes=32", "synthesis.min_cluster=3", "synthesis.noise=128"),
    *("synthesis.generator=wgan-gp", "synthesis.condition=true", "synthesis.warm_start=true"),
    *("synthesis.first_round=1", "synthesis.last_round=0", "synthesis.upload=float32"),
    *("synthesis.hidden=[256]", "synthesis.critic_hidden=[256, 256]"),
    *("synthesis.steps=20", "synthesis.batch=64", "synthesis.critic_steps=2"),
    *("synthesis.critic_warmup=100", "synthesis.generator_lr=1e-4", "synthesis.critic_lr=1e-3"),
    *("synthesis.betas=[0.0, 0.9]", "synthesis.penalty=10"),
    *("synthesis.encoder=private", "synthesis.temperature=0.3"),
    *("synthesis.direct=0.1", "synthesis.indirect=0.1", "synthesis.jsd=0.1"),
    *("synthesis.candidates=8192", "synthesis.truncation=0.6", "synthesis.global_prototypes=24"),
    *("synthesis.filter=quota", "synthesis.quantile=0.01", "synthesis.keep=0.75"),
    *("synthesis.balance=0.75", "synthesis.share=server", "synthesis.server=filter"),
    *("synthesis.server_steps=20", "synthesis.server_batch=256", "synthesis.server_lr=1e-3"),
    "synthesis.server_temperature=0",  # that of what clients minimise
    "synthesis.line_search=[1.0]",  # all of the fine-tuned model, and nobody is asked
)


class Laps:
    """An observer that notes when each round, its checkpoint included, is done.

    The start, which is round 0, is none: here it is the evaluation of a model drawn at random.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def phase(self, round_number: int, name: str) -> None:
        """A phase of a round begins."""

    def row(self, row: dict[str, Any]) -> None:
        """A round is done."""
        if row["round"]:
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
    """The workload as configuration; how it is computed is fedsyn's default."""
    common = [
        f"data.path={Path(task.data, 'pairs.npz')}",
        "data.label=",
        "data.standardize=false",
        "data.holdout=0",
        "partition.scheme=column",
        "partition.column=client",
        "model.start=random",
        f"model.hidden=[{HIDDEN}]",
        f"model.dim={EMBEDDING}",
        "objective=info_nce",
        f"objective.temperature={TEMPERATURE}",
        "method=fedavg",
        "method.optimizer=adam",
        f"method.lr={LR}",
        f"method.batch={BATCH}",
        f"engine.threads={task.threads}",
        f'engine.devices=["{task.device}"]',
        f"run.rounds={task.rounds}",
        f"run.evaluate_every={task.rounds}",
        f"run.seed={task.seed}",
    ]
    if task.workload == "local":
        return [*common, "method.epochs=1", "synthesis.enabled=false"]
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

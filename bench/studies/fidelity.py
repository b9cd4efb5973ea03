"""How near generated pairs are to real ones while an adversarial generator is trained.

    PYTHONPATH=bench .venv/bin/python -m studies.fidelity --data DIR [--steps 500]

Trains every client's WGAN-GP from the closed-form Gaussian of its own pairs (step 0; 32 prototypes,
own directions), without a federation around it, and measures every hundred steps the energy
distance (Székely & Rizzo 2013) between its pairs, at full noise, and the client's real ones: those
it trains on, and those it has never seen (its held-out and test pairs). Means over the clients with
at least 30 unseen pairs; beside them the distance between seen and unseen real pairs, below which
no generator can be expected to come. The distance is estimated without bias, so it may be below
zero. Writes ``bench/results/fidelity.jsonl``.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from statistics import fmean

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import results
from fedsyn import streams
from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.data import federated
from fedsyn.data.silos import Silo
from fedsyn.federation import config
from fedsyn.federation.client import initial_model
from fedsyn.federation.federation import Federation, federation
from fedsyn.synthesis.client import client_state
from fedsyn.synthesis.generators import GENERATORS
from fedsyn.synthesis.generators.base import Generator, GeneratorTraining
from fedsyn.synthesis.sources import OWN
from fedsyn.tasks.retrieval import RetrievalProblem
from machine import facts
from studies.evidence import studies
from studies.trials.arithmetic import Row
from studies.trials.command import add_data, available, check_data

DATA = {name: studies.DATA[name] for name in studies.AUDITED}
FEWEST, DRAWN, EVERY = 30, 1000, 100
RECIPES = {
    "default": (),
    "rate 3e-4": ("synthesis.generator_lr=3e-4",),
    "rate 1e-3, 5 critic steps": ("synthesis.generator_lr=1e-3", "synthesis.critic_steps=5"),
    "rate 5e-4, 5 critic steps, penalty 1, 500 of critic alone": (
        *("synthesis.generator_lr=5e-4", "synthesis.critic_steps=5"),
        *("synthesis.penalty=1", "synthesis.critic_warmup=500"),
    ),
}


def main() -> None:
    """Measure all data sets and recipes, write and show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data(parser, DATA)
    parser.add_argument("--steps", type=int, default=500)
    arguments = parser.parse_args()
    check_data(parser, arguments.data, DATA)
    torch.set_num_threads(1)
    rows = []
    for name, overrides in available(DATA, arguments.data).items():
        for recipe, changes in RECIPES.items():
            rows += measure(name, recipe, [*overrides, *changes], arguments.steps)
    path = results.FOLDER / "fidelity.jsonl"
    results.write(path, {results.ABOUT: [facts()], "row": rows})
    show(rows)


def measure(name: str, recipe: str, overrides: list[str], steps: int) -> list[Row]:
    """A row every hundred steps."""
    settings = (*studies.own(32, "own"), "synthesis.generator=wgan-gp", "partition.alpha=0.1")
    chosen = config.load(None, [*settings, f"synthesis.steps={EVERY}", *overrides])
    fed = federation(chosen, federated.load(config.data_settings(chosen)), torch.device("cpu"))
    problem, silos, own = fed.problem, fed.silos, chosen.synthesis
    assert isinstance(problem, RetrievalProblem)
    features, generator = problem.features, GENERATORS.of(chosen.plugins.others)
    cohort = Cohort(tuple(range(len(silos))), tuple(silo.pairs for silo in silos), 0, 0)
    encoder = initial_model(problem.net, 0)  # no constraint loss looks through it
    state = client_state(problem, encoder, cohort, own, False, generator=generator, source=OWN)
    judged = [
        client
        for client, silo in enumerate(silos)
        if len(unseen(silo)) >= FEWEST and state["counts"][client].any()
    ]
    floor = fmean(energy(features[silos[c].pairs], features[unseen(silos[c])]) for c in judged)
    able = (state["counts"].sum(-1) > 0) & (torch.tensor(cohort.sizes) > 0)
    looking = encoder.expand(len(silos), -1)
    rows = []
    for number in range(steps // EVERY + 1):
        critic = None
        if number:
            now = replace(cohort, round_number=number)
            losses = generator.train(
                state, GeneratorTraining(features, now, able, own, problem.net, looking)
            )
            state["trained"] += able
            critic = -float(losses["critic"][judged].mean())
        seen, new = zip(*distances(fed, generator, state, judged), strict=True)
        rows.append(
            {
                **{"data": name, "recipe": recipe, "steps": number * EVERY, "clients": len(judged)},
                **{"seen": fmean(seen), "unseen": fmean(new), "real": floor, "critic": critic},
            }
        )
    return rows


def unseen(silo: Silo) -> np.ndarray:
    """The client's pairs that nothing is trained on."""
    return np.concatenate([silo.holdout, silo.test])


def distances(
    fed: Federation, generator: Generator, state: Payload, clients: list[int]
) -> Iterator[tuple[float, float]]:
    """Of each client's generated pairs to its seen and to its unseen real ones."""
    own, features = fed.config.synthesis, fed.problem.features
    for client in clients:
        stream = streams.generator(fed.config.run.seed, "fidelity", client=client)
        kinds = torch.multinomial(state["counts"][client].double(), DRAWN, True, generator=stream)
        sent = {name: value[[client]] for name, value in state.items()}
        noise = torch.randn(1, DRAWN, own.noise, generator=stream)
        made = generator.sample(sent, noise, sent["prototypes"][:, kinds], own)[0]
        silo = fed.silos[client]
        yield energy(made, features[silo.pairs]), energy(made, features[unseen(silo)])


def energy(x: Tensor, y: Tensor) -> float:  # [n, D], [m, D]
    """2 E‖x − y‖ − E‖x − x'‖ − E‖y − y'‖, over different rows of the same sample."""
    within = [torch.cdist(z, z).sum() / (len(z) * (len(z) - 1)) for z in (x, y)]
    return float(2 * torch.cdist(x, y).mean() - within[0] - within[1])


def show(rows: list[Row]) -> None:
    """Print a table of the rows."""
    table = Table("data", "recipe", "steps", "to seen", "to unseen", "seen to unseen", "critic")
    for row in rows:
        numbers = [f"{row[name]:.4f}" for name in ("seen", "unseen", "real")]
        critic = "" if row["critic"] is None else f"{row['critic']:.2f}"
        table.add_row(row["data"], row["recipe"], str(row["steps"]), *numbers, critic)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()

"""Synthetic pairs streamed through the server's filter: time and memory against their number.

    PYTHONPATH=bench .venv/bin/python -m studies.candidates

A hundred clients' generators (default sizes, 128 + 128 features) are sampled, scored and filtered,
and the pairs of one fine-tuning are drawn from what is left. Writes
``bench/results/candidates.jsonl``; ``pairs_mib`` is what holding all candidates would take.
"""

import time
from typing import Any

import numpy as np
import torch

import results
from fedsyn import ops, streams
from fedsyn.core.cohort import Cohort
from fedsyn.core.wire import Library
from fedsyn.models.retrieval import RetrievalNet, build
from fedsyn.models.settings import ModelConfig
from fedsyn.synthesis import prototypes
from fedsyn.synthesis.extension import SYNTHESIS
from fedsyn.synthesis.filters import FILTERS
from fedsyn.synthesis.generators import GENERATORS
from fedsyn.synthesis.sampling import synthesise
from fedsyn.synthesis.settings import SynthesisConfig
from machine import facts
from memory import peak_mib

CLIENTS, PAIRS, STACK, THREADS = 100, 320, 8, 2
NUMBERS = (100_000, 1_000_000, 10_000_000)
DRAWN = 20 * 256  # pairs of one fine-tuning


def main() -> None:
    """Measure all numbers of candidates, and publish."""
    torch.set_num_threads(1)
    net = build(ModelConfig(), 128, 128, {})
    model = net.init(streams.generator(0, "model"))[None]
    library = uploads(section())
    with ops.threads(THREADS):
        rows = [measure(net, model, library, number) for number in NUMBERS]
    about = {**facts(), "clients": CLIENTS, "stack": STACK, "threads": THREADS}
    results.publish("candidates", about, rows)


def section(**keys: Any) -> SynthesisConfig:
    """The options of synthesis by clients' own generators and the default filter."""
    made = SYNTHESIS.section(**{"clusters": "own", "directions": "own"}, **keys)
    assert isinstance(made, SynthesisConfig)
    return made


def uploads(config: SynthesisConfig) -> Library:
    """What the clients send of the default generator, which has nothing to train."""
    features = torch.randn(CLIENTS * PAIRS, 256, generator=streams.generator(0, "features"))
    held = np.arange(CLIENTS * PAIRS).reshape(CLIENTS, PAIRS)
    cohort = Cohort(tuple(range(CLIENTS)), tuple(held), 0, 0)
    sent = prototypes.fit(features, cohort, config)
    return Library(cohort.ids, lambda ids, names: {n: sent[n][list(ids)] for n in names or sent})


def measure(
    net: RetrievalNet, model: torch.Tensor, library: Library, number: int
) -> dict[str, Any]:
    """One pass over ``number`` candidates, and the draw."""
    config, parts = section(candidates=number), (GENERATORS.default, FILTERS.default)
    found: dict[str, Any] = {"candidates": number, "pairs_mib": number * 256 * 4 / 2**20}

    def call() -> None:
        start = time.perf_counter()
        with torch.no_grad():
            pool, _ = synthesise(net, model, library, *parts, config, 0, 1, STACK)
            found["filter_s"] = time.perf_counter() - start
            at = torch.randint(pool.size, (DRAWN,), generator=streams.generator(0, "draw"))
            start = time.perf_counter()
            drawn = pool.take(at)
            found["draw_s"] = time.perf_counter() - start
        assert drawn.isfinite().all()
        found["kept"] = pool.size

    found["peak_mib"] = round(peak_mib(call), 1)
    return found


if __name__ == "__main__":
    main()

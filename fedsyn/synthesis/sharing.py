"""Pairs that the filter keeps, for clients: the next round's train on some of them too.

Every batch of a client's own is joined by some; with ``complete`` clients also complete pairs that
lost a half (`fedsyn.synthesis.completion`). Private networks and generators train on real pairs
alone.
"""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch

from fedsyn import streams
from fedsyn.core.cohort import Extra
from fedsyn.core.extension import Examples, Pool
from fedsyn.core.payload import Payload
from fedsyn.synthesis.completion import complete
from fedsyn.synthesis.settings import SynthesisConfig

PAIRS = "pairs"


def drawn(pool: Pool, config: SynthesisConfig, seed: int, round_number: int) -> Payload:
    """Some of the pairs kept, ``[S, D]``; nothing where none are."""
    if not pool.size:
        return {}
    stream = streams.generator(seed, "shared", round_number)
    return {PAIRS: pool.take(torch.randperm(pool.size, generator=stream)[: config.shared])}


def completes(config: SynthesisConfig) -> bool:
    """Whether clients complete pairs."""
    return config.complete


def examples(examples: Examples, received: Payload, config: SynthesisConfig) -> Examples:
    """With the pairs that clients were sent, and what they complete from them."""
    if PAIRS not in received:
        return examples
    problem, cohort, shared = examples.problem, examples.cohort, received[PAIRS]
    held = [problem.features[torch.from_numpy(rows)] for rows in cohort.rows]
    if examples.images:
        image_dim = problem.net.image.widths[0]
        more = complete(
            problem.features, image_dim, cohort, examples.images, examples.texts, shared
        )
        held = [torch.cat(both) for both in zip(held, more, strict=True)]
    features = torch.cat([*held, shared])
    bounds = np.cumsum([0, *map(len, held)])
    rows = tuple(np.arange(begin, end) for begin, end in pairwise(bounds))
    extra = Extra(np.arange(bounds[-1], len(features)), min(config.shared_batch, len(shared)))
    return Examples(replace(problem, features=features), replace(cohort, rows=rows, extra=extra))

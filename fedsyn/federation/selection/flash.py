"""FLASH (arXiv 2402.08769): whom to ask is learnt from what earlier rounds gained.

A contextual bandit over clients whose data differ, in quality too, and who take different times.
The idea is that of the paper's abstract; the formulas are our reading of it, linear Thompson
sampling (Agrawal and Goyal 2013, arXiv 1209.3352):

A ← λI, b ← 0
every round:
    x_k ← 1, and standardised: last local loss, its fall, log of rows, rounds since k was asked
    θ ~ N(A⁻¹b, s²A⁻¹)                   s: ``exploration`` times the gains' root mean square
    ask the m clients of the largest x_k·θ, first those who were never asked
    g ← criterion before the round − criterion after it          on held-out rows
    every client k heard:  A ← A + x_k x_kᵀ,  b ← b + g x_k

The loss and its fall tell noisy data without labels; local steps are proportional to rows, which
stand for the time that a client takes. A client between others in all of these would be the best
under no θ: that it was not asked for long brings it out.
"""

import math

import torch
from torch import Tensor

from fedsyn import streams
from fedsyn.core.payload import Payload
from fedsyn.federation.selection.base import Heard, Selection
from fedsyn.federation.settings import RunConfig
from fedsyn.settings.sections import Field, NonNegative, Positive, Section


class FlashOptions(Section):
    """Options of the client selection FLASH."""

    exploration: NonNegative = Field(
        1.0, description="how far drawn weights are from what earlier gains say"
    )
    prior: Positive = Field(1.0, description="precision λ of the weights before any gain")


FEATURES = 5


def begin(clients: int, config: RunConfig) -> Payload:
    """What is known before the first round; float64.

    What is believed of a weight before any gain: it is 0, with the variance s²/λ.
    """
    prior = config.of(FlashOptions).prior
    unknown = torch.full((clients,), math.nan, dtype=torch.float64)
    return {
        "precision": prior * torch.eye(FEATURES, dtype=torch.float64),  # A
        "response": torch.zeros(FEATURES, dtype=torch.float64),  # b
        "gains": torch.zeros(2, dtype=torch.float64),  # how many, and the sum of their squares
        "criterion": torch.tensor(math.nan, dtype=torch.float64),  # after the last round
        "loss": unknown,  # [C] of the last round that each took part in
        "fall": unknown.clone(),  # [C] ... and by how much it was lower than the time before
        "rows": unknown.clone(),  # [C] that each trained on
        "asked": torch.zeros(clients, dtype=torch.float64),  # [C] last round; 0 never
    }


def contexts(memory: Payload, round_number: int) -> Tensor:  # [C, F]
    """The x of every client; what is not known of one is the mean of the others."""
    columns = torch.stack(
        [memory["loss"], memory["fall"], memory["rows"].log1p(), round_number - memory["asked"]],
        dim=1,
    )
    known = columns.isfinite()
    number = known.sum(0).clamp(min=1)
    apart = (columns - columns.where(known, 0).sum(0) / number).where(known, 0)
    deviation = (apart.square().sum(0) / number).sqrt()
    standard = apart / deviation.where(deviation > 0, 1)
    return torch.cat([torch.ones(len(columns), 1, dtype=torch.float64), standard], dim=1)


def choose(
    memory: Payload, clients: int, number: int, round_number: int, config: RunConfig
) -> tuple[int, ...]:
    """The clients of the largest x·θ, first those who were never asked."""
    generator = streams.generator(config.seed, "selection", round_number)
    exploration = config.of(FlashOptions).exploration
    order = torch.randperm(len(memory["asked"]), generator=generator)
    draw = torch.randn(FEATURES, 1, generator=generator, dtype=torch.float64)
    root = torch.linalg.cholesky(memory["precision"])
    mean = torch.cholesky_solve(memory["response"][:, None], root)
    gains, squares = memory["gains"].tolist()
    scale = exploration * math.sqrt(squares / gains) if squares else 1.0  # mean is 0: no matter
    theta = mean + scale * torch.linalg.solve_triangular(root.T, draw, upper=True)
    value = (contexts(memory, round_number) @ theta).squeeze(-1)
    value = value.where(memory["asked"] > 0, math.inf)[order]
    best = order[value.argsort(descending=True, stable=True)[:number]]
    return tuple(sorted(best.tolist()))


def learn(memory: Payload, heard: Heard) -> Payload:
    """What is known after a round.

    Where the criterion is not finite, or there is none to compare it with, the round teaches
    nothing about gains.
    """
    new = {name: value.clone() for name, value in memory.items()}
    criterion, ids = heard.criterion, list(heard.ids)
    gain = memory["criterion"].item() - criterion
    if math.isfinite(gain):
        x = contexts(memory, heard.round_number)[ids]
        new["precision"] += x.T @ x
        new["response"] += gain * x.sum(0)
        new["gains"] += torch.tensor([1.0, gain**2], dtype=torch.float64)
    if math.isfinite(criterion):
        new["criterion"].fill_(criterion)
    at = torch.tensor(ids, dtype=torch.long)
    loss = heard.losses.double().cpu()
    new["fall"][at] = memory["loss"][at] - loss
    new["loss"][at] = loss
    new["rows"][at] = heard.sizes.double().cpu()
    new["asked"][list(heard.asked)] = float(heard.round_number)
    return new


FLASH = Selection(
    name="flash",
    options={"flash": FlashOptions},
    begin=begin,
    choose=choose,
    learn=learn,
)

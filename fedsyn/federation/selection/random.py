"""Clients at random, without replacement, anew in every round (McMahan et al. 2017)."""

from fedsyn.core.payload import Payload
from fedsyn.federation.selection.base import Selection, sampled
from fedsyn.federation.settings import RunConfig


def choose(
    memory: Payload, clients: int, number: int, round_number: int, config: RunConfig
) -> tuple[int, ...]:
    """As many as ``run.fraction`` says."""
    return sampled(clients, config.fraction, config.seed, round_number)


RANDOM = Selection(name="random", choose=choose)

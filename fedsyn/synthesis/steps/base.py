"""What a server step of synthesis is, as a plug-in: on what, and how, the model is fine-tuned."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from fedsyn.core.extension import Pool, ServerView
from fedsyn.settings.plugins import Plugin
from fedsyn.synthesis.generators.base import Generator


@dataclass(frozen=True, kw_only=True, eq=False)
class ServerStep(Plugin):
    """Fine-tunes the aggregated model; options stand in the section ``[synthesis]``.

    Attributes
    ----------
    tune : ``(view, pool, generator) -> model [1, P], loss``
        The model itself, unchanged, where there is nothing to do.
    filters : bool
        Whether it trains on the pairs that the filter keeps, which are then made.
    reads : tuple of str
        Sums of the method that it looks at client by client.
    """

    tune: Callable[[ServerView, Pool, Generator], tuple[Tensor, float]]
    filters: bool = False
    reads: tuple[str, ...] = ()

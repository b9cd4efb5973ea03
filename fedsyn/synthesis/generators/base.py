"""What a generator of paired features is, as a plug-in."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.models.retrieval import RetrievalNet
from fedsyn.settings.plugins import Plugin
from fedsyn.synthesis.settings import SynthesisConfig
from fedsyn.tasks.base import Penalty


def nothing(state: Payload, features: Tensor, cohort: Cohort, config: SynthesisConfig) -> Payload:
    """A generator that has no state of its own."""
    return {}


def never(config: SynthesisConfig) -> bool:
    """A generator that looks through no model."""
    return False


def nothing_more(
    net: RetrievalNet, models: Tensor, features: Tensor, cohort: Cohort, config: SynthesisConfig
) -> Penalty | None:
    """A generator whose clients' private networks minimise the objective alone."""
    return None


@dataclass(frozen=True)
class GeneratorTraining:
    """What a generator is trained with, of a chunk of C clients.

    Attributes
    ----------
    features : Tensor of shape [N, D]
        Concatenated pairs.
    cohort : Cohort
        The clients, and which pairs are theirs.
    able : Tensor of shape [C] bool
        Clients that have prototypes and pairs: others stay as they are.
    config : SynthesisConfig
    net : RetrievalNet
    encoder : Tensor of shape [C, P]
        The model that each client looks at generated pairs through, constant here.
    """

    features: Tensor
    cohort: Cohort
    able: Tensor
    config: SynthesisConfig
    net: RetrievalNet
    encoder: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Generator(Plugin):
    """Makes pairs of a client's prototypes; options stand in the section ``[synthesis]``.

    Attributes
    ----------
    prepare : ``(state, features [N, D], cohort, config) -> payload [C, ...]``
        What a client keeps of it before its first round.
    train : ``(state, training) -> losses [C] by name``
        A round's training, in place on the client's state, whose ``trained [C]`` counts the rounds
        before, and which has ``prototypes [C, M, D]``, the client's pairs at each, ``counts
        [C, M]``, and ``basis [C, noise, D]``, zero while directions are not known.
    upload : ``(state) -> payload [C, ...]``
        What a client sends in every round.
    sample : ``(sent, noise [C, B, noise], prototype [C, B, D], config) -> pairs [C, B, D]``
        Pairs by what clients have sent, prototypes, counts and directions (``basis``) included.
        Each depends on its row of the inputs alone.
    looks : ``(config) -> bool``
        Whether training looks at generated pairs through a model.
    penalty : ``(net, models [C, P], features [N, D], cohort, config) -> penalty`` or ``None``
        What private networks minimise beside the objective, ``models`` being where they start.
    learns : bool
        Whether clients train it, for which they are sent the pooled directions.
    """

    prepare: Callable[[Payload, Tensor, Cohort, SynthesisConfig], Payload] = nothing
    train: Callable[[Payload, GeneratorTraining], dict[str, Tensor]]
    upload: Callable[[Payload], Payload]
    sample: Callable[[Mapping[str, Tensor], Tensor, Tensor, SynthesisConfig], Tensor]
    looks: Callable[[SynthesisConfig], bool] = never
    penalty: Callable[..., Penalty | None] = nothing_more
    learns: bool = True

"""What synthesis is told, whichever generator, filter and server step it has."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

import pydantic

from fedsyn.settings.sections import (
    Count,
    Field,
    Fraction,
    NonNegative,
    Positive,
    Section,
    Whole,
)


class SynthesisConfig(Section):
    """Generators on the clients, filter and fine-tuning on the server."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        "gate": "synthesis.line_search chooses a share of the fine-tuned model, [1.0] takes all",
        "tolerance": "synthesis.line_search goes by which share clients like best",
    }

    enabled: bool = Field(True, description="whether clients make generators")
    oracle: bool = Field(
        False,
        description="fine-tune on pooled real pairs: the bound, not a federated method",
    )
    generator: str = Field("", description="what makes pairs of a client's prototypes")
    clusters: Literal["all", "own"] = Field(
        "all",
        description="whose pairs prototypes are means of: all clients', found by sums; or each "
        "client's own, which the server sees one by one",
    )
    prototypes: Count = Field(24, description="most clusters, of all pairs or of a client's")
    min_cluster: Count = Field(
        5, description="fewest pairs of a client behind what it sends of a prototype"
    )
    shrinkage: NonNegative = Field(
        0.0,
        description="pairs at the client's mean that each of its own prototypes counts as well",
    )
    disclosed_noise: NonNegative = Field(
        0.0, description="deviation of the noise on each number of a client's own prototypes"
    )
    cluster_rounds: Count = Field(
        5, description="rounds in which clients add up clusters of all pairs"
    )
    directions: Literal["pooled", "own", "none"] = Field(
        "pooled",
        description="in which pairs scatter around prototypes: those of all clients, known as a "
        "sum; a client's own, which disclose who its pairs are; none",
    )
    space: Literal["global", "private"] = Field(
        "global", description="whose embeddings of the prototypes the filter looks at"
    )
    encoder: Literal["private", "global", "frozen"] = Field(
        "private",
        description="model that constraint losses look through; frozen: the first one received",
    )
    condition: bool = Field(
        True, description="whether a generator makes pairs of a prototype asked for"
    )
    noise: Count = Field(256, description="dimensions of noise; of the Gaussian, directions")
    first_round: Count = Field(1, description="first round in which generators are trained")
    last_round: Whole = Field(
        0, description="last round in which generators are trained; 0: to the end"
    )
    upload: Literal["float32", "float16"] = Field(
        "float32", description="in which numbers generators and prototypes travel"
    )
    temperature: Positive = Field(
        0.3, description="temperature of constraint losses and of the filter"
    )
    global_prototypes: Count = Field(24, description="clusters of all clients' prototypes")
    candidates: Annotated[int, Field(ge=1, le=1 << 24)] = Field(
        4096, description="pairs drawn a round, over all clients"
    )
    truncation: Positive = Field(
        0.8, description="scale of the noise that candidates are drawn with"
    )
    filter: str = Field("", description="which candidates are kept")
    server: str = Field("", description="what the model is fine-tuned on, and how")
    line_search: Annotated[tuple[Fraction, ...], Field(min_length=1)] = Field(
        (0.0, 0.25, 0.5, 0.75, 1.0),
        description="shares of the fine-tuned model in the aggregated one, of which clients' "
        "held-out pairs choose; of one nobody is asked",
    )
    share: Literal["server", "clients"] = Field(
        "clients", description="who trains on kept pairs; clients: the next round's do too"
    )
    shared: Count = Field(1024, description="pairs sent to each of them")
    shared_batch: Count = Field(
        48, description="how many of them join every batch of a client's own"
    )
    complete: bool = Field(
        False, description="clients complete pairs that lost a half from those they were sent"
    )

    @pydantic.model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.complete and self.share != "clients":
            raise ValueError(
                f"synthesis.complete = true needs synthesis.share = 'clients', got {self.share!r}"
            )
        if self.space == "private" and self.encoder != "private":
            raise ValueError(
                "synthesis.space = 'private' needs synthesis.encoder = 'private', "
                f"got {self.encoder!r}"
            )
        if self.clusters == "all" and (self.space == "private" or self.directions != "pooled"):
            raise ValueError(
                "synthesis.clusters = 'all' needs synthesis.space = 'global' and "
                f"synthesis.directions = 'pooled', got {self.space!r} and {self.directions!r}"
            )
        if self.shared_batch > self.shared:
            raise ValueError(
                f"synthesis.shared_batch = {self.shared_batch} is more than "
                f"synthesis.shared = {self.shared}"
            )
        return self

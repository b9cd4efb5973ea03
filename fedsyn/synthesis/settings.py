"""What synthesis is told, whichever generator, filter and server step it has."""

from typing import Annotated, Literal, Self

import pydantic

from fedsyn.settings.sections import (
    Count,
    Field,
    NonNegative,
    Positive,
    Section,
    Whole,
)


class SynthesisConfig(Section):
    """Generators on the clients, filter and fine-tuning on the server."""

    enabled: bool = Field(True, description="whether clients make generators")
    oracle: bool = Field(
        False,
        description="fine-tune on pooled real pairs: the bound, not a federated method",
    )
    generator: str = Field("", description="what makes pairs of a client's prototypes")
    prototypes: Count = Field(128, description="most clusters of a client")
    min_cluster: Count = Field(
        3, description="fewest pairs behind a prototype: none is a single real pair"
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
        8192, description="pairs drawn a round, over all clients"
    )
    truncation: Positive = Field(
        0.8, description="scale of the noise that candidates are drawn with"
    )
    filter: str = Field("", description="which candidates are kept")
    server: str = Field("", description="what the model is fine-tuned on, and how")
    gate: bool = Field(
        True,
        description="keep the fine-tuned model only if clients' held-out pairs do not object",
    )
    tolerance: NonNegative = Field(
        0.1, description="share of their gain in run.criterion that it may take back"
    )
    share: Literal["server", "clients"] = Field(
        "server", description="who trains on kept pairs; clients: the next round's do too"
    )
    shared: Count = Field(512, description="pairs sent to each of them")
    shared_batch: Count = Field(
        16, description="how many of them join every batch of a client's own"
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
        if self.shared_batch > self.shared:
            raise ValueError(
                f"synthesis.shared_batch = {self.shared_batch} is more than "
                f"synthesis.shared = {self.shared}"
            )
        return self

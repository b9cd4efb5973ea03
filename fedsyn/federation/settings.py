"""What the engine of a federation is told: how it computes, on how many nodes, and for how long."""

from typing import Annotated, Literal

from fedsyn.settings.sections import (
    Count,
    Field,
    NonNegative,
    Positive,
    Section,
    Whole,
)


class EngineConfig(Section):
    """How the computation is laid out; never changes what is computed."""

    stack: Whole = Field(
        0, description="most clients in one stacked computation; 0: 8 on a CPU, 128 on a GPU"
    )
    devices: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        ("auto",), description="devices that clients are spread over"
    )
    threads: Whole = Field(
        0, description="CPU threads, each with clients of its own; 0: one a core"
    )
    graphs: bool = Field(
        False, description="training steps on a GPU as CUDA graphs; not measured yet"
    )
    memory: Whole = Field(
        1024,
        description="MiB of clients' state, and of features, in memory; more lies in files",
    )
    checkpoint_seconds: NonNegative = Field(
        30.0, description="least time between checkpoints; the last round has one"
    )


class RunConfig(Section):
    """Rounds, seed and reporting."""

    rounds: Whole = Field(
        20, description="rounds of the federation; 0: the model that it would start from"
    )
    seed: Whole = Field(0, description="seed of all random streams")
    fraction: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        1.0, description="share of the clients that do a round"
    )
    selection: str = Field("", description="how the clients of a round are chosen")
    evaluate_every: Count = Field(1, description="rounds between evaluations on the test rows")
    criterion: str = Field(
        "",
        description="what judges models on held-out rows: of retrieval, where not given, the rank "
        "of a pair's own partner; 'objective': what clients minimise; or an objective's name",
    )
    tf32: bool = Field(False, description="float32 products on a GPU in TF32; not measured yet")
    ranking: Literal["full", "top"] = Field(
        "full", description="top: metrics of the first ranks alone, for millions of rows"
    )
    extensions: tuple[str, ...] = Field(
        (), description="further extensions: names of entry points, or package.module:NAME"
    )
    record_uploads: bool = Field(
        False, description="keep what the server receives, as it receives it, in uploads/"
    )


class FlowerConfig(Section):
    """Real nodes; never changes what a client computes."""

    nodes: Count = Field(2, description="wait for so many nodes before the first round")
    wait: Positive = Field(300.0, description="seconds to wait for them")
    timeout: Positive = Field(
        3600.0, description="seconds that an exchange with all nodes may take"
    )
    quorum: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.5, description="least share of the clients asked that must answer"
    )
    test: str = Field(
        "", description="file of the server's own test pairs; '' for the test rows of the data"
    )


class TaskConfig(Section):
    """What is learnt from the pairs."""

    name: str = Field("", description="the task; the method's own where it is not given")

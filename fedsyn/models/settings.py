"""What networks are told: sizes of their layers."""

from typing import Annotated

from fedsyn.settings.sections import Count, Field, Section, Whole, Widths

Channels = Annotated[int, Field(ge=8, multiple_of=8)]


class ModelConfig(Section):
    """The network: of retrieval one MLP a modality into a common space."""

    hidden: Widths = Field((256,), description="widths of hidden layers")
    dim: Count = Field(64, description="size of an embedding (continuous)")
    bits: Whole = Field(
        0, description="length of tanh hash codes; 0 for continuous unit-norm embeddings"
    )
    channels: tuple[Channels, ...] = Field(
        (16, 32, 64), description="channels of each stage of a residual network of pictures"
    )
    blocks: Count = Field(1, description="residual blocks a stage")
    stride: Count = Field(1, description="stride of the first convolution")
    variants: tuple[Widths, ...] = Field(
        (), description="hidden layers of clients' own networks, in turn, where they have some"
    )

"""What networks are told: sizes of their layers."""

from typing import Annotated, Literal

from fedsyn.settings.sections import Count, Field, Section, Whole, Widths

Beginning = Literal["auto", "closed-form", "identity", "random"]
Channels = Annotated[int, Field(ge=8, multiple_of=8)]


class ModelConfig(Section):
    """The network: of retrieval one MLP a modality into a common space."""

    hidden: Widths = Field((256,), description="widths of hidden layers")
    dim: Whole = Field(
        0,
        description="size of an embedding (continuous); 0: 64 or, where both halves are features "
        "of one width that may be aligned already, that width",
    )
    bits: Whole = Field(
        0, description="length of tanh hash codes; 0 for continuous unit-norm embeddings"
    )
    start: Beginning = Field(
        "auto",
        description="where retrieval starts: the closed form (federated CCA), the features as they "
        "are (identity, of one width), at random; auto: what held-out pairs like best",
    )
    linear: Literal["trained", "frozen"] = Field(
        "trained", description="whether clients train the linear term that a start gives"
    )
    channels: tuple[Channels, ...] = Field(
        (16, 32, 64), description="channels of each stage of a residual network of pictures"
    )
    blocks: Count = Field(1, description="residual blocks a stage")
    stride: Count = Field(1, description="stride of the first convolution")
    variants: tuple[Widths, ...] = Field(
        (), description="hidden layers of clients' own networks, in turn, where they have some"
    )

    @property
    def embedding(self) -> int:
        """The size of an embedding where the data do not say it."""
        return self.dim or 64

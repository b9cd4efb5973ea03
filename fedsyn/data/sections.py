"""The sections of a configuration that are about data: which pairs, and who has what of them."""

from typing import Annotated, Literal

from fedsyn.settings.sections import (
    Count,
    Field,
    NonNegative,
    Positive,
    Section,
    Share,
    Whole,
)

Face = Literal["sans", "bold", "oblique", "serif", "mono"]


class DataConfig(Section):
    """Which pairs, which of their arrays, and how raw pixels and strings become features."""

    name: Literal["", "glyphs"] = Field("glyphs", description="an embedded data set")
    path: str = Field(
        "", description="a file of pairs, or a folder; takes the place of the embedded set"
    )
    reader: str = Field(
        "",
        description="what reads the file: a reader's name, or package.module:NAME; 'auto' is told "
        "by the file's ending",
    )
    image: str = Field("image", description="array or column of pixels or image features")
    text: str = Field("text", description="array or column of strings or text features")
    label: str = Field("label", description="array or column of labels; '' for none")
    split: str = Field(
        "split", description="array or column with 'train' and 'test'; drawn where absent"
    )
    images: str = Field(
        "", description="folder of the pictures that a CSV names; '' is the CSV's own folder"
    )
    size: Annotated[int, Field(ge=16)] = Field(
        64, description="side in pixels of pictures read from image files"
    )
    faces: Annotated[tuple[Face, ...], Field(min_length=1)] = Field(
        ("sans",), description="typefaces of the glyphs"
    )
    questions: Whole = Field(
        0, description="pictures an answer to each question about them; 0: texts as they are"
    )
    test_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.2, description="share of the pairs that a drawn split tests on"
    )
    split_seed: Whole = Field(
        0, description="seed of the drawn split: the same test set for every run.seed"
    )
    holdout: Annotated[float, Field(ge=0.0, lt=0.5)] = Field(
        0.1, description="share of a client's pairs that is kept aside"
    )
    public: Share = Field(
        0.0,
        description="share of the training pairs that everybody has, and no client of its own",
    )
    image_dim: Count = Field(128, description="principal components kept of pixel descriptors")
    text_dim: Count = Field(128, description="singular directions kept of hashed strings")
    buckets: Annotated[int, Field(ge=16)] = Field(
        1024, description="hash buckets of words and character n-grams"
    )
    standardize: bool = Field(
        True, description="zero mean and unit variance by statistics of the training clients"
    )
    image_noise: NonNegative = Field(
        0.0, description="standard deviation of noise added to image features, to weaken them"
    )
    text_noise: NonNegative = Field(
        0.0, description="standard deviation of noise added to text features, to weaken them"
    )
    cache: str = Field(
        "auto", description="folder of cached descriptors; 'auto' is the user's cache, '' is none"
    )


class PartitionConfig(Section):
    """How the rows are divided over clients."""

    scheme: Literal[
        "dirichlet", "dirichlet-clusters", "lineage", "pathological", "column", "iid"
    ] = Field("dirichlet", description="how rows are divided over the clients")
    clients: Count = Field(10, description="number of clients")
    alpha: Positive = Field(0.1, description="Dirichlet concentration: small is skewed")
    clusters: Count = Field(
        10, description="k-means clusters of image features (dirichlet-clusters, lineage)"
    )
    variant: Literal["consistent", "code"] = Field(
        "consistent", description="of the lineage protocol: test rows by the same shares, or not"
    )
    classes: Count = Field(2, description="classes a client (pathological)")
    column: str = Field("", description="column whose values are the clients (column)")
    imbalance: Annotated[float, Field(ge=1.0)] = Field(
        1.0, description="rows of the most frequent label to those of the rarest"
    )
    min_size: Whole = Field(8, description="fewest training pairs of a client")
    missing_image: Share = Field(
        0.0, description="share of each client's pairs that lose their picture"
    )
    missing_text: Share = Field(
        0.0, description="share of each client's pairs that lose their text"
    )
    unpaired: Share = Field(
        0.0, description="share of each client's pairs whose pairing is unknown"
    )
    single_modality: Share = Field(
        0.0, description="share of the clients that hold images or texts alone, in turn"
    )

"""What data is told of a run: its sections, and what whoever learns from the pairs needs."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from fedsyn.data.readers import READERS
from fedsyn.data.readers.base import Reader
from fedsyn.data.sections import DataConfig, PartitionConfig


@dataclass(frozen=True)
class Needs:
    """What a task or a method cannot do without."""

    labels: bool = False  # of the training rows; clients learn from them
    all_labelled: bool = False  # rows without a label are of no use
    pixels: bool = False  # pictures as they are, and no texts
    public: bool = False  # pairs that everybody has
    pooled: bool = False  # all rows in one place: a bound, not a federation
    teacher: bool = False  # a frozen dual encoder of pictures and texts

    def __or__(self, other: "Needs") -> "Needs":
        """The needs that either of two has."""
        both = {each.name: getattr(self, each.name) or getattr(other, each.name) for each in NEEDS}
        return Needs(**both)


NEEDS = fields(Needs)


@dataclass(frozen=True)
class DataSettings:
    """All that data is told of a run.

    Attributes
    ----------
    data : DataConfig
    partition : PartitionConfig
    needs : Needs
    asked_by : mapping of str to str
        Who has a need, by its name, in words of the configuration, for messages.
    seed : int
    memory : int
        MiB of features that may be held; more lie in a file.
    reader : Reader
        What reads files of pairs.
    """

    data: DataConfig = field(default_factory=DataConfig)
    partition: PartitionConfig = field(default_factory=PartitionConfig)
    needs: Needs = field(default_factory=Needs)
    asked_by: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    memory: int = 1024
    reader: Reader = READERS.default

    def who(self, need: str) -> str:
        """Who has a need, in words of the configuration."""
        return self.asked_by.get(need, "this run")

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedsyn.data.pairs import Pairs
from fedsyn.data.settings import DataSettings
from fedsyn.federation.config import data_settings, parse

FOLDER = "FEDSYN_DATA"  # names a folder with data sets that are not ours to copy


@pytest.fixture
def shared() -> Callable[[str], Path]:
    """The path of a shared data set, or a skip."""

    def locate(name: str) -> Path:
        folder = os.environ.get(FOLDER)
        if not folder:
            pytest.skip(f"{FOLDER} names no folder with {name}/{name}.npz")
        path = Path(folder, name, f"{name}.npz")
        if not path.exists():
            pytest.skip(f"{FOLDER}: {path} is not there")
        return path

    return locate


@pytest.fixture
def configure() -> Callable[..., DataSettings]:
    """What a run's data are told, without a cache, from sections given as dictionaries."""

    def build(**sections: dict[str, object]) -> DataSettings:
        sections["data"] = {"cache": "", **sections.get("data", {})}
        return data_settings(parse(sections))

    return build


@pytest.fixture
def toy() -> Pairs:
    """120 pairs of features with three labels, some unlabelled, and a column of sites."""
    stream = np.random.default_rng(0)
    label = stream.integers(-1, 3, size=120)
    return Pairs(
        name="toy",
        image=(stream.normal(size=(120, 6)) + 3 * label[:, None]).astype(np.float32),
        text=stream.normal(size=(120, 5)).astype(np.float32),
        label=label,
        label_names=("a", "b", "c"),
        columns={"site": stream.choice(["north", "south", "west"], size=120)},
    )

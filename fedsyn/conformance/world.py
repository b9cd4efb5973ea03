"""A small federation that a plug-in is tried in: ragged clients, and one that has nothing."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from fedsyn.conformance.claims import Claims
from fedsyn.core.cohort import Cohort
from fedsyn.data import federated
from fedsyn.encoders.base import Teacher
from fedsyn.federation.config import Config, data_settings, parse
from fedsyn.federation.federation import Federation, federation
from fedsyn.settings.loading import over
from fedsyn.settings.plugins import Tree
from fedsyn.settings.sections import shortest

CLIENTS = 4
ROWS, CLASSES = 120, 3
SMALL: Tree = {
    "data": {
        "cache": "", "questions": 0, "public": 0.2, "buckets": 16, "image_dim": 8, "text_dim": 6,
    },
    "partition": {"clients": CLIENTS, "alpha": 1.0, "min_size": 2},
    "model": {"hidden": [8], "dim": 6, "channels": [8]},
    "method": {"batch": 8},
    "synthesis": {
        "enabled": False, "prototypes": 3, "global_prototypes": 4, "candidates": 32, "noise": 4,
        "server_batch": 16,
    },
    "engine": {"threads": 1, "checkpoint_seconds": 0.0},
    "run": {"rounds": 3},
}  # fmt: skip


@dataclass(frozen=True)
class World:
    """A federation, and the file that holds its pairs."""

    fed: Federation
    file: Path

    @property
    def config(self) -> Config:
        """How the federation is configured."""
        return self.fed.config

    @property
    def cohort(self) -> Cohort:
        """Its clients, no two with as many rows: the last has one, the one before it none."""
        several = len(self.fed.silos) > 1
        rows = [self.fed.rows(client) for client in range(len(self.fed.silos))]
        if several:
            rows = [mine[: max(2, len(mine) - number)] for number, mine in enumerate(rows)]
            rows[-2], rows[-1] = rows[-2][:0], rows[-1][:1]
        return Cohort(tuple(range(len(rows))), tuple(rows), self.config.run.seed, 1)


@contextmanager
def world(claims: Claims, settings: Mapping[str, Any], **plugins: Any) -> Iterator[World]:
    """A world with these plug-ins, and keys of a configuration that differ from its own."""
    with TemporaryDirectory() as folder:
        with claims.calling("building a small federation"):
            config = configured(Path(folder), settings, **plugins)
            data = federated.load(data_settings(config))
            fed = federation(config, data, torch.device("cpu"))
        yield World(fed, Path(config.data.path))


def configured(folder: Path, settings: Mapping[str, Any], **plugins: Any) -> Config:
    """The configuration of a world whose pairs are written to a folder."""
    first = parse(over(SMALL, settings), **plugins)
    pictures, taught = first.plugins.needs.pixels, first.plugins.needs.teacher
    if taught and "teacher" not in plugins:
        plugins["teacher"] = NOISE
    tree = over(SMALL, {"data": {"standardize": not pictures}})
    if not first.gives("data", "path"):
        file = folder / "pairs.npz"
        np.savez(file, allow_pickle=False, **(_pictures() if pictures else _pairs()))
        tree = over(tree, {"data": {"path": str(file)}})
    config = parse(over(tree, settings), **plugins)
    # Fewer repetitions of everything that a plug-in repeats: its form stays as it is.
    short = {
        section: shortest(getattr(config, section)).model_dump()
        for section in ("method", "objective", "synthesis")
    }
    return parse(over(over(tree, short), settings), **plugins)


def _pairs() -> dict[str, np.ndarray]:
    """Two views of Gaussian classes."""
    draw = np.random.default_rng(0)
    label = np.arange(ROWS) % CLASSES
    shared = draw.normal(size=(CLASSES, 4))[label] + 0.5 * draw.normal(size=(ROWS, 4))
    return {
        "image": shared @ draw.normal(size=(4, 7)),
        "text": shared @ draw.normal(size=(4, 5)),
        "label": label,
        "split": _split(),
    }


def _pictures() -> dict[str, np.ndarray]:
    """Noise on backgrounds of three greys, named by a word each."""
    draw = np.random.default_rng(0)
    label = np.arange(ROWS) % CLASSES
    pixels = draw.integers(0, 80, (ROWS, 10, 10)) + 60 * label[:, None, None]
    words = np.array(["dark", "grey", "bright"])
    return {
        "image": pixels.astype(np.uint8),
        "text": words[label],
        "label": label,
        "label_names": words,
        "split": _split(),
    }


def _split() -> np.ndarray:
    return np.where(np.arange(ROWS) // CLASSES % 4 == 0, "test", "train")


class _Noise:
    """An encoder that knows nothing: directions by the numbers it is given."""

    scale = 10.0

    def pictures(self, pixels: np.ndarray) -> torch.Tensor:
        """Unit rows ``[n, 6]`` of pixels."""
        rows = torch.from_numpy(pixels.reshape(len(pixels), -1).astype(np.float32))
        mixed = rows @ torch.sin(torch.arange(rows.shape[1] * 6.0)).view(-1, 6)
        return torch.nn.functional.normalize(mixed, dim=-1)

    def texts(self, strings: Any) -> torch.Tensor:
        """Unit rows ``[n, 6]`` of strings."""
        codes = torch.tensor([float(sum(string.encode())) for string in strings])
        return torch.nn.functional.normalize(torch.sin(codes[:, None] * torch.arange(1.0, 7.0)))


NOISE = Teacher(name="noise", load=lambda config, data, dim: _Noise())

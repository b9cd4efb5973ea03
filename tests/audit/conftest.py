"""A run with recorded uploads, whose uploads can be replaced by others."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fedsyn.federation import config
from fedsyn.federation.runner import run

CLIENTS, WIDTH = 8, 64
OVERRIDES = [
    f"partition.clients={CLIENTS}",
    "partition.scheme=iid",
    "model.hidden=[12]",
    "model.dim=8",
    "method.batch=16",
    "run.rounds=2",
    "run.record_uploads=true",
    "engine.threads=1",
    "synthesis.clusters=own",
    "synthesis.directions=own",
    "synthesis.prototypes=6",
    "synthesis.noise=32",
    "synthesis.candidates=64",
    "synthesis.server_steps=2",
    "data.cache=",
]


def pairs_of(count, seed):
    """Pairs of one distribution, whichever the seed: half a picture, half a text."""
    draw = np.random.default_rng(seed)
    mixing = np.random.default_rng(0).normal(size=(20, WIDTH))
    return draw.normal(size=(count, 20)) @ mixing + draw.normal(size=(count, WIDTH))


@dataclass
class Run:
    """A copy of the run, and what its clients hold."""

    path: Path

    def uploads(self, number=1):
        """What was recorded of a round."""
        return load_file(self.file(number))

    def file(self, number=1):
        return self.path / "uploads" / f"round-{number}.safetensors"

    def rewrite(self, change, number=1):
        """Replace a round's record by what ``change`` makes of it."""
        found = change(self.uploads(number))
        save_file({name: value.contiguous() for name, value in found.items()}, self.file(number))

    def send(self, **own):
        """Let every client send this of its own for synthesis: ``[C, ...]`` by name."""

        def change(found):
            kept = {k: v for k, v in found.items() if "/synthesis/" not in k}
            return kept | {
                f"{client}/synthesis/once-own/{name}": value[client : client + 1]
                for name, value in own.items()
                for client in range(CLIENTS)
            }

        self.rewrite(change)
        self.rewrite(lambda found: {k: v for k, v in found.items() if "/synthesis/" not in k}, 2)


@pytest.fixture(scope="session")
def recorded(tmp_path_factory):
    """The directory of a run of 8 clients with some 48 pairs of 64 numbers each."""
    folder = tmp_path_factory.mktemp("audited")
    data = pairs_of(800, 1)
    np.savez(folder / "pairs.npz", image=data[:, : WIDTH // 2], text=data[:, WIDTH // 2 :])
    own = [f"data.path={folder / 'pairs.npz'}", "data.test_fraction=0.4", "data.holdout=0.2"]
    run(config.load(None, [*OVERRIDES, *own]), folder / "run")
    return folder / "run"


@pytest.fixture
def audited(recorded, tmp_path):
    """A copy of that run, for a test to change."""
    shutil.copytree(recorded, tmp_path / "run")
    return Run(tmp_path / "run")


@pytest.fixture(scope="session")
def members(recorded):
    """The features of each client's training pairs, and how features are made of pairs."""
    from fedsyn.audit.subjects import configured, rebuilt

    fed = rebuilt(recorded, configured(recorded), None)
    rows = [torch.from_numpy(fed.rows(client)) for client in range(CLIENTS)]

    def features(pairs):
        made = fed.data.preprocessing
        offset, scale = (
            torch.cat([made[f"{side}.{what}"] for side in ("image", "text")])
            for what in ("offset", "scale")
        )
        return ((torch.from_numpy(pairs) - offset) * scale).float()

    return [fed.data.features[at] for at in rows], features


@pytest.fixture
def found():
    """``found(document, name, view)``: the row of an attack."""

    def find(document, name, view="raw"):
        (row,) = (r for r in document["attacks"] if (r["name"], r["view"]) == (name, view))
        return row

    return find

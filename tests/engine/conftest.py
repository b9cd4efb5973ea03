"""A small federation on the spot: two views of six Gaussian classes, 10 clients."""

import numpy as np
import pytest

from fedsyn import config


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    """A file of 240 training and 60 test pairs; 9 and 7 features."""
    draw = np.random.default_rng(0)
    label = np.repeat(np.arange(6), 50)
    centre = draw.normal(size=(6, 4)) * 2
    shared = centre[label] + draw.normal(size=(300, 4))
    image = shared @ draw.normal(size=(4, 9)) + 0.3 * draw.normal(size=(300, 9))
    text = shared @ draw.normal(size=(4, 7)) + 0.3 * draw.normal(size=(300, 7))
    split = np.where(np.arange(300) % 5 == 0, "test", "train")
    path = tmp_path_factory.mktemp("data") / "pairs.npz"
    np.savez(path, image=image, text=text, label=label, split=split)
    return path


@pytest.fixture
def settings(pairs):
    """The overrides of a run that takes a second."""
    return [
        f"data.path={pairs}",
        "partition.min_size=2",
        "model.hidden=[12]",
        "model.dim=8",
        "method.batch=16",
        "synthesis.generator=wgan-gp",
        "synthesis.direct=0.1",
        "synthesis.indirect=0.1",
        "synthesis.jsd=0.1",
        "synthesis.prototypes=4",
        "synthesis.noise=6",
        "synthesis.hidden=[10]",
        "synthesis.critic_hidden=[10]",
        "synthesis.steps=3",
        "synthesis.critic_warmup=4",
        "synthesis.batch=12",
        "synthesis.candidates=128",
        "synthesis.global_prototypes=6",
        "synthesis.server_steps=4",
        "synthesis.server_batch=32",
        "run.rounds=3",
        "engine.threads=1",
        "engine.checkpoint_seconds=0",
    ]


@pytest.fixture
def make(settings):
    """``make("key=value", ...)``: the small configuration with overrides."""
    return lambda *overrides: config.load(None, [*settings, *overrides])

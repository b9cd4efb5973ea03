"""The embedded teacher: a dual encoder of the glyphs in faces that a run's data do not hold.

It is trained on the spot, in seconds, by InfoNCE on the training characters of those faces in one
place, and stands for a model that has seen much that no client has. Captions in the wild tell some
of what a picture shows: here they are some of the words of a character's name.
"""

import hashlib
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from fedsyn import ops, streams
from fedsyn.core.batches import epochs
from fedsyn.data import cache
from fedsyn.data.features import hashed_counts, hog
from fedsyn.data.glyphs import glyphs
from fedsyn.data.pairs import Pairs
from fedsyn.data.preprocessing import Modality, fit, project
from fedsyn.data.sections import DataConfig, Face
from fedsyn.encoders.base import Teacher, TeacherConfig
from fedsyn.encoders.dual_encoder import DualEncoder, network
from fedsyn.errors import ConfigError
from fedsyn.models.settings import ModelConfig

# Part of the cache key: what an earlier version of this file trained is never taken for this.
VERSION = hashlib.blake2b(Path(__file__).read_bytes(), digest_size=8).hexdigest()

CAPTIONS = 4  # of each picture
KEPT = 0.5  # share of the words of a name that a caption has
TEMPERATURE = 0.07  # at which CLIP begins
EPOCHS, BATCH, LR = 5, 256, 1e-3


def load(config: TeacherConfig, data: DataConfig, dim: int) -> DualEncoder:
    """The teacher of a run on glyphs, with embeddings of ``dim`` numbers.

    Raises
    ------
    ConfigError
        If the run's data are not glyphs, or are in all faces.
    """
    faces = [face for face in get_args(Face) if face not in data.faces]
    if data.path or not faces:
        raise ConfigError(
            f"teacher.name = {GLYPHS.name!r} knows the embedded glyphs, in faces that data.faces "
            f"leaves out; got data.path = {data.path!r} and data.faces = {', '.join(data.faces)}"
        )
    pairs = glyphs(faces, data.test_fraction, data.split_seed)
    seen = pairs if pairs.split is None else pairs.take(np.flatnonzero(~pairs.split))
    model, prompt = ModelConfig(dim=dim), config.prompt
    name = cache.key("teacher", seen.image, version=VERSION, dim=model.embedding, prompt=prompt)
    found = cache.cached(cache.folder(data.cache), name, lambda: _train(seen, model, prompt))
    named = {name: torch.from_numpy(value) for name, value in found.items()}
    row = named.pop("model")
    return DualEncoder(network(model, named), row, named, 1 / TEMPERATURE)


def _train(seen: Pairs, config: ModelConfig, prompt: str) -> dict[str, np.ndarray]:
    """Preprocessing and, under ``model [P]``, the trained network."""
    stream = streams.generator(0, "teacher")
    names = seen.text.repeat(CAPTIONS)
    captions = [prompt.format(_some_words(name, stream)) for name in names]
    rows = np.arange(len(captions))
    image = Modality("image", "pixels", hog(seen.image).repeat(CAPTIONS, 0), 128, seen.picture)
    text = Modality("text", "strings", hashed_counts(captions, buckets=1024), 128)
    found = {
        key: value
        for side in (image, text)
        for key, value in fit(side, [rows], standardize=True).preprocessing.items()
    }
    features = torch.cat([project(side.name, side.descriptors, found) for side in (image, text)], 1)
    net = network(config, found)
    plan = epochs([rows], BATCH, EPOCHS, [stream])
    model, _ = ops.train_info_nce(
        net.init(stream)[None], features, plan.index, plan.valid.sum(-1), net.towers,
        1 / TEMPERATURE, optimizer="adam", lr=LR,
    )  # fmt: skip
    named: dict[str, Tensor] = {**found, "model": model[0]}
    return {name: value.numpy() for name, value in named.items()}


def _some_words(name: str, stream: torch.Generator) -> str:
    """Some words of a name, in their order, at least one."""
    words = name.split()
    kept = torch.rand(len(words), generator=stream) < KEPT
    kept[int(torch.randint(len(words), (), generator=stream))] = True
    return " ".join(word for word, keep in zip(words, kept.tolist(), strict=True) if keep)


GLYPHS = Teacher(name="glyphs", load=load)

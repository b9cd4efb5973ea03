"""From a configuration to a federation: pairs, silos, features."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedsyn.config import Config, DataConfig
from fedsyn.data import cache
from fedsyn.data.features import VERSION, hashed_counts, hog
from fedsyn.data.glyphs import glyphs
from fedsyn.data.mapped import MappedTensor
from fedsyn.data.pairs import Pairs
from fedsyn.data.partition import partition
from fedsyn.data.preprocessing import (
    Descriptors,
    Modality,
    fit,
    project,
    transform_image,
    transform_text,
)
from fedsyn.data.readers import read
from fedsyn.data.silos import Silo, silo, single_modality
from fedsyn.errors import ConfigError
from fedsyn.streams import numpy_generator

__all__ = ["FederatedData", "Silo", "counts", "load", "transform_image", "transform_text"]


@dataclass(frozen=True)
class FederatedData:
    """Pairs, the clients that hold them, and features of all rows.

    Test rows have features too, made with statistics of the training clients only.
    """

    pairs: Pairs
    features: Tensor  # [N, d_v + d_t] float32, image beside text
    image_dim: int  # d_v
    label: Tensor | None  # [N] int64, -1 is unlabelled; or [N, L] bool
    silos: tuple[Silo, ...]
    test: np.ndarray  # [N_test] int64 rows, of all clients
    preprocessing: dict[str, Tensor]  # what `transform_image` and `transform_text` need
    bytes_up: int  # of the preprocessing rounds, over all clients
    bytes_down: int
    mapped: MappedTensor | None = None  # the file that holds the features, where memory does not

    @property
    def image(self) -> Tensor:
        """Features [N, d_v] of the images."""
        return self.features[:, : self.image_dim]

    @property
    def text(self) -> Tensor:
        """Features [N, d_t] of the texts."""
        return self.features[:, self.image_dim :]


def load(config: Config, folder: Path | None = None) -> FederatedData:
    """Read the pairs, divide them over the clients and compute features together.

    Features of more than ``engine.memory`` go to a file in ``folder``, where one is given.

    Under ``method.name = "centralised"`` the clients are divided in the same way, but the
    statistics are of the pooled rows and no bytes are counted: there is no federation.

    Raises
    ------
    DataError
        If the pairs cannot be read, or cannot be divided as the configuration asks.
    ConfigError
        If the configuration contradicts itself.
    """
    pairs = load_pairs(config.data)
    train, test = train_test_rows(pairs, config.data)
    image, text = _image_modality(pairs, config.data), _text_modality(pairs, config.data)
    seed = config.run.seed
    division = partition(pairs, image.descriptors, train, test, config.partition, seed)
    silos = tuple(
        silo(rows, tests, config.partition, config.data.holdout, seed, client)
        for client, (rows, tests) in enumerate(zip(division.train, division.test, strict=True))
    )
    silos = single_modality(silos, config.partition.single_modality)
    image_rows = [np.concatenate([client.pairs, client.images]) for client in silos]
    text_rows = [np.concatenate([client.pairs, client.texts]) for client in silos]
    pooled = config.method.name == "centralised"
    if pooled:
        image_rows, text_rows = [np.concatenate(image_rows)], [np.concatenate(text_rows)]
    fits = (
        fit(image, image_rows, config.data.standardize),
        fit(text, text_rows, config.data.standardize),
    )
    preprocessing = fits[0].preprocessing | fits[1].preprocessing
    image_dim = len(preprocessing["image.scale"])
    shape = (len(pairs), image_dim + len(preprocessing["text.scale"]))
    mapped = None
    if folder is not None and math.prod(shape) * 4 > config.engine.memory << 20:
        mapped = MappedTensor(folder, shape)
    features = torch.empty(shape) if mapped is None else mapped.tensor
    let_go = (lambda: None) if mapped is None else mapped.release
    project("image", image.descriptors, preprocessing, features[:, :image_dim], let_go)
    project("text", text.descriptors, preprocessing, features[:, image_dim:], let_go)
    return FederatedData(
        pairs=pairs,
        features=features,
        image_dim=image_dim,
        label=None if pairs.label is None else torch.from_numpy(pairs.label),
        silos=silos,
        test=test,
        preprocessing=preprocessing,
        bytes_up=0 if pooled else sum(one.bytes_up for one in fits),
        bytes_down=0 if pooled else sum(one.bytes_down for one in fits),
        mapped=mapped,
    )


def load_pairs(config: DataConfig) -> Pairs:
    """The pairs that ``data.path``, or else ``data.name``, stands for."""
    if config.path:
        return read(config)
    if config.name == "glyphs":
        for key in ("image", "text", "label", "split"):
            chosen, only = getattr(config, key), DataConfig.model_fields[key].default
            if chosen != only:
                raise ConfigError(
                    f"data.{key} = {chosen!r} is not in the embedded glyphs, which have only "
                    f"{only!r}; data.path names a file of your own"
                )
        return glyphs(config.faces, config.test_fraction, config.split_seed)
    raise ConfigError("data.name and data.path are both empty; expected a data set or a file")


def train_test_rows(pairs: Pairs, config: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    """Sorted int64 row numbers of the given split, or of one drawn with ``data.split_seed``."""
    if pairs.split is None:
        order = numpy_generator(config.split_seed, "split").permutation(len(pairs))
        tested = np.zeros(len(pairs), dtype=bool)
        tested[order[: max(1, round(config.test_fraction * len(pairs)))]] = True
    else:
        tested = pairs.split
    return np.flatnonzero(~tested), np.flatnonzero(tested)


def counts(data: FederatedData) -> np.ndarray:
    """Training rows by client and label, int64 [C, L + 1]; the last column is the unlabelled.

    A row with several labels counts once for each of them.
    """
    number = len(data.pairs.label_names)
    table = np.zeros((len(data.silos), number + 1), dtype=np.int64)
    label = data.pairs.label
    for client, rows in enumerate(one.training for one in data.silos):
        if label is None:
            table[client, -1] = len(rows)
        elif label.ndim == 1:
            table[client] = np.bincount(label[rows] % (number + 1), minlength=number + 1)
        else:
            table[client, :-1] = label[rows].sum(axis=0)
            table[client, -1] = (~label[rows].any(axis=1)).sum()
    return table


def who_has_what(data: FederatedData) -> dict[str, Any]:
    """What each client holds, as plain numbers: the content of ``partition.json``.

    ``clients`` are the training rows by label as `counts` has them, in the order of ``labels``;
    the other lists have one number a client.
    """
    fields = {"pairs": "pairs", "holdout": "holdout", "images_only": "images"}
    fields |= {"texts_only": "texts", "test": "test"}
    return {
        "labels": [*data.pairs.label_names, "unlabelled"],
        "clients": counts(data).tolist(),
        **{
            name: [len(getattr(silo, field)) for silo in data.silos]
            for name, field in fields.items()
        },
    }


def _image_modality(pairs: Pairs, config: DataConfig) -> Modality:
    if not pairs.has_pixels:
        return Modality("image", "features", pairs.image, config.image_dim)
    name = cache.key("hog", pairs.image, version=VERSION)
    found = cache.cached(cache.folder(config.cache), name, lambda: {"hog": hog(pairs.image)})
    channels = 3 if pairs.image.ndim == 4 else 1
    size = (pairs.image.shape[1], pairs.image.shape[2], channels)
    return Modality("image", "pixels", found["hog"], config.image_dim, size)


def _text_modality(pairs: Pairs, config: DataConfig) -> Modality:
    if not pairs.has_strings:
        return Modality("text", "features", pairs.text, config.text_dim)
    return Modality("text", "strings", _cached_counts(pairs.text, config), config.text_dim)


def _cached_counts(strings: np.ndarray, config: DataConfig) -> Descriptors:
    from scipy.sparse import csr_array

    def compute() -> dict[str, np.ndarray]:
        fresh = hashed_counts(strings, config.buckets)
        return {"data": fresh.data, "indices": fresh.indices, "indptr": fresh.indptr}

    name = cache.key("text", strings, version=VERSION, buckets=config.buckets)
    found = cache.cached(cache.folder(config.cache), name, compute)
    shape = (len(strings), config.buckets)
    return csr_array((found["data"], found["indices"], found["indptr"]), shape=shape)

"""From a configuration to a federation: pairs, silos, features.

In one process `load` does it all. Where the rows are spread over nodes, the same steps are taken
apart: every node and the server describe what they hold (`local_data`, `files_of_silos`,
`test_file`), the statistics travel as `fedsyn.data.preprocessing` has them (`frequencies`,
`derive_idf`, `moments`, `derive`), and each makes the features of its own rows (`finish`).
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedsyn import streams
from fedsyn.core.payload import Payload
from fedsyn.data import preprocessing
from fedsyn.data.local import LocalData, agree, files_of_silos, local_data, test_file
from fedsyn.data.mapped import MappedTensor
from fedsyn.data.pairs import Pairs
from fedsyn.data.preprocessing import add, derive_idf, transform_image, transform_text
from fedsyn.data.settings import DataSettings
from fedsyn.data.silos import NOTHING, Silo

__all__ = [
    "FederatedData",
    "LocalData",
    "Silo",
    "add",
    "agree",
    "counts",
    "derive",
    "derive_idf",
    "files_of_silos",
    "finish",
    "frequencies",
    "load",
    "local_data",
    "moments",
    "preprocessing_like",
    "test_file",
    "transform_image",
    "transform_text",
]


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
    public: np.ndarray = field(default_factory=lambda: NOTHING)  # int64 rows that everybody has
    picture: tuple[int, int, int] = (0, 0, 0)  # height, width and channels, where there are pixels
    as_given: bool = False  # both halves are features of one width: the same space, perhaps

    @property
    def image(self) -> Tensor:
        """Features [N, d_v] of the images."""
        return self.features[:, : self.image_dim]

    @property
    def text(self) -> Tensor:
        """Features [N, d_t] of the texts."""
        return self.features[:, self.image_dim :]

    @property
    def one_label(self) -> Tensor | None:
        """One label a row, int64 [N], -1 for none; of several the rarest among all rows held."""
        if self.label is None or self.label.ndim == 1:
            return self.label
        rarity = -self.label.sum(0)
        known = torch.where(self.label, rarity, torch.iinfo(torch.int64).min)
        return known.argmax(-1).masked_fill(~self.label.any(-1), -1)

    @property
    def present(self) -> Tensor:
        """Whether a row's picture, and its text, can be used, bool [N, 2].

        Of a row that has lost its pairing the picture alone is.
        """
        present = torch.ones(len(self.features), 2, dtype=torch.bool)
        for one in self.silos:
            present[torch.from_numpy(one.texts), 0] = False
            present[torch.from_numpy(one.images)] = torch.tensor([True, False])
        return present


def load(
    settings: DataSettings, folder: Path | None = None, pairs: Pairs | None = None
) -> FederatedData:
    """Read the pairs, divide them over the clients and compute features together.

    Features of more than ``settings.memory`` go to a file in ``folder``, where one is given.

    Where pooled rows are needed, the clients are divided in the same way, but the statistics are of
    all rows in one place and no bytes are counted: there is no federation.

    Parameters
    ----------
    settings : DataSettings
    folder : Path, optional
    pairs : Pairs, optional
        In the place of those that ``[data]`` names.

    Raises
    ------
    DataError
        If the pairs cannot be read, or cannot be divided as the configuration asks.
    ConfigError
        If the configuration contradicts itself.
    """
    held = local_data(settings, pairs=pairs)
    image_rows, text_rows = _statistics_rows(held)
    pooled = settings.needs.pooled
    if pooled:
        image_rows, text_rows = [np.concatenate(image_rows)], [np.concatenate(text_rows)]
    standardize = settings.data.standardize
    fits = (
        preprocessing.fit(held.image, image_rows, standardize),
        preprocessing.fit(held.text, text_rows, standardize),
    )
    return finish(
        held,
        fits[0].preprocessing | fits[1].preprocessing,
        bytes_up=0 if pooled else sum(one.bytes_up for one in fits),
        bytes_down=0 if pooled else sum(one.bytes_down for one in fits),
        folder=folder,
    )


def frequencies(held: LocalData) -> Payload:
    """What a node sends first, added up over its clients: see `preprocessing.frequencies`.

    A server, which holds no client, learns from its own zeros what a node's must look like.
    """
    return preprocessing.frequencies(held.text, _statistics_rows(held)[1])


def moments(held: LocalData, idf: Payload) -> Payload:
    """What a node sends next, after the server's ``idf``: see `preprocessing.moments`.

    A server, which holds no client, learns from its own zeros what a node's must look like.
    """
    image_rows, text_rows = _statistics_rows(held)
    return preprocessing.moments(held.image, image_rows, {}) | preprocessing.moments(
        held.text, text_rows, idf
    )


def derive(held: LocalData, total: Payload, idf: Payload) -> Payload:
    """The server's preprocessing, from the nodes' `moments` and `frequencies` added up.

    Parameters
    ----------
    held : the server's test pairs, whose form is that of all.
    total : sum of the nodes' `moments`.
    idf : what `derive_idf` made of the sum of their `frequencies`.

    Raises
    ------
    DataError
        If no client has a training image, or none a text.
    """
    standardize = held.settings.data.standardize
    image = preprocessing.derive(held.image, total, standardize)
    return image | idf | preprocessing.derive(held.text, total, standardize)


def preprocessing_like(held: LocalData) -> Payload:
    """What a server's answer must look like to somebody who holds this: tensors without values."""
    return preprocessing.like(held.image) | preprocessing.like(held.text)


def finish(
    held: LocalData,
    derived: Payload,
    bytes_up: int = 0,
    bytes_down: int = 0,
    folder: Path | None = None,
) -> FederatedData:
    """Make the features of all rows that are held.

    Features of more than ``settings.memory`` go to a file in ``folder``, where one is given.

    Parameters
    ----------
    held : LocalData
    derived : the preprocessing.
    bytes_up, bytes_down : what it has cost, over all clients.
    """
    pairs, image, text = held.pairs, held.image, held.text
    image_dim = len(derived["image.scale"])
    shape = (len(pairs), image_dim + len(derived["text.scale"]))
    mapped = None
    if folder is not None and math.prod(shape) * 4 > held.settings.memory << 20:
        mapped = MappedTensor(folder, shape)
    features = torch.empty(shape) if mapped is None else mapped.tensor
    let_go = (lambda: None) if mapped is None else mapped.release
    preprocessing.project("image", image.descriptors, derived, features[:, :image_dim], let_go)
    preprocessing.project("text", text.descriptors, derived, features[:, image_dim:], let_go)
    own = held.settings.data
    _add_noise(held, "image", own.image_noise, features[:, :image_dim])
    _add_noise(held, "text", own.text_noise, features[:, image_dim:])
    return FederatedData(
        pairs=pairs,
        features=features,
        image_dim=image_dim,
        label=None if pairs.label is None else torch.from_numpy(pairs.label),
        silos=held.silos,
        test=held.test,
        preprocessing=derived,
        bytes_up=bytes_up,
        bytes_down=bytes_down,
        mapped=mapped,
        public=held.public,
        picture=pairs.picture,
        as_given=image.form == text.form == "features" and image.width == text.width,
    )


def _add_noise(held: LocalData, name: str, deviation: float, features: Tensor) -> None:
    """Add Gaussian noise to features ``[N, d]`` of a modality, in place.

    It belongs to the rows of a client, to the test rows and to the public ones: the same wherever
    they are held, and whatever is drawn for a run.
    """
    if not deviation:
        return
    seed = held.settings.data.split_seed
    groups = [(f"noise.{name}", client, one.training) for client, one in enumerate(held.silos)]
    groups += [(f"noise.{name}.test", 0, held.test)]
    groups += [(f"noise.{name}.public", 0, held.public)]
    for purpose, client, rows in groups:
        stream = streams.generator(seed, purpose, client=client)
        noise = torch.randn(len(rows), features.shape[1], generator=stream)
        features[torch.from_numpy(rows)] += deviation * noise


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


def _statistics_rows(held: LocalData) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """For each client held, the rows whose pictures, and whose texts, enter the statistics."""
    silos = [held.silos[client] for client in held.clients]
    images = [np.concatenate([one.pairs, one.images]) for one in silos]
    return images, [np.concatenate([one.pairs, one.texts]) for one in silos]

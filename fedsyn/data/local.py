"""What somebody holds of a federation: all of it, a node's silos, or the server's test pairs."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedsyn.data import cache
from fedsyn.data.features import VERSION, hashed_counts, hog
from fedsyn.data.glyphs import glyphs
from fedsyn.data.pairs import Pairs
from fedsyn.data.partition import CLUSTERED, long_tail, partition
from fedsyn.data.preprocessing import Descriptors, Modality
from fedsyn.data.questions import ask
from fedsyn.data.reading import read
from fedsyn.data.sections import DataConfig
from fedsyn.data.settings import DataSettings
from fedsyn.data.silos import ELSEWHERE, NOTHING, Silo, silo, single_modality
from fedsyn.data.sparse import compressed_fault
from fedsyn.errors import ConfigError, DataError
from fedsyn.streams import numpy_generator


@dataclass(frozen=True)
class LocalData:
    """Pairs that are held in one place, and who they belong to, before any statistics."""

    settings: DataSettings
    pairs: Pairs
    silos: tuple[Silo, ...]  # of all clients; without the rows that are not held here
    clients: tuple[int, ...]  # the clients whose training rows are held here
    test: np.ndarray  # [N_test] int64 rows held here, of all clients
    image: Modality
    text: Modality
    public: np.ndarray  # int64 rows that everybody holds

    @property
    def facts(self) -> dict[str, int | str]:
        """What must be the same on all nodes and the server, see `agree`."""
        learnt = self.settings.needs.labels
        labels = {"labels": ", ".join(self.pairs.label_names)} if learnt else {}
        return self.image.facts | self.text.facts | labels


def local_data(
    settings: DataSettings,
    clients: Collection[int] | None = None,
    test: bool = True,
    pairs: Pairs | None = None,
) -> LocalData:
    """Read the pairs, divide them over the clients and describe them.

    Parameters
    ----------
    settings : DataSettings
    clients : the clients whose training rows are kept, numbered anew; all where ``None``.
    test : whether test rows are kept, with the silos that they belong to, held here or not.
    pairs : in the place of those that ``[data]`` names.

    Raises
    ------
    DataError
        If the pairs cannot be read, or cannot be divided as the configuration asks, or there is no
        such client.
    ConfigError
        If the configuration contradicts itself.
    """
    own, who = settings.data, settings.partition
    if settings.needs.public and not own.public:
        raise ConfigError(
            f"{settings.who('public')} learns from public pairs: expected data.public > 0"
        )
    pairs = load_pairs(settings) if pairs is None else pairs
    # Others' pictures are looked at by schemes that divide them by what is on them.
    looks = clients is None or who.scheme in CLUSTERED
    image = _image_modality(pairs, settings) if looks else None
    train, tested = train_test_rows(pairs, own)
    train = _learnable(pairs, train, settings)
    train = long_tail(pairs, train, who.imbalance, own.split_seed)
    train, public = _without_public(train, own)
    pictures = pairs.image if image is None else image.descriptors
    division = partition(pairs, pictures, train, tested, who, settings.seed)
    silos = _silos(settings, division.train, division.test)
    held = range(len(silos)) if clients is None else clients
    _check_ids(held, len(silos))
    if clients is None and test:
        return _with_modalities(settings, pairs, silos, held, tested, public, image)
    pairs, silos, tested, public = _held(pairs, silos, held, tested if test else NOTHING, public)
    return _with_modalities(settings, pairs, silos, held, tested, public)


def files_of_silos(settings: DataSettings, files: Mapping[int, Path]) -> LocalData:
    """Describe the training pairs of real silos: a file for each client that is held here.

    Arrays have the names that ``[data]`` gives them. Rows that a file's split calls test are left
    out, labels are looked at where something is learnt from them, and a CSV's pictures are in its
    own folder. The holdout and the overlays are drawn as for the clients of one process.

    Parameters
    ----------
    settings : DataSettings
    files : at least one, by client id below ``partition.clients``.

    Raises
    ------
    DataError
        If a file cannot be read, holds no training pairs, or those of another form than the
        first's; or if there is no such client.
    ConfigError
        If the configuration contradicts itself, or asks for public pairs or for questions to be
        made, which such silos have not.
    """
    _check_ids(files, settings.partition.clients)
    for key in ("public", "questions"):
        if asked := getattr(settings.data, key):
            raise ConfigError(
                f"data.{key} = {asked} is of the pairs that one data set divides over its "
                "clients; silos with files of their own have no such pairs"
            )
    parts = {client: _training_pairs(settings, files[client]) for client in sorted(files)}
    pairs = _joined([(files[client], part) for client, part in parts.items()])
    rows, start = [NOTHING] * settings.partition.clients, 0
    for client, part in parts.items():
        rows[client] = _learnable(pairs, np.arange(start, start + len(part)), settings)
        start += len(part)
    silos = _silos(settings, rows, [NOTHING] * len(rows))
    return _with_modalities(settings, pairs, silos, parts, NOTHING, NOTHING)


def test_file(settings: DataSettings, path: Path) -> LocalData:
    """Describe the server's own test pairs: all rows of a file, which are no client's.

    Raises
    ------
    DataError
        If the file cannot be read.
    """
    pairs = read(settings.data.changed(path=str(path), split=""), reader=settings.reader)
    silos = (ELSEWHERE,) * settings.partition.clients
    return _with_modalities(settings, pairs, silos, (), np.arange(len(pairs)), NOTHING)


def agree(mine: LocalData, facts: Mapping[str, int | str], who: str) -> None:
    """Check a node's `LocalData.facts` against what the server holds itself.

    Parameters
    ----------
    mine : the server's test pairs.
    facts : what the node says of its pairs.
    who : names the node.

    Raises
    ------
    DataError
        If they differ.
    """
    own = mine.facts
    for name in {**own, **facts}:
        here, there = own.get(name), facts.get(name)
        if there != here:
            raise DataError(
                f"{who} has pairs with {name} = {there!r} and the test pairs have {here!r}; "
                "expected the same form everywhere"
            )


def load_pairs(settings: DataSettings) -> Pairs:
    """The pairs that ``data.path``, or else ``data.name``, stands for, or questions about them."""
    config = settings.data
    pairs = read(config, reader=settings.reader) if config.path else _embedded(config)
    if not config.questions:
        return pairs
    _, tested = train_test_rows(pairs, config)
    return ask(pairs, tested, config.questions, config.split_seed)


def _embedded(config: DataConfig) -> Pairs:
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


def _learnable(pairs: Pairs, train: np.ndarray, settings: DataSettings) -> np.ndarray:
    """The training rows that the task has a use for."""
    if not settings.needs.all_labelled:
        return train
    if pairs.label is None:
        raise DataError(
            f"{settings.who('all_labelled')} learns from labels and {pairs.name} has none"
        )
    label = pairs.label[train]
    known: np.ndarray = label >= 0 if label.ndim == 1 else label.any(axis=1)
    return np.asarray(train[known])


def _without_public(train: np.ndarray, config: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    """Training rows left to the clients, and those that everybody has: the same for every seed."""
    number = round(config.public * len(train))
    order = numpy_generator(config.split_seed, "public").permutation(train)
    return np.sort(order[number:]), np.sort(order[:number])


def _with_modalities(
    settings: DataSettings,
    pairs: Pairs,
    silos: tuple[Silo, ...],
    clients: Collection[int],
    test: np.ndarray,
    public: np.ndarray,
    image: Modality | None = None,
) -> LocalData:
    image = image or _image_modality(pairs, settings)
    text = _text_modality(pairs, settings)
    return LocalData(settings, pairs, silos, tuple(sorted(clients)), test, image, text, public)


def _silos(
    settings: DataSettings, train: Sequence[np.ndarray], test: Sequence[np.ndarray]
) -> tuple[Silo, ...]:
    """What each client has of its rows, with its holdout and overlays drawn."""
    silos = [
        silo(rows, tests, settings.partition, settings.data.holdout, settings.seed, client)
        for client, (rows, tests) in enumerate(zip(train, test, strict=True))
    ]
    return single_modality(silos, settings.partition.single_modality)


def _held(
    pairs: Pairs,
    silos: Sequence[Silo],
    clients: Collection[int],
    test: np.ndarray,
    public: np.ndarray,
) -> tuple[Pairs, tuple[Silo, ...], np.ndarray, np.ndarray]:
    """The training rows of these clients and these further rows, numbered anew."""
    here = [
        replace(one if client in clients else ELSEWHERE, test=np.intersect1d(one.test, test))
        for client, one in enumerate(silos)
    ]
    rows = np.unique(np.concatenate([test, public, *(one.training for one in here)]))
    renumbered = tuple(one.among(rows) for one in here)
    test, public = (np.searchsorted(rows, each) for each in (test, public))
    return pairs.take(rows), renumbered, test, public


def _check_ids(clients: Collection[int], number: int) -> None:
    for client in clients:
        if not 0 <= client < number:
            raise DataError(
                f"client {client} is not of this federation; expected ids from 0 to {number - 1}"
            )


def _training_pairs(settings: DataSettings, path: Path) -> Pairs:
    own = settings.data.changed(path=str(path), images="")
    if not settings.needs.labels:
        own = own.changed(label="")
    pairs = read(own, ("train",), settings.reader)
    if pairs.split is None or not pairs.split.any():
        return pairs
    return pairs.take(np.flatnonzero(~pairs.split))


def _joined(parts: Sequence[tuple[Path, Pairs]]) -> Pairs:
    """The pairs of several files in one; those of a single file stay where they are, mapped."""
    (first_file, first), *others = parts
    for file, part in others:
        for name in ("image", "text"):
            here, there = (list(getattr(each, name).shape[1:]) for each in (part, first))
            if here != there:
                raise DataError(
                    f"{str(file)!r} has {name} rows of shape {here} and {str(first_file)!r} has "
                    f"{there}; expected one form in all files of a node"
                )
    if not others:
        return first
    image, text = (
        np.concatenate([getattr(part, name) for _, part in parts]) for name in ("image", "text")
    )
    if first.label is None:
        return Pairs(first.name, image, text)
    for file, part in others:
        if part.label_names != first.label_names:
            raise DataError(
                f"{str(file)!r} has labels {', '.join(part.label_names)} and {str(first_file)!r} "
                f"has {', '.join(first.label_names)}; expected the same in all files of a node"
            )
    label = np.concatenate([part.label for _, part in parts if part.label is not None])
    return Pairs(first.name, image, text, label, first.label_names)


def _image_modality(pairs: Pairs, settings: DataSettings) -> Modality:
    own = settings.data
    if settings.needs.pixels:
        return Modality("image", "features", _pixels(pairs, settings), own.image_dim)
    if not pairs.has_pixels:
        return Modality("image", "features", pairs.image, own.image_dim)
    name = cache.key("hog", pairs.image, version=VERSION)
    found = cache.cached(cache.folder(own.cache), name, lambda: {"hog": hog(pairs.image)})
    return Modality("image", "pixels", found["hog"], own.image_dim, pairs.picture)


def _pixels(pairs: Pairs, settings: DataSettings) -> np.ndarray:
    """Pixels between -1 and 1, float32 [N, H * W * channels], channels last."""
    who = settings.who("pixels")
    if not pairs.has_pixels:
        raise DataError(
            f"{who} looks at pictures; {pairs.name} has features {list(pairs.image.shape)}"
        )
    if settings.data.standardize:
        raise ConfigError(
            f"data.standardize = true changes pixels, and {who} looks at them as they are"
        )
    flat: np.ndarray = pairs.image.reshape(len(pairs), -1).astype(np.float32)
    return flat / 127.5 - 1


def _text_modality(pairs: Pairs, settings: DataSettings) -> Modality:
    own = settings.data
    if settings.needs.pixels:
        nothing = np.empty((len(pairs), 0), dtype=np.float32)
        return Modality("text", "features", nothing, own.text_dim)
    if not pairs.has_strings:
        return Modality("text", "features", pairs.text, own.text_dim)
    return Modality("text", "strings", _cached_counts(pairs.text, own), own.text_dim)


def _cached_counts(strings: np.ndarray, config: DataConfig) -> Descriptors:
    from scipy.sparse import csr_array

    def compute() -> dict[str, np.ndarray]:
        fresh = hashed_counts(strings, config.buckets)
        return {"data": fresh.data, "indices": fresh.indices, "indptr": fresh.indptr}

    shape = (len(strings), config.buckets)

    def valid(found: cache.Arrays) -> bool:
        # A cache is a file like others: SciPy would write to wherever these indices point.
        if not {"data", "indices", "indptr"} <= found.keys():
            return False
        data, indices, pointers = found["data"], found["indices"], found["indptr"]
        fault = compressed_fault(*shape, pointers, indices, data)
        return fault is None and data.dtype.kind in "fiu"

    name = cache.key("text", strings, version=VERSION, buckets=config.buckets)
    found = cache.cached(cache.folder(config.cache), name, compute, valid)
    return csr_array((found["data"], found["indices"], found["indptr"]), shape=shape)

"""Who has what: the schemes that divide training and test rows over the clients.

Every scheme is the same two things: a group for each row (its label, its cluster, its column's
value) and a matrix of shares [groups, clients], the part of each group that goes to each client.
Test rows follow the same shares, so a client is tested on the distribution it trains on; only
``lineage`` with ``variant="code"`` draws them anew, as the code it is named after does.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fedsyn.data.pairs import Pairs
from fedsyn.data.sections import PartitionConfig
from fedsyn.errors import DataError
from fedsyn.streams import key, numpy_generator

CLUSTERED = ("dirichlet-clusters", "lineage")  # schemes that look at the pictures
DRAWS = 20  # tries at a division that gives everyone `min_size` rows


@dataclass(frozen=True)
class Division:
    """Row numbers of each client, int64 and sorted."""

    train: tuple[np.ndarray, ...]
    test: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class _Groups:
    train: np.ndarray  # [N_train] group of each training row
    test: np.ndarray  # [N_test]; -1 where the group has no training row
    number: int


def partition(
    pairs: Pairs,
    descriptors: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    config: PartitionConfig,
    seed: int,
) -> Division:
    """Divide the rows over the clients.

    ``dirichlet``: for each label, shares over the clients drawn from a symmetric Dirichlet
    distribution (Hsu et al. 2019); unlabelled rows are one more label; a row with several labels
    counts for the rarest of them. ``dirichlet-clusters``: the same over k-means clusters of the
    training pictures, to which test pictures are assigned. ``lineage``: the protocol of the
    FedWGAN and PT-FUCH code, which is ``dirichlet-clusters`` (``variant="consistent"``) or
    clusters and draws the test rows on their own (``"code"``). ``pathological``: each client has
    ``classes`` labels, each label shared evenly by those who have it (after McMahan et al. 2017).
    ``column``: each value of a column is a client; ``clients`` and ``min_size`` are ignored, as
    natural clients are what they are. ``iid``: even shares.

    Test rows of a label or value that no training row has are nobody's: they are tested globally
    only.

    A draw that leaves a client with fewer than ``min_size`` training rows (counted before
    `fedsyn.data.silos` takes its holdout and overlays) is repeated; should all tries fail, the
    best of them is topped up with rows of the largest clients.

    Parameters
    ----------
    pairs : the data set; its labels and columns are used.
    descriptors : float [N, F] of the pictures; used by the schemes with clusters.
    train, test : int64 row numbers.
    config : scheme and its parameters.
    seed : of the streams ``(seed, "partition", draw)`` and ``(seed, "partition.test")``.

    Raises
    ------
    DataError
        If there are too few rows, or the scheme needs labels or a column that are not there.
    """
    groups = _groups(pairs, descriptors, train, test, config, seed)
    if config.scheme == "column":
        return Division(
            train=_members(train, groups.train, groups.number),
            test=_members(test, groups.test, groups.number),
        )
    _check_sizes(len(train), config)
    mine, shares = _draw(train, groups, config, seed)
    stream = numpy_generator(seed, "partition.test")
    if config.scheme == "lineage" and config.variant == "code":
        shares = _shares(groups.number, config, stream)
    theirs = _divide(test, groups.test, shares, stream)
    return Division(train=tuple(map(np.sort, mine)), test=tuple(map(np.sort, theirs)))


def long_tail(pairs: Pairs, train: np.ndarray, imbalance: float, seed: int) -> np.ndarray:
    """The training rows that are left where the labels are to have a long tail, sorted.

    Of L labels in the order of their rows, n_0 ≥ n_1 ≥ …, label r keeps at most
    n_0 · imbalance^(−r / (L − 1)) of them, drawn at random, and at least one (Cui et al. 2019,
    arXiv 1901.05555, where all labels have as many before). A row with several labels counts for
    the rarest of them; unlabelled rows are kept.

    Parameters
    ----------
    pairs : the data set; its labels are used.
    train : int64 row numbers.
    imbalance : how many times the rows of the last label the first has, at least 1, which keeps
        all rows.
    seed : of the stream ``(seed, "long_tail")``.

    Raises
    ------
    DataError
        If there are no labels.
    """
    if imbalance == 1:
        return train
    values = _one_label(pairs, train, f"partition.imbalance = {imbalance:g}")[train]
    known, sizes = np.unique(values[values >= 0], return_counts=True)
    stream = numpy_generator(seed, "long_tail")
    kept = [train[values < 0]]
    for rank, place in enumerate(np.argsort(-sizes, kind="stable")):
        most = round(sizes.max() * imbalance ** (-rank / max(len(known) - 1, 1)))
        kept.append(stream.permutation(train[values == known[place]])[: max(most, 1)])
    return np.sort(np.concatenate(kept))


def _check_sizes(rows: int, config: PartitionConfig) -> None:
    needed = config.clients * config.min_size
    if needed > rows:
        raise DataError(
            f"partition.clients = {config.clients} with partition.min_size = {config.min_size} "
            f"needs {needed} training pairs; the data has {rows}"
        )


def _groups(
    pairs: Pairs,
    descriptors: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    config: PartitionConfig,
    seed: int,
) -> _Groups:
    match config.scheme:
        case "iid":
            return _Groups(np.zeros_like(train), np.zeros_like(test), 1)
        case "column":
            values = _column(pairs, config.column)
        case "dirichlet" | "pathological":
            without = "; 'dirichlet-clusters' and 'iid' need none"
            values = _one_label(pairs, train, f"partition.scheme = {config.scheme!r}", without)
        case "dirichlet-clusters" | "lineage":
            return _clusters(descriptors, train, test, config, seed)
    return _numbered(values[train], values[test])


def _numbered(train: np.ndarray, test: np.ndarray) -> _Groups:
    known, numbers = np.unique(train, return_inverse=True)
    place = np.minimum(np.searchsorted(known, test), len(known) - 1)
    return _Groups(numbers, np.where(known[place] == test, place, -1), len(known))


def _column(pairs: Pairs, name: str) -> np.ndarray:
    if name not in pairs.columns:
        there = ", ".join(sorted(pairs.columns)) or "none"
        raise DataError(
            f"partition.column = {name!r} is not a column of {pairs.name}; its columns: {there}"
        )
    values = pairs.columns[name]
    if values.ndim != 1:
        raise DataError(
            f"partition.column = {name!r} has shape {list(values.shape)}; expected one value a pair"
        )
    return values


def _one_label(pairs: Pairs, train: np.ndarray, asked: str, hint: str = "") -> np.ndarray:
    """One label a row [N], -1 for none; of several the rarest among the training rows."""
    if pairs.label is None:
        raise DataError(f"{asked} needs labels and {pairs.name} has none{hint}")
    if pairs.label.ndim == 1:
        return pairs.label
    frequency = pairs.label[train].sum(axis=0)
    rarest_first = np.argsort(frequency, kind="stable")
    first = np.argmax(pairs.label[:, rarest_first], axis=1)
    return np.where(pairs.label.any(axis=1), rarest_first[first], -1)


def _clusters(
    descriptors: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    config: PartitionConfig,
    seed: int,
) -> _Groups:
    from sklearn.cluster import KMeans

    def fit(rows: np.ndarray, purpose: str) -> KMeans:
        if len(rows) < config.clusters:
            raise DataError(
                f"partition.clusters = {config.clusters} is more than the {len(rows)} rows to group"
            )
        state = key(seed, purpose) % 2**32  # what scikit-learn accepts
        return KMeans(config.clusters, n_init=1, random_state=state).fit(descriptors[rows])

    model = fit(train, "partition.clusters")
    if config.scheme == "lineage" and config.variant == "code":
        tested = fit(test, "partition.clusters.test").labels_
    else:
        tested = model.predict(descriptors[test]) if len(test) else np.empty(0, dtype=int)
    return _Groups(model.labels_, tested, config.clusters)


def _draw(
    rows: np.ndarray, groups: _Groups, config: PartitionConfig, seed: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """The first draw that gives everyone `min_size` rows, or the best draw, topped up."""
    most, best = -1, ([np.empty(0, dtype=int)], np.empty(0))
    for draw in range(DRAWS):
        stream = numpy_generator(seed, "partition", round_number=draw)
        shares = _shares(groups.number, config, stream)
        parts = _divide(rows, groups.train, shares, stream)
        smallest = min(map(len, parts))
        if smallest > most:
            most, best = smallest, (parts, shares)
        if smallest >= config.min_size:
            break
    parts, shares = best
    return _top_up(parts, config.min_size), shares


def _shares(groups: int, config: PartitionConfig, stream: np.random.Generator) -> np.ndarray:
    """Shares [groups, clients]; each row adds up to one."""
    match config.scheme:
        case "iid":
            return np.full((groups, config.clients), 1.0 / config.clients)
        case "pathological":
            return _even_shares_of_few(groups, config, stream)
        case _:
            return stream.dirichlet(np.full(config.clients, config.alpha), size=groups)


def _even_shares_of_few(
    groups: int, config: PartitionConfig, stream: np.random.Generator
) -> np.ndarray:
    if config.classes > groups:
        raise DataError(
            f"partition.classes = {config.classes} is more than the {groups} labels of the "
            "training pairs (unlabelled counts as one)"
        )
    if config.classes * config.clients < groups:
        raise DataError(
            f"partition.clients = {config.clients} with partition.classes = {config.classes} "
            f"leaves some of the {groups} labels to nobody; raise one of them"
        )
    owns = np.zeros((groups, config.clients))
    for client in range(config.clients):
        # The labels with the fewest owners first, ties at random: no label is left over.
        order = np.lexsort((stream.random(groups), owns.sum(axis=1)))
        owns[order[: config.classes], client] = 1.0
    return np.asarray(owns / owns.sum(axis=1, keepdims=True))


def _members(rows: np.ndarray, groups: np.ndarray, number: int) -> tuple[np.ndarray, ...]:
    """The rows of each group, ascending; those of no group (-1) are left out."""
    order = np.lexsort((rows, groups))
    bounds = np.searchsorted(groups[order], np.arange(number + 1))
    members = rows[order].astype(np.int64)
    return tuple(members[begin:end] for begin, end in pairwise(bounds))


def _divide(
    rows: np.ndarray, groups: np.ndarray, shares: np.ndarray, stream: np.random.Generator
) -> list[np.ndarray]:
    """Each client's rows: of every group about its share, never off by one row or more.

    Bounds are rounded with one random offset a group (systematic sampling), so the expected
    counts are exact and a group with a single row is not always the last client's.
    """
    mine: list[list[np.ndarray]] = [[] for _ in range(shares.shape[1])]
    for group, share in enumerate(shares):
        members = stream.permutation(rows[groups == group])
        bounds = np.cumsum(share)[:-1] * len(members) + stream.random()
        pieces = np.split(members, np.minimum(bounds.astype(int), len(members)))
        for client, piece in enumerate(pieces):
            mine[client].append(piece)
    return [np.concatenate(pieces).astype(np.int64) for pieces in mine]


def _top_up(parts: list[np.ndarray], least: int) -> list[np.ndarray]:
    parts = list(parts)
    sizes = np.array([len(part) for part in parts])
    while (poor := int(sizes.argmin())) != (rich := int(sizes.argmax())) and sizes[poor] < least:
        parts[poor] = np.append(parts[poor], parts[rich][-1])
        parts[rich] = parts[rich][:-1]
        sizes[poor] += 1
        sizes[rich] -= 1
    return parts

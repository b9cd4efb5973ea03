"""What one client holds, and the overlays that take parts of its pairs away."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from fedsyn.data.sections import PartitionConfig
from fedsyn.errors import ConfigError
from fedsyn.streams import numpy_generator

HOLDOUT_FROM = 10  # clients with fewer pairs keep none of them aside


@dataclass(frozen=True)
class Silo:
    """One client: sorted int64 row numbers into the federation's arrays."""

    pairs: np.ndarray  # training pairs
    holdout: np.ndarray  # pairs kept from training, for selection without labels
    images: np.ndarray  # further training rows of which the picture is usable ...
    texts: np.ndarray  # ... or the text; a row in both has lost only its pairing
    test: np.ndarray  # the client's own test pairs

    @property
    def training(self) -> np.ndarray:
        """Every training-side row of the client, the holdout included."""
        parts = (self.pairs, self.holdout, self.images, self.texts)
        return np.unique(np.concatenate(parts))

    def among(self, rows: np.ndarray) -> "Silo":
        """The same silo where only these sorted rows are left, which hold all of its own."""
        return Silo(*(np.searchsorted(rows, getattr(self, each.name)) for each in fields(self)))


NOTHING = np.empty(0, dtype=np.int64)
ELSEWHERE = Silo(NOTHING, NOTHING, NOTHING, NOTHING, NOTHING)  # of a client whose rows are not here


def silo(
    rows: np.ndarray,
    test: np.ndarray,
    config: PartitionConfig,
    holdout: float,
    seed: int,
    client: int,
) -> Silo:
    """Divide a client's training rows into pairs, holdout and rows that lost a part.

    First the holdout is drawn: a share ``holdout`` of the rows, at least one where there are ten
    or more. Of the remaining rows the shares ``missing_image``, ``missing_text`` and ``unpaired``
    (each to the nearest row, disjoint) lose their picture, their text or their pairing.

    Parameters
    ----------
    rows, test : int64 row numbers of the client's training and test rows.
    config : the overlays' shares.
    seed, client : name the client's stream.

    Raises
    ------
    ConfigError
        If the three shares add up to more than one.
    """
    shares = np.array([config.missing_image, config.missing_text, config.unpaired])
    if shares.sum() > 1.0:
        raise ConfigError(
            "partition.missing_image + partition.missing_text + partition.unpaired = "
            f"{shares.sum():g}; expected at most 1"
        )
    order = numpy_generator(seed, "silo", client=client).permutation(np.sort(rows))
    kept = _holdout_size(len(order), holdout)
    held, order = order[:kept], order[kept:]
    bounds = np.rint(np.cumsum(shares) * len(order)).astype(int)
    no_image, no_text, unpaired, whole = np.split(order, bounds)
    return Silo(
        pairs=_sorted(whole),
        holdout=_sorted(held),
        images=_sorted(no_text, unpaired),
        texts=_sorted(no_image, unpaired),
        test=_sorted(test),
    )


def single_modality(silos: Sequence[Silo], share: float) -> tuple[Silo, ...]:
    """The same clients, a share of which (to the nearest client) hold one modality alone.

    They are spread evenly over the ids and hold images only and texts only, in turn: every training
    row of which they have that half, the holdout included. A row without it is no longer theirs.
    """
    chosen, clients = round(share * len(silos)), list(silos)
    for turn in range(chosen):
        client = (2 * turn + 1) * len(silos) // (2 * chosen)
        one, name = clients[client], ("images", "texts")[turn % 2]
        alone = _sorted(one.pairs, one.holdout, getattr(one, name))
        none = alone[:0]
        halves = {"images": none, "texts": none, name: alone}
        clients[client] = replace(one, pairs=none, holdout=none, **halves)
    return tuple(clients)


def _holdout_size(rows: int, share: float) -> int:
    if share == 0.0 or rows < HOLDOUT_FROM:
        return 0
    return max(1, round(share * rows))


def _sorted(*parts: np.ndarray) -> np.ndarray:
    return np.sort(np.concatenate(parts)).astype(np.int64)

"""Features from descriptors by statistics of all clients, without a row leaving any of them.

The clients send sums (document frequencies, then first and second moments), the server adds them
in client order and derives what one party with all rows would: inverse document frequencies,
principal components, scales. The result is the same as on pooled rows up to rounding. Sums are
aggregates, not anonymous: those of a client with a handful of rows say much about each of them.

There are two exchanges. Clients on one node send `frequencies`, the server answers with what
`derive_idf` makes of their sum; they send `moments`, the server answers with what `derive` makes
of theirs. `fit` runs both in process.

A modality has one of three forms: ``pixels`` (HOG, PCA), ``strings`` (hashed TF-IDF, truncated
SVD as in latent semantic analysis) and ``features`` (already extracted, passed on as they are).
What the server derives is a flat dictionary with the keys, for ``m`` in ``image`` and ``text``:

``image.size``     [3] height, width and channels of the pictures described (pixels only)
``text.idf``       [buckets] inverse document frequencies (strings only)
``m.components``   [F, d] orthonormal directions (pixels and strings)
``m.offset``       [d] subtracted after projection
``m.scale``        [d] multiplied last
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from scipy.sparse import csr_array, issparse
from torch import Tensor

from fedsyn.core.decompositions import symmetric
from fedsyn.core.payload import Payload, nbytes
from fedsyn.data.features import hashed_counts, hog
from fedsyn.data.mapped import release
from fedsyn.data.pictures import matching
from fedsyn.data.silos import NOTHING
from fedsyn.errors import DataError

Descriptors: TypeAlias = np.ndarray | csr_array  # [N, F] float32; CSR counts for strings
Form: TypeAlias = Literal["pixels", "strings", "features"]

CONSTANT = 1e-12  # a variance below this share of its second moment is rounding
CHUNK = 4096  # rows in float64 at a time


@dataclass(frozen=True)
class Modality:
    """One side of the pairs, described."""

    name: Literal["image", "text"]
    form: Form
    descriptors: Descriptors
    dim: int  # features wanted (pixels and strings)
    size: tuple[int, int, int] = (0, 0, 0)  # height, width, channels (pixels)

    @property
    def width(self) -> int:
        """Columns of the descriptors."""
        return int(self.descriptors.shape[1])

    @property
    def features(self) -> int:
        """How many features are made of a row."""
        return self.width if self.form == "features" else min(self.dim, self.width)

    @property
    def facts(self) -> dict[str, int | str]:
        """What must be the same everywhere for statistics to be added up."""
        known: dict[str, int | str] = {"form": self.form, "width": self.width}
        if self.form == "pixels":
            known["size"] = " x ".join(map(str, self.size))
        return {f"{self.name}.{key}": value for key, value in known.items()}


@dataclass(frozen=True)
class Fit:
    """What the rounds derived and what they cost, over all clients."""

    preprocessing: Payload
    bytes_up: int
    bytes_down: int


def fit(modality: Modality, clients: Sequence[np.ndarray], standardize: bool) -> Fit:
    """Run both exchanges of one modality in process, each client on its own.

    Parameters
    ----------
    modality : descriptors of all rows; only the rows of ``clients`` are looked at.
    clients : for each client the int64 row numbers that may enter the statistics.
    standardize : whether features get zero mean and unit variance.

    Raises
    ------
    DataError
        If no client has a row.
    """
    counted = add(frequencies(modality, [rows]) for rows in clients)
    idf = derive_idf(counted)
    total = add(moments(modality, [rows], idf) for rows in clients)
    derived = idf | derive(modality, total, standardize)
    # All payloads of an exchange are of one size.
    up = nbytes(counted) + nbytes(total)
    return Fit(derived, len(clients) * up, len(clients) * nbytes(derived))


def transform_image(images: np.ndarray, preprocessing: Mapping[str, Tensor]) -> Tensor:
    """Features of new pictures.

    Parameters
    ----------
    images : uint8 pixels [N, H, W] or [N, H, W, 3] of any size, or features [N, d], in the form
        that the preprocessing was fitted to.
    preprocessing : what `fit` derived.

    Returns
    -------
    float32 [N, d_v].

    Raises
    ------
    DataError
        If the pictures are not in that form, or features have another length.
    """
    images = np.asarray(images)
    if "image.size" not in preprocessing:
        return project("image", _checked(images, "image", preprocessing), preprocessing)
    if images.ndim not in (3, 4) or images.dtype != np.uint8:
        raise DataError(
            f"image has dtype {images.dtype} and shape {list(images.shape)}; "
            "expected uint8 pixels [N, H, W] or [N, H, W, 3]"
        )
    height, width, channels = preprocessing["image.size"].tolist()
    return project("image", hog(matching(images, height, width, channels)), preprocessing)


def transform_text(
    texts: Sequence[str] | np.ndarray, preprocessing: Mapping[str, Tensor]
) -> Tensor:
    """Features [N, d_t] of new texts: strings, or features [N, d]; see `transform_image`."""
    values = np.asarray(texts)
    if "text.idf" not in preprocessing:
        return project("text", _checked(values, "text", preprocessing), preprocessing)
    if values.ndim != 1 or values.dtype.kind != "U":
        raise DataError(
            f"text has dtype {values.dtype} and shape {list(values.shape)}; expected [N] strings"
        )
    return project("text", hashed_counts(values, len(preprocessing["text.idf"])), preprocessing)


def _checked(x: np.ndarray, name: str, preprocessing: Mapping[str, Tensor]) -> np.ndarray:
    width = len(preprocessing[f"{name}.offset"])
    if x.ndim != 2 or x.shape[1] != width or x.dtype.kind not in "fiub":
        raise DataError(
            f"{name} has dtype {x.dtype} and shape {list(x.shape)}; "
            f"expected numeric features [N, {width}]"
        )
    return x


def project(
    name: str,
    x: Descriptors,  # [N, F]
    preprocessing: Mapping[str, Tensor],
    out: Tensor | None = None,  # [N, d] float32
    done: Callable[[], None] = lambda: None,
) -> Tensor:
    """Features float32 [N, d] from descriptors: ``(x V - offset) * scale``, a few rows at a time.

    They are put into ``out`` where that is given; ``done`` is called when some rows are.
    """
    offset = preprocessing[f"{name}.offset"].numpy()
    scale = preprocessing[f"{name}.scale"].numpy()
    directions = preprocessing.get(f"{name}.components")
    features = torch.empty(x.shape[0], len(scale)) if out is None else out
    for rows in _chunks(x.shape[0]):
        part = x[rows]
        if name == "text" and "text.idf" in preprocessing:
            part = tfidf(part, preprocessing["text.idf"])
        if directions is not None:
            part = part @ directions.numpy()
        features[rows] = torch.from_numpy((part - offset) * scale)
        _let_go(x)
        done()
    return features


def _let_go(x: Descriptors) -> None:
    if isinstance(x, np.ndarray):
        release(x)


# The first exchange, strings only.


def frequencies(modality: Modality, clients: Sequence[np.ndarray]) -> Payload:
    """What a node with these clients sends: numbers of texts, and of texts with each bucket.

    Parameters
    ----------
    modality : descriptors of the node's rows; only those of ``clients`` are looked at.
    clients : for each client the int64 row numbers that may enter the statistics.

    Returns
    -------
    ``text.documents`` and ``text.frequency`` [buckets], float64, added up in client order; zeros
    where there is no client, and nothing at all where the modality is not strings.
    """
    if modality.form != "strings":
        return {}
    return add(_document_frequencies(modality.descriptors[rows]) for rows in clients or [NOTHING])


def _document_frequencies(counts: csr_array) -> Payload:
    frequency = np.bincount(counts.indices, minlength=counts.shape[1])
    return {
        "text.documents": torch.tensor(float(counts.shape[0]), dtype=torch.float64),
        "text.frequency": torch.from_numpy(frequency.astype(np.float64)),
    }


def derive_idf(total: Payload) -> Payload:
    """The server's answer to the sum of the nodes' `frequencies`: ``text.idf``, if there are any.

    It is the smoothed ``log((1 + n) / (1 + df)) + 1`` [buckets].
    """
    if not total:
        return {}
    share = (1.0 + total["text.documents"]) / (1.0 + total["text.frequency"])
    return {"text.idf": torch.log(share) + 1.0}


def tfidf(counts: csr_array, idf: Tensor) -> csr_array:
    """Rows of ``(1 + log count) idf`` with unit L2 norm; an empty row stays empty."""
    values = csr_array(counts, dtype=np.float64, copy=True)
    values.data = (1.0 + np.log(values.data)) * idf.numpy()[values.indices]
    length = np.sqrt(np.asarray(values.multiply(values).sum(axis=1)).ravel())
    values.data /= np.repeat(np.where(length > 0.0, length, 1.0), np.diff(values.indptr))
    return values


# The second exchange.


def moments(modality: Modality, clients: Sequence[np.ndarray], idf: Payload) -> Payload:
    """What a node with these clients sends next: first and second moments of its rows.

    Parameters
    ----------
    modality, clients : as of `frequencies`.
    idf : what `derive_idf` has answered.

    Returns
    -------
    ``m.count``, ``m.sum`` [F] and ``m.second``, float64, added up in client order; zeros where
    there is no client. Second moments are the upper triangle of ``X^T X`` [F (F + 1) / 2], or its
    diagonal [F] for features.
    """

    def batches(rows: np.ndarray) -> Iterator[Descriptors]:
        for chunk in _chunks(len(rows)):
            part = modality.descriptors[rows[chunk]]
            _let_go(modality.descriptors)
            yield tfidf(part, idf["text.idf"]) if modality.form == "strings" else part

    cross = modality.form != "features"
    total = add(_moments(batches(rows), modality.width, cross) for rows in clients or [NOTHING])
    return {f"{modality.name}.{key}": value for key, value in total.items()}


def _moments(batches: Iterable[Descriptors], width: int, cross: bool) -> Payload:
    rows = 0
    total = np.zeros(width)
    second = np.zeros((width, width) if cross else width)
    for batch in batches:
        part: Any = batch.astype(np.float64)
        rows += part.shape[0]
        total += np.asarray(part.sum(axis=0)).ravel()
        if not cross:
            second += (part * part).sum(axis=0)
        elif issparse(part):
            second += (part.T @ part).toarray()
        else:
            second += part.T @ part
    return {
        "count": torch.tensor(float(rows), dtype=torch.float64),
        "sum": torch.from_numpy(total),
        "second": torch.from_numpy(second[np.triu_indices(width)] if cross else second),
    }


def derive(modality: Modality, total: Payload, standardize: bool) -> Payload:
    """The server's answer to the sum of the nodes' `moments`: the preprocessing, except the idf.

    Parameters
    ----------
    modality : of any rows; none of them is looked at.
    total : what the nodes sent, added up.
    standardize : whether features get zero mean and unit variance.

    Raises
    ------
    DataError
        If no client has a row, or the moments are not finite.
    """
    name = modality.name
    own = {key: total[f"{name}.{key}"] for key in ("count", "sum", "second")}
    if not own["count"]:
        raise DataError(f"no client has a training {name}, so there is nothing to fit")
    if modality.form == "features":
        projection = scaling(own, standardize)
    elif not torch.isfinite(own["second"]).all():
        raise DataError(f"the second moments of the training {name}s are not finite numbers")
    else:
        projection = components(own, modality.features, modality.form == "pixels", standardize)
    size = {"image.size": torch.tensor(modality.size)} if modality.form == "pixels" else {}
    return size | {f"{name}.{key}": value for key, value in projection.items()}


def like(modality: Modality) -> Payload:
    """Tensors without values (on torch's meta device), such as `derive_idf` and `derive` answer."""
    shapes: dict[str, tuple[int, ...]] = {
        f"{modality.name}.offset": (modality.features,),
        f"{modality.name}.scale": (modality.features,),
    }
    if modality.form != "features":
        shapes[f"{modality.name}.components"] = (modality.width, modality.features)
    if modality.form == "strings":
        shapes["text.idf"] = (modality.width,)
    empty = partial(torch.empty, device="meta")
    answer = {name: empty(shape, dtype=torch.float64) for name, shape in shapes.items()}
    if modality.form == "pixels":
        answer["image.size"] = empty(3, dtype=torch.int64)
    return answer


def components(total: Payload, dim: int, centred: bool, standardize: bool) -> Payload:
    """The server's projection onto the leading eigenvectors of the second moments.

    Centred it is PCA; uncentred, the truncated SVD of latent semantic analysis, which keeps
    TF-IDF's zeros. Variances along the directions come from the moments: no further round.

    Parameters
    ----------
    total : count, sum [F] and second moments [F (F + 1) / 2] of all rows.
    dim : directions kept, at most F.

    Returns
    -------
    components [F, d], offset [d], scale [d], float64.
    """
    count = float(total["count"])
    mean = total["sum"].numpy() / count
    width = len(mean)
    matrix = np.zeros((width, width))
    matrix[np.triu_indices(width)] = total["second"].numpy() / count
    moment = np.trace(matrix)
    if centred:
        matrix -= np.outer(mean, mean)
    spectrum, basis = (part.numpy() for part in symmetric(torch.from_numpy(matrix)))
    values = spectrum[: -dim - 1 : -1]
    vectors = _signed(basis[:, : -dim - 1 : -1])
    shift = mean @ vectors
    variance = values if centred else values - shift**2
    # Where all rows are alike, even the largest is rounding and no measure of the others.
    largest = values.max()
    reference = largest if largest > CONSTANT * moment else moment
    return {
        "components": torch.from_numpy(vectors),
        "offset": torch.from_numpy(shift if centred or standardize else np.zeros(dim)),
        "scale": _scale(variance, reference, standardize),
    }


def scaling(total: Payload, standardize: bool) -> Payload:
    """The server's offset [F] and scale [F] of already extracted features."""
    mean = total["sum"].numpy() / float(total["count"])
    second = total["second"].numpy() / float(total["count"])
    return {
        "offset": torch.from_numpy(mean if standardize else np.zeros_like(mean)),
        "scale": _scale(second - mean**2, second, standardize),
    }


def _scale(variance: np.ndarray, reference: np.ndarray | float, standardize: bool) -> Tensor:
    # A direction in which the training rows do not vary says nothing: it is switched off rather
    # than blown up by the inverse of a rounding error.
    varies = variance > CONSTANT * np.maximum(reference, np.finfo(np.float64).tiny)
    if not standardize:
        return torch.ones(len(variance), dtype=torch.float64)
    return torch.from_numpy(np.where(varies, 1.0 / np.sqrt(np.where(varies, variance, 1.0)), 0.0))


def _signed(vectors: np.ndarray) -> np.ndarray:
    """Eigenvectors with their largest entry positive: LAPACK leaves the sign open."""
    largest = np.abs(vectors).argmax(axis=0)
    signs = np.sign(vectors[largest, np.arange(vectors.shape[1])])
    return np.ascontiguousarray(vectors * signs)


def add(payloads: Iterable[Payload]) -> Payload:
    """Sum of the payloads, key by key, in their order, as they come."""
    total: Payload = {}
    for payload in payloads:
        for key, value in payload.items():
            if key in total:
                total[key] += value
            else:
                total[key] = value.clone()
    return total


def _chunks(rows: int) -> Iterable[slice]:
    return (slice(start, start + CHUNK) for start in range(0, rows, CHUNK))

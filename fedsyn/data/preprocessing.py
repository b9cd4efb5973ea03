"""Features from descriptors by statistics of all clients, without a row leaving any of them.

The clients send sums (document frequencies, then first and second moments), the server adds them
in client order and derives what one party with all rows would: inverse document frequencies,
principal components, scales. The result is the same as on pooled rows up to rounding. Sums are
aggregates, not anonymous: those of a client with a handful of rows say much about each of them.

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
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from scipy.sparse import csr_array, issparse
from torch import Tensor

from fedsyn.data.features import hashed_counts, hog
from fedsyn.data.mapped import release
from fedsyn.data.pictures import matching
from fedsyn.errors import DataError

Payload: TypeAlias = dict[str, Tensor]
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


@dataclass(frozen=True)
class Fit:
    """What the rounds derived and what they cost, over all clients."""

    preprocessing: Payload
    bytes_up: int
    bytes_down: int


def fit(modality: Modality, clients: Sequence[np.ndarray], standardize: bool) -> Fit:
    """Run the rounds of one modality in process.

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
    if not any(map(len, clients)):
        raise DataError(f"no client has a training {modality.name}, so there is nothing to fit")
    derived: Payload = {}
    up = down = 0
    if modality.form == "pixels":
        derived["image.size"] = torch.tensor(modality.size)
    if modality.form == "strings":
        total, up = add(document_frequencies(modality.descriptors[rows]) for rows in clients)
        derived["text.idf"] = inverse_document_frequencies(total)
        down += payload_bytes({"idf": derived["text.idf"]}) * len(clients)

    def batches(rows: np.ndarray) -> Iterator[Descriptors]:
        for chunk in _chunks(len(rows)):
            part = modality.descriptors[rows[chunk]]
            _let_go(modality.descriptors)
            yield tfidf(part, derived["text.idf"]) if modality.form == "strings" else part

    width, cross = modality.descriptors.shape[1], modality.form != "features"
    total, more = add(moments(batches(rows), width, cross) for rows in clients)
    if modality.form == "features":
        projection = scaling(total, standardize)
    else:
        projection = components(total, modality.dim, modality.form == "pixels", standardize)
    derived |= {f"{modality.name}.{key}": value for key, value in projection.items()}
    up += more
    down += payload_bytes(projection) * len(clients)
    return Fit(derived, up, down)


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


# Round 1, strings only.


def document_frequencies(counts: csr_array) -> Payload:
    """A client's payload: its number of texts, and of texts with each bucket [buckets]."""
    frequency = np.bincount(counts.indices, minlength=counts.shape[1])
    return {
        "documents": torch.tensor(float(counts.shape[0]), dtype=torch.float64),
        "frequency": torch.from_numpy(frequency.astype(np.float64)),
    }


def inverse_document_frequencies(total: Payload) -> Tensor:
    """The server's smoothed ``log((1 + n) / (1 + df)) + 1`` [buckets]."""
    return torch.log((1.0 + total["documents"]) / (1.0 + total["frequency"])) + 1.0


def tfidf(counts: csr_array, idf: Tensor) -> csr_array:
    """Rows of ``(1 + log count) idf`` with unit L2 norm; an empty row stays empty."""
    values = csr_array(counts, dtype=np.float64, copy=True)
    values.data = (1.0 + np.log(values.data)) * idf.numpy()[values.indices]
    length = np.sqrt(np.asarray(values.multiply(values).sum(axis=1)).ravel())
    values.data /= np.repeat(np.where(length > 0.0, length, 1.0), np.diff(values.indptr))
    return values


# Round 2.


def moments(batches: Iterable[Descriptors], width: int, cross: bool) -> Payload:
    """A client's payload: count, sum [F], and second moments of its rows, in batches [n, F].

    Second moments are the upper triangle of ``X^T X`` [F (F + 1) / 2] where ``cross``, else its
    diagonal [F]. An empty client sends zeros.
    """
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


def components(total: Payload, dim: int, centred: bool, standardize: bool) -> Payload:
    """The server's projection onto the leading eigenvectors of the second moments.

    Centred it is PCA; uncentred, the truncated SVD of latent semantic analysis, which keeps
    TF-IDF's zeros. Variances along the directions come from the moments: no further round.

    Parameters
    ----------
    total : sum of the clients' `moments` with ``cross``.
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
    if centred:
        matrix -= np.outer(mean, mean)
    kept = min(dim, width)
    # All directions at once: several times faster here than LAPACK's routines for a subset.
    spectrum, basis = torch.linalg.eigh(torch.from_numpy(matrix), UPLO="U")
    values = spectrum.numpy()[: -kept - 1 : -1]
    vectors = _signed(basis.numpy()[:, : -kept - 1 : -1])
    shift = mean @ vectors
    variance = values if centred else values - shift**2
    return {
        "components": torch.from_numpy(vectors),
        "offset": torch.from_numpy(shift if centred or standardize else np.zeros(kept)),
        "scale": _scale(variance, values.max(), standardize),
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


def add(payloads: Iterable[Payload]) -> tuple[Payload, int]:
    """Sum of the payloads, key by key, in client order, as they come; and the bytes of all."""
    total: Payload = {}
    sent = 0
    for payload in payloads:
        sent += payload_bytes(payload)
        for key, value in payload.items():
            if key in total:
                total[key] += value
            else:
                total[key] = value.clone()
    return total, sent


def payload_bytes(payload: Mapping[str, Tensor]) -> int:
    """Bytes of the tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in payload.values())


def _chunks(rows: int) -> Iterable[slice]:
    return (slice(start, start + CHUNK) for start in range(0, rows, CHUNK))

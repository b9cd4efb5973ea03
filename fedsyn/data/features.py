"""Descriptors of raw pixels and strings that need no fitting: the same on every client."""

import hashlib
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from fedsyn.errors import DataError

# Part of the cache key: descriptors of an earlier version of this file are never taken for these.
VERSION = hashlib.blake2b(Path(__file__).read_bytes(), digest_size=8).hexdigest()

ORIENTATIONS = 9  # unsigned, over 180 degrees
CELLS = 5  # cells a side, whatever the picture's size
COLOURS = 4  # cells a side of the mean-colour grid
COLOUR_WEIGHT = 4.0  # brings the variance of the colours near that of the blocks
CLIP = 0.2  # the Hys of L2-Hys
CHUNK = 512  # pictures at a time
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
SMALLEST = 2 * CELLS  # pixels a side

GRAM_LENGTHS = (3, 4, 5)
WORD = re.compile(r"\w+")


def hog(pixels: np.ndarray) -> np.ndarray:
    """Histograms of oriented gradients, with a grid of mean colours for RGB pictures.

    Gradients are voted into 9 unsigned orientations and 5 x 5 cells, linearly between
    neighbouring bins and cells; blocks of 2 x 2 cells are normalised by L2-Hys.

    Parameters
    ----------
    pixels : uint8 [N, H, W] or [N, H, W, 3], at least 10 pixels a side.

    Returns
    -------
    float32 [N, 576], or [N, 624] with colours.

    Raises
    ------
    DataError
        If a picture is smaller than that.

    References
    ----------
    Dalal & Triggs, "Histograms of Oriented Gradients for Human Detection", CVPR 2005.
    """
    height, width = pixels.shape[1:3]
    if min(height, width) < SMALLEST:
        raise DataError(
            f"pictures of {height} x {width} pixels are too small to describe; "
            f"expected at least {SMALLEST} x {SMALLEST}"
        )
    rows, columns = _pooling(height, CELLS), _pooling(width, CELLS)
    chunks = [
        _describe(pixels[start : start + CHUNK], rows, columns)
        for start in range(0, len(pixels) or 1, CHUNK)
    ]
    return np.concatenate(chunks)


def _describe(pixels: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    values = pixels.astype(np.float32) / 255.0
    grey = values @ LUMA if values.ndim == 4 else values
    blocks = _flat(_blocks(_cells(grey, rows, columns)))
    if values.ndim == 3:
        return blocks
    return np.concatenate([blocks, _mean_colours(values)], axis=1)


def _pooling(size: int, cells: int) -> np.ndarray:
    """Weights [cells, size] with which a pixel votes for the cells, linear in its distance."""
    position = (np.arange(size) + 0.5) * cells / size - 0.5  # in units of cells
    distance = np.abs(position[None, :] - np.arange(cells)[:, None])
    return np.maximum(0.0, 1.0 - distance).astype(np.float32)


def _cells(grey: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Orientation histograms [n, cells, cells, orientations] of grey pictures [n, H, W]."""
    dy, dx = np.zeros_like(grey), np.zeros_like(grey)
    dy[:, 1:-1] = grey[:, 2:] - grey[:, :-2]
    dx[:, :, 1:-1] = grey[:, :, 2:] - grey[:, :, :-2]
    magnitude = np.hypot(dx, dy)
    angle = np.arctan2(dy, dx) * np.float32(ORIENTATIONS / np.pi) % ORIENTATIONS  # in bins
    histograms = []
    for orientation in range(ORIENTATIONS):
        distance = np.abs(angle - orientation)
        distance = np.minimum(distance, ORIENTATIONS - distance)
        votes = magnitude * np.maximum(0.0, 1.0 - distance)
        histograms.append(rows @ votes @ columns.T)
    return np.stack(histograms, axis=-1)


def _blocks(cells: np.ndarray) -> np.ndarray:
    corners = [cells[:, :-1, :-1], cells[:, :-1, 1:], cells[:, 1:, :-1], cells[:, 1:, 1:]]
    clipped = np.minimum(_unit(np.concatenate(corners, axis=-1)), CLIP)
    return _unit(clipped)


def _unit(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / np.sqrt((x * x).sum(axis=-1, keepdims=True) + np.float32(1e-6)))


def _mean_colours(values: np.ndarray) -> np.ndarray:
    """Weighted mean colours of a grid [n, COLOURS * COLOURS * 3]; values [n, H, W, 3] in [0, 1]."""
    rows, columns = (_pooling(size, COLOURS) for size in values.shape[1:3])
    rows, columns = (pool / pool.sum(axis=1, keepdims=True) for pool in (rows, columns))
    grid: np.ndarray = np.einsum("ih,nhwc,jw->nijc", rows, values, columns, optimize=True)
    return _flat(COLOUR_WEIGHT * grid).astype(np.float32)


def _flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), math.prod(x.shape[1:]))


def hashed_counts(strings: Sequence[str] | np.ndarray, buckets: int) -> csr_array:
    """Counts of words and of their character 3- to 5-grams, hashed into buckets.

    n-grams stay within a word's boundaries and see them, as scikit-learn's ``char_wb``; text is
    case-folded. Nothing is learnt from the strings, so every client computes the same columns.

    Parameters
    ----------
    strings : N texts; an empty one gives an empty row.
    buckets : number of columns.

    Returns
    -------
    float64 CSR [N, buckets].

    References
    ----------
    Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", ICML 2009.
    """
    words = [Counter(WORD.findall(str(string).casefold())) for string in strings]
    vocabulary = {word: None for counts in words for word in counts}
    number = {word: index for index, word in enumerate(vocabulary)}
    # Grams stay within words, so a text's counts are the sum of its words': hash each word once.
    by_word = _counts([Counter(_buckets(word, buckets)) for word in vocabulary], buckets)
    by_text = _counts([{number[w]: c for w, c in counts.items()} for counts in words], len(number))
    counts = csr_array(by_text @ by_word)
    counts.sort_indices()  # the order of summation, and so every last digit, is settled here
    return counts


def _buckets(word: str, buckets: int) -> Iterator[int]:
    # A marker of its own keeps the word apart from equal n-grams. CRC-32 is the same on every
    # machine and in every process, which Python's hash() of strings is not.
    yield zlib.crc32(f"\0{word}".encode()) % buckets
    padded = f" {word} "
    for length in GRAM_LENGTHS:
        for start in range(len(padded) - length + 1):
            yield zlib.crc32(padded[start : start + length].encode()) % buckets


def _counts(rows: Sequence[dict[int, int]], columns: int) -> csr_array:
    indices = np.fromiter((column for row in rows for column in row), dtype=np.int64)
    values = np.fromiter((value for row in rows for value in row.values()), dtype=np.float64)
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return csr_array((values, indices, starts), shape=(len(rows), columns))

"""Directions in which pairs scatter within their clusters: those of all clients, or a client's own.

``pooled``: a client sends the scatter of its pairs around their prototypes as a **sum**,
S_k = Σ_i (x_i − P_y(i)) (x_i − P_y(i))ᵀ with its degrees of freedom f_k, and the server takes the
principal directions of Σ_k S_k / Σ_k f_k. They are nobody's own: a client's, of fewer pairs than a
pair has numbers, would span its pairs exactly. Where a pair has so many numbers that the matrix
were larger than the directions, S_k Ω travels in its place, with the same random Ω [D, rank + 10]
for all, from which the server recovers the leading directions (the fixed-rank Nyström
approximation: Tropp et al. 2017, arXiv 1706.05736, algorithm 3).

``own``: each client sends the directions of its own scatter. That discloses who its pairs are: a
member lies in their span, a stranger does not. ``none``: nothing is sent, and pairs do not scatter.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedsyn import streams
from fedsyn.core.decompositions import singular, symmetric
from fedsyn.core.payload import Payload
from fedsyn.core.wire import Library, Uploads

SCATTER, FREEDOM, BASIS = "scatter", "freedom", "basis"
MORE = 10  # columns of a sketch beyond its rank
LEAST = 1e-12  # of the largest: directions below are rounding


def sketched(width: int, rank: int) -> bool:
    """Whether a matrix ``[width, width]`` travels as its product with random columns."""
    return width * (width + 1) // 2 > width * (rank + MORE)


def scatter(residual: Tensor, freedom: int, rank: int, seed: int) -> Tensor:
    """S / f of one client, in the form in which it travels.

    Parameters
    ----------
    residual : Tensor of shape [n, D] float64
        Pairs without their prototypes.
    freedom : int
        Degrees of freedom f; below 1 there is nothing to be said.
    rank : int
        How many directions are wanted.
    seed : int
        The run's, which Ω is drawn from.

    Returns
    -------
    Tensor
        The upper triangle ``[D (D + 1) / 2]`` or the sketch ``[D, rank + 10]``, float64.
    """
    width = residual.shape[-1]
    share = residual / max(freedom, 1) ** 0.5 if freedom > 0 else torch.zeros_like(residual)
    if sketched(width, rank):
        return share.T @ (share @ _columns(width, rank, seed).to(residual))
    row, column = torch.triu_indices(width, width)
    return (share.T @ share)[row, column]


def pooled_basis(uploads: Uploads, known: Payload, width: int, rank: int, seed: int) -> Payload:
    """The pooled directions, from what all clients have sent so far.

    Parameters
    ----------
    uploads : Uploads
    known : dict of str to Tensor
        What this gave in the round before.
    width : int
        D, numbers of a pair.
    rank, seed : int
        As of `scatter`.

    Returns
    -------
    dict
        ``basis [rank, D]`` float32, scaled by standard deviations, zero beyond the rank that there
        is, and ``freedom``, the degrees of freedom behind it; empty where nobody has sent any.
    """
    freedom = uploads.weight(SCATTER)
    if not freedom:
        return {}
    if FREEDOM in known and float(known[FREEDOM]) == freedom:
        return {name: known[name] for name in (BASIS, FREEDOM)}
    found = uploads.mean(SCATTER)
    values, vectors = _leading(found, width, rank, seed)
    kept = min(rank, len(values))
    basis = torch.zeros(rank, width, dtype=torch.float64)
    basis[:kept] = (vectors[:, :kept] * values[:kept].sqrt()).T
    return {BASIS: basis.float(), FREEDOM: torch.tensor(freedom, dtype=torch.float64)}


def with_basis(library: Library, basis: Tensor) -> Library:
    """The same clients, as if each had sent these directions ``[rank, D]``."""

    def take(ids: Sequence[int], names: Sequence[str]) -> Payload:
        rest = [name for name in names if name != BASIS]
        found = library.take(ids, rest) if rest or not names else {}
        if BASIS in names or not names:
            found[BASIS] = basis.expand(len(ids), -1, -1)
        return found

    return Library(library.ids, take)


def own_basis(residual: Tensor, freedom: int, rank: int) -> Tensor:
    """Scaled principal directions ``[rank, D]`` of a client's own residuals ``[n, D]``."""
    basis = residual.new_zeros(rank, residual.shape[-1])
    if freedom > 0:
        _, scale, directions = singular(residual)
        kept = min(rank, freedom, len(scale))
        basis[:kept] = directions[:kept] * (scale[:kept, None] / freedom**0.5)
    return basis


def _leading(found: Tensor, width: int, rank: int, seed: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues, descending and not negative, and vectors as columns, of the mean scatter."""
    found = found.cpu()
    if sketched(width, rank):
        values, vectors = _of_sketch(found, _columns(width, rank, seed))
    else:
        whole = found.new_zeros(width, width)
        row, column = torch.triu_indices(width, width)
        whole[row, column] = whole[column, row] = found
        values, vectors = (part.flip(-1) for part in symmetric(whole))
    return values.where(values > LEAST * values[:1], 0.0), vectors


def _of_sketch(product: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Of S from S Ω ``[D, r]`` and Ω: shifted by a little, so that its root exists."""
    shift = torch.finfo(product.dtype).eps * len(product) ** 0.5 * product.norm()
    if not shift:
        return product.new_zeros(1), product.new_zeros(len(product), 1)
    moved = product + shift * columns
    core = columns.T @ moved
    root = torch.linalg.cholesky((core + core.T) / 2)
    half = torch.linalg.solve_triangular(root, moved.T, upper=False)
    _, scale, vectors = singular(half)
    return (scale.square() - shift).clamp(min=0), vectors.T


def _columns(width: int, rank: int, seed: int) -> Tensor:
    """Ω ``[D, rank + 10]``, the same for everybody."""
    stream = streams.generator(seed, "sketch")
    return torch.randn(width, rank + MORE, generator=stream, dtype=torch.float64)

"""Decompositions that do not give up: LAPACK's fast routines fail on some singular matrices."""

import numpy as np
import torch
from torch import Tensor


def symmetric(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Ascending eigenvalues [F] and vectors [F, F], as columns, by the upper triangle of a matrix.

    Parameters
    ----------
    matrix : Tensor of shape [F, F] float64, finite
    """
    try:
        # All directions at once: several times faster here than LAPACK's routines for a subset.
        values, vectors = torch.linalg.eigh(matrix, UPLO="U")
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        return _symmetric_singular(matrix)
    return values, vectors


def _symmetric_singular(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The same where divide and conquer gives up.

    Most such matrices have rows and columns of zeros, buckets that no text has: these are
    eigenvectors as they are. The rest goes through QR iteration, which is slower and converges.
    """
    from scipy.linalg import eigh

    upper = matrix.numpy(force=True)
    whole = np.triu(upper) + np.triu(upper, 1).T
    used = whole.any(axis=1)
    unused = np.flatnonzero(~used)
    values, vectors = np.zeros(len(whole)), np.zeros_like(whole)
    vectors[unused, np.arange(len(unused))] = 1.0
    if used.any():
        # What is left of the columns, which lie behind those of the unused rows.
        values[len(unused) :], vectors[used, len(unused) :] = eigh(
            whole[np.ix_(used, used)], driver="ev"
        )
    ascending = np.argsort(values, kind="stable")  # rounding makes some zeros negative
    return torch.from_numpy(values[ascending]).to(matrix), torch.from_numpy(
        np.ascontiguousarray(vectors[:, ascending])
    ).to(matrix)


def singular(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Left vectors [n, k], values [k], descending, and right vectors [k, m] of a matrix [n, m]."""
    try:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        from scipy.linalg import svd

        found = svd(matrix.numpy(force=True), full_matrices=False, lapack_driver="gesvd")
        left, values, right = (torch.from_numpy(part).to(matrix) for part in found)
    return left, values, right

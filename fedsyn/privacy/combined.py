"""All attacks together: which weighted sum of their scores tells members best, of other clients?

A logistic regression of the scores, fitted on all clients but one and applied to that one, whose
members it has never been told. Scores enter by their normal scores within a client (rank r of n as
Φ⁻¹((r − ½)/n), ties at their mean rank), which nobody needs members for.
"""

import warnings
from collections.abc import Mapping

import numpy as np
import torch
from scipy.stats import norm, rankdata
from torch import Tensor

FOLDS = 5  # where there is one client alone


def normal_scores(values: Tensor) -> Tensor:
    """Of each column of ``[n, K]``; a column without any order is 0."""
    ranks = rankdata(values.numpy(), axis=0)
    return torch.from_numpy(norm.ppf((ranks - 0.5) / len(values)))


def combine(scores: Mapping[int, Tensor], truth: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Log-odds of membership ``[n]`` of each client's pairs, by a fit to the other clients'.

    Parameters
    ----------
    scores : mapping of int to Tensor of shape [n, K]
        Of each client's pairs by every attack; NaN where an attack has none.
    truth : mapping of int to Tensor of shape [n] bool
        Whether they are members.
    """
    ids = sorted(scores)
    x = {c: normal_scores(scores[c]).nan_to_num(0.0).numpy() for c in ids}
    y = {c: truth[c].numpy() for c in ids}
    if len(ids) == 1:
        (client,) = ids
        return {client: torch.from_numpy(_folded(x[client], y[client]))}
    found = {}
    for client in ids:
        others = [c for c in ids if c != client]
        known = np.concatenate([x[c] for c in others]), np.concatenate([y[c] for c in others])
        found[client] = torch.from_numpy(_fitted(*known, x[client]))
    return found


def _folded(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of one client alone: by fits to the other pairs."""
    fold = np.empty(len(y), dtype=np.int64)
    for kind in (False, True):  # each fold has its share of either
        fold[y == kind] = np.arange((y == kind).sum()) % FOLDS
    found = np.empty(len(y))
    for number in range(FOLDS):
        out = fold == number
        found[out] = _fitted(x[~out], y[~out], x[out])
    return found


def _fitted(x: np.ndarray, y: np.ndarray, asked: np.ndarray) -> np.ndarray:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit = LogisticRegression(class_weight="balanced", max_iter=1000).fit(x, y)
    return np.asarray(fit.decision_function(asked), dtype=np.float64)

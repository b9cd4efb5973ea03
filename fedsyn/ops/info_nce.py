"""Symmetric InfoNCE between two batches of embeddings, batched over clients.

S = scale · X Yᵀ,  L = mean_i [ (lse_j S_ij + lse_j S_ji) / 2 − S_ii ]
(van den Oord et al. 2018, arXiv 1807.03748, eq. 4; symmetric as in CLIP, Radford et al. 2021.)
"""

from torch import Tensor

from fedsyn.ops.checks import check_same_shape, check_scale, check_trailing

# Stands for minus infinity: finite, so that a fully masked row gives 0 · finite = 0 and no NaN.
MASKED = -1e30


def info_nce(
    x: Tensor,  # [..., B, D] unit rows
    y: Tensor,  # [..., B, D] unit rows, row i the partner of x's row i
    scale: float | Tensor,  # 1 / temperature; a tensor broadcasts against [...]
    valid: Tensor | None = None,  # [..., B] bool: rows that take part
) -> Tensor:  # [...]
    """Mean over both directions and over the valid rows of the InfoNCE loss.

    Parameters
    ----------
    x, y : Tensor [..., B, D]
        Embeddings, unit rows by convention (not checked).
    scale : float or Tensor [...]
        Inverse temperature.
    valid : Tensor [..., B], optional
        Rows that are neither positives nor negatives where ``False``; ragged batches of stacked
        clients are padded with such rows. A batch with no valid row has loss 0.

    Returns
    -------
    Tensor [...]
        ``log B`` where all similarities are equal.

    Raises
    ------
    ValueError
        If the shapes differ or ``scale`` is not finite.
    """
    check_same_shape("info_nce", x, y, dims=2)
    check_scale("info_nce", scale)
    if isinstance(scale, Tensor):
        scale = scale[..., None, None]
    similarity = scale * (x @ y.transpose(-1, -2))
    positive = similarity.diagonal(dim1=-2, dim2=-1)
    if valid is None:
        rows, columns = similarity.logsumexp(-1), similarity.logsumexp(-2)
        return ((rows + columns) / 2 - positive).mean(-1)
    check_trailing("info_nce", "valid", valid, x.shape[:-1])
    both = valid[..., :, None] & valid[..., None, :]
    similarity = similarity.masked_fill(~both, MASKED)
    losses = (similarity.logsumexp(-1) + similarity.logsumexp(-2)) / 2 - positive
    losses = losses.masked_fill(~valid, 0.0)
    return losses.sum(-1) / valid.sum(-1).clamp(min=1)

"""Contrast of embeddings against prototypes, batched over clients.

L = mean_i [ lse_k S_ik − S_{i, target_i} ],  S = scale · X Pᵀ
(the instance–prototype term of prototypical contrastive learning, Li et al. 2021, eq. 11.)
"""

from torch import Tensor

from fedsyn.ops.checks import check_scale, check_trailing
from fedsyn.ops.info_nce import MASKED


def prototype_logits(
    x: Tensor,  # [..., B, D] unit rows
    prototypes: Tensor,  # [..., K, D] unit rows
    scale: float,
    valid: Tensor | None = None,  # [..., K] bool: prototypes that exist
) -> Tensor:  # [..., B, K]
    """Scaled similarities to the prototypes; those that do not exist are out of every softmax."""
    logits = scale * (x @ prototypes.transpose(-1, -2))
    return logits if valid is None else logits.masked_fill(~valid[..., None, :], MASKED)


def prototype_nce(
    x: Tensor,  # [..., B, D] unit rows
    prototypes: Tensor,  # [..., K, D] unit rows
    target: Tensor,  # [..., B] long, the prototype of each row
    scale: float,
    valid: Tensor | None = None,  # [..., K] bool: prototypes that exist
) -> Tensor:  # [...]
    """Mean over the batch of the cross-entropy of ``x`` against its target prototype.

    Parameters
    ----------
    x : Tensor [..., B, D]
    prototypes : Tensor [..., K, D]
        Each client's own; clients with fewer than ``K`` mark the rest in ``valid``.
    target : Tensor [..., B]
        Index of a valid prototype.
    scale : float
        Inverse temperature.
    valid : Tensor [..., K], optional

    Returns
    -------
    Tensor [...]

    Raises
    ------
    ValueError
        If the shapes do not fit or ``scale`` is not finite.
    """
    if x.shape[:-2] != prototypes.shape[:-2] or x.shape[-1] != prototypes.shape[-1]:
        raise ValueError(
            f"prototype_nce: expected x [..., B, D] and prototypes [..., K, D], "
            f"got {tuple(x.shape)} and {tuple(prototypes.shape)}"
        )
    check_trailing("prototype_nce", "target", target, x.shape[:-1])
    check_scale("prototype_nce", scale)
    logits = prototype_logits(x, prototypes, scale, valid)
    positive = logits.gather(-1, target[..., None]).squeeze(-1)
    return (logits.logsumexp(-1) - positive).mean(-1)

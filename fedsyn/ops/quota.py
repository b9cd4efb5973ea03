"""Selection of the best rows of every group, up to the group's quota."""

import torch
from torch import Tensor

from fedsyn.ops.library import register


def select_quota(
    score: Tensor,  # [N]
    group: Tensor,  # [N] long, in [0, G)
    quota: Tensor,  # [G] long
) -> Tensor:  # [M] long
    """Positions of the ``quota[g]`` rows of lowest score in every group g, ascending.

    Parameters
    ----------
    score : Tensor [N]
        Any real dtype. Of equals the first are taken; NaN counts as greater than everything.
    group : Tensor [N] long
        The group of each row.
    quota : Tensor [G] long
        Rows to keep of each group; where there are fewer, all of them. Negative as 0.

    Returns
    -------
    Tensor [M] long
        M depends on the values. Deterministic, in O(N log N).

    Raises
    ------
    TypeError
        If ``group`` or ``quota`` is not of dtype long, or ``score`` is complex or bool.
    ValueError
        If shapes or devices do not fit, or a row's group is not in [0, G).
    """
    _check(score, group, quota)
    kept: Tensor = _select_quota(score, group, quota)
    return kept


def _check(score: Tensor, group: Tensor, quota: Tensor) -> None:
    if group.dtype != torch.long or quota.dtype != torch.long:
        raise TypeError(
            f"select_quota: expected group and quota of int64, got {group.dtype} and {quota.dtype}"
        )
    if score.is_complex() or score.dtype == torch.bool:
        raise TypeError(f"select_quota: expected real scores, got {score.dtype}")
    if score.ndim != 1 or score.shape != group.shape or quota.ndim != 1:
        raise ValueError(
            "select_quota: expected score [N], group [N] and quota [G], got "
            f"{tuple(score.shape)}, {tuple(group.shape)} and {tuple(quota.shape)}"
        )
    if score.device != group.device or score.device != quota.device:
        raise ValueError(
            "select_quota: expected one device, got "
            f"{score.device}, {group.device} and {quota.device}"
        )


# ---- The operator behind it -----------------------------------------------------------------


def _select(score: Tensor, group: Tensor, quota: Tensor) -> Tensor:
    _check(score, group, quota)
    if ((group < 0) | (group >= len(quota))).any():
        outside = int(group[(group < 0) | (group >= len(quota))][0])
        raise ValueError(f"select_quota: expected groups in [0, {len(quota)}), got {outside}")
    by_score = score.argsort(stable=True)
    order = by_score[group[by_score].argsort(stable=True)]  # by group, then score, then position
    sizes = torch.zeros_like(quota).scatter_add_(0, group, torch.ones_like(group))
    first = (sizes.cumsum(0) - sizes)[group[order]]
    rank = torch.arange(len(order), device=order.device) - first
    return order[rank < quota[group[order]]].sort().values


def _fake(score: Tensor, group: Tensor, quota: Tensor) -> Tensor:
    return group.new_empty(torch.library.get_ctx().new_dynamic_size())


_select_quota = register(
    "select_quota(Tensor score, Tensor group, Tensor quota) -> Tensor", *(_select, _fake)
)

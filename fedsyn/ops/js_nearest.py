"""The nearest of many reference distributions, by the Jensen–Shannon divergence."""

import torch
from torch import Tensor

from fedsyn.ops.backends import choose
from fedsyn.ops.chunks import chunks
from fedsyn.ops.js_divergence import js_divergence_reference
from fedsyn.ops.library import launch, register

# Best first. The compiled kernels have float32 only.
_IMPLEMENTED = {"cpu": ("cpu", "reference"), "cuda": ("cuda", "triton", "reference")}


def js_nearest(
    p: Tensor,  # [N, K] distributions
    q: Tensor,  # [C, K] distributions
) -> tuple[Tensor, Tensor]:  # [N], [N]
    """The row of ``q`` that each row of ``p`` diverges least from: its nearest client.

    Parameters
    ----------
    p : Tensor [N, K]
        Rows that are non-negative and sum to one (not checked), float32 or float64, on a CPU or an
        NVIDIA GPU.
    q : Tensor [C, K]
        The same, one row a client.

    Returns
    -------
    divergence : Tensor [N]
        min over the clients of `js_divergence`, in nats. NaN if it is NaN for any of them. No
        gradient flows.
    client : Tensor [N] long
        Where it is reached, the first of equals.

    Raises
    ------
    TypeError
        If ``p`` and ``q`` are not tensors of one dtype, float32 or float64.
    ValueError
        If their shapes do not fit, C or K is zero, or they are not on one CPU or CUDA device.

    Notes
    -----
    The compiled kernels get all h² = 1 − Σ √(p q) from one matrix product and compute the
    divergence only where ln 2 · h² is not above the least h²: ln 2 · h² ≤ JSD ≤ h² term by term.
    The result is that of computing all.

    References
    ----------
    Topsøe 2000, "Some inequalities for information divergence and related measures of
    discrimination", IEEE Transactions on Information Theory 46 (4), for bounds of this kind.
    """
    _check(p, q)
    found: tuple[Tensor, Tensor] = _js_nearest(p.detach(), q.detach())
    return found


def js_nearest_reference(
    p: Tensor,  # [N, K]
    q: Tensor,  # [C, K]
) -> tuple[Tensor, Tensor]:  # [N], [N]
    """`js_nearest` by all divergences, in PyTorch, chunk by chunk."""
    divergence, client = _fake(p, q)
    for rows in chunks(p.shape[0], q.numel(), p.device.type):
        values = js_divergence_reference(p[rows, None], q)
        client[rows] = nearest = values.argmin(-1)
        divergence[rows] = values.gather(-1, nearest[:, None]).squeeze(-1)
    return divergence, client


def _check(p: Tensor, q: Tensor) -> None:
    if not (isinstance(p, Tensor) and isinstance(q, Tensor)):
        raise TypeError(
            f"js_nearest: expected two tensors, got {type(p).__name__} and {type(q).__name__}"
        )
    if p.dtype != q.dtype or p.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"js_nearest: expected one dtype, float32 or float64, got {p.dtype} and {q.dtype}"
        )
    if p.device != q.device or p.device.type not in _IMPLEMENTED:
        raise ValueError(
            f"js_nearest: expected one CPU or CUDA device, got {p.device} and {q.device}"
        )
    if p.ndim != 2 or q.ndim != 2 or p.shape[1] != q.shape[1] or 0 in q.shape:
        raise ValueError(
            "js_nearest: expected p [N, K] and q [C, K], nothing but N zero, "
            f"got {tuple(p.shape)} and {tuple(q.shape)}"
        )


# ---- The operator behind it -----------------------------------------------------------------


def _nearest(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    _check(p, q)
    device = p.device.type
    implemented = _IMPLEMENTED[device] if p.dtype == torch.float32 else ("reference",)
    chosen = choose("js_nearest", implemented, f"{device} {p.dtype}")
    if chosen == "reference":
        return js_nearest_reference(p, q)
    if chosen == "triton":
        from fedsyn.kernels.js_divergence import triton as kernels

        by_triton: tuple[Tensor, Tensor] = kernels.nearest(p.contiguous(), q.contiguous())
        return by_triton
    found = _fake(p, q)
    launch("js_nearest", chosen, p, p.contiguous(), q.contiguous(), *found, len(p), *q.shape)
    return found


def _fake(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    divergence = p.new_empty(p.shape[0])
    return divergence, torch.empty_like(divergence, dtype=torch.long)


_js_nearest = register(
    "js_nearest(Tensor p, Tensor q) -> (Tensor, Tensor)",
    *(_nearest, _fake),
)

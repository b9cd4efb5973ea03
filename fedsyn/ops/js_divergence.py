"""The Jensen–Shannon divergence of rows.

JSD(p, q) = ½ Σ_k p_k ln(2 p_k / m_k) + q_k ln(2 q_k / m_k),   m = p + q
∂JSD/∂p_k = ½ ln(2 p_k / m_k),   ∂JSD/∂q_k = ½ ln(2 q_k / m_k)
(Lin 1991, "Divergence measures based on the Shannon entropy", eq. 3.)
"""

from typing import Any

import torch
from torch import Tensor

from fedsyn.ops.backends import choose
from fedsyn.ops.library import launch, register

# ln 2 rounded down: a bound that still holds when the result is compared in a wider dtype.
_LN2 = {torch.float32: 0.69314712, torch.float64: 0.69314718055994530}
_IMPLEMENTED = {"cpu": ("cpu", "reference"), "cuda": ("cuda", "reference")}  # best first


def js_divergence(
    p: Tensor,  # [..., K] distributions
    q: Tensor,  # [..., K] distributions
) -> Tensor:  # [...]
    """The Jensen–Shannon divergence of each pair of rows, in nats.

    Parameters
    ----------
    p, q : Tensor [..., K]
        Rows that are non-negative and sum to one (not checked), float32 or float64, on a CPU or an
        NVIDIA GPU. Batch axes broadcast against each other. Broadcast and non-contiguous operands
        are copied to contiguous memory first.

    Returns
    -------
    Tensor [...]
        In [0, ln 2]: 0 for identical rows, ln 2 for disjoint supports. A row with NaN gives NaN.

    Raises
    ------
    TypeError
        If ``p`` and ``q`` are not tensors of one dtype, float32 or float64.
    ValueError
        If their shapes do not fit, K is zero, or they are not on one CPU or CUDA device.

    Notes
    -----
    0 · ln 0 = 0. Where p_k = q_k = 0 the gradient is 0. Where p_k = 0 < q_k the derivative to p_k
    is −∞; the ratio 2 p_k / m_k is floored at the smallest normal number of the dtype, which makes
    it finite: about −44 in float32 and −354 in float64.

    References
    ----------
    Lin 1991, "Divergence measures based on the Shannon entropy", IEEE Transactions on Information
    Theory 37 (1), eq. 3 with weights ½.
    """
    _check(p, q)
    if p.shape != q.shape:
        p, q = torch.broadcast_tensors(p, q)
    divergence: Tensor = _js_divergence(p, q)
    return divergence


def js_divergence_reference(
    p: Tensor,  # [..., K]
    q: Tensor,  # [..., K]
) -> Tensor:  # [...]
    """`js_divergence` as its formula reads, in PyTorch."""
    m = (p + q).clamp_min(torch.finfo(p.dtype).tiny)
    terms = torch.xlogy(p, 2 * p / m) + torch.xlogy(q, 2 * q / m)
    return (0.5 * terms.sum(-1)).clamp(0, _LN2[p.dtype])


def js_divergence_backward_reference(
    grad: Tensor,  # [...]
    p: Tensor,  # [..., K]
    q: Tensor,  # [..., K]
) -> tuple[Tensor, Tensor]:  # [..., K], [..., K]
    """The gradients of `js_divergence` to ``p`` and ``q``, in PyTorch."""
    tiny = torch.finfo(p.dtype).tiny
    m = p + q

    def gradient(x: Tensor) -> Tensor:
        ratio = (2 * x / m.clamp_min(tiny)).clamp_min(tiny)
        return torch.where(m == 0, 0, 0.5 * grad[..., None] * ratio.log())

    return gradient(p), gradient(q)


def _check(p: Tensor, q: Tensor) -> None:
    if not (isinstance(p, Tensor) and isinstance(q, Tensor)):
        raise TypeError(
            f"js_divergence: expected two tensors, got {type(p).__name__} and {type(q).__name__}"
        )
    if p.dtype != q.dtype or p.dtype not in _LN2:
        raise TypeError(
            f"js_divergence: expected one dtype, float32 or float64, got {p.dtype} and {q.dtype}"
        )
    if p.device != q.device or p.device.type not in _IMPLEMENTED:
        raise ValueError(
            f"js_divergence: expected one CPU or CUDA device, got {p.device} and {q.device}"
        )
    if p.shape == q.shape and p.ndim > 0 and p.shape[-1] > 0:
        return
    if p.ndim == 0 or q.ndim == 0 or p.shape[-1] != q.shape[-1] or p.shape[-1] == 0:
        expected = "p [..., K] and q [..., K] with the same K > 0"
    elif not _broadcast(p.shape[:-1], q.shape[:-1]):
        expected = "batch axes that broadcast"
    else:
        return
    raise ValueError(
        f"js_divergence: expected {expected}, got {tuple(p.shape)} and {tuple(q.shape)}"
    )


def _broadcast(a: torch.Size, b: torch.Size) -> bool:
    return all(m == n or m == 1 or n == 1 for m, n in zip(reversed(a), reversed(b), strict=False))


# ---- The operators behind it ----------------------------------------------------------------


def _forward(p: Tensor, q: Tensor) -> Tensor:
    _check_rows(p, q)
    device = p.device.type
    chosen = choose("js_divergence", _IMPLEMENTED[device], device)
    if chosen == "reference":
        return js_divergence_reference(p, q)
    p, q = p.contiguous(), q.contiguous()
    out = p.new_empty(p.shape[:-1])
    launch("js_divergence", chosen, p, p, q, out, out.numel(), p.shape[-1])
    return out


def _backward(grad: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    _check_rows(p, q, grad)
    device = p.device.type
    chosen = choose("js_divergence", _IMPLEMENTED[device], device)
    if chosen == "reference":
        return js_divergence_backward_reference(grad, p, q)
    grad, p, q = grad.contiguous(), p.contiguous(), q.contiguous()
    to_p, to_q = torch.empty_like(p), torch.empty_like(q)
    rows = grad.numel()
    launch("js_divergence_backward", chosen, p, grad, p, q, to_p, to_q, rows, p.shape[-1])
    return to_p, to_q


def _check_rows(p: Tensor, q: Tensor, grad: Tensor | None = None) -> None:
    """Keep direct calls of the operators within their memory; `js_divergence` explains better."""
    same = p.shape == q.shape and p.dtype == q.dtype and p.dtype in _LN2 and p.device == q.device
    if grad is not None:
        same = same and grad.shape == p.shape[:-1] and grad.dtype == p.dtype
    if not same:
        raise ValueError("fedsyn::js_divergence: expected p and q [..., K] alike and grad [...]")


def _forward_fake(p: Tensor, q: Tensor) -> Tensor:
    return p.new_empty(p.shape[:-1])


def _backward_fake(grad: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    return (
        torch.empty_like(p, memory_format=torch.contiguous_format),
        torch.empty_like(q, memory_format=torch.contiguous_format),
    )


def _save_inputs(ctx: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    both: tuple[Tensor, Tensor] = _js_divergence_backward(grad, *ctx.saved_tensors)
    return both


def _second_gradients(ctx: Any, over_p: Tensor, over_q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    # With l_p = ln(2p/m):  ∂l_p/∂p = q/(p m),  ∂l_p/∂q = ∂l_q/∂p = −1/m,  ∂l_q/∂q = p/(q m).
    grad, p, q = ctx.saved_tensors
    tiny = torch.finfo(p.dtype).tiny
    unit_p, unit_q = _js_divergence_backward(torch.ones_like(grad), p, q)
    to_grad = (over_p * unit_p + over_q * unit_q).sum(-1)
    half = 0.5 * grad[..., None] / (p + q).clamp_min(tiny)
    to_p = half * (over_p * q / p.clamp_min(tiny) - over_q)
    to_q = half * (over_q * p / q.clamp_min(tiny) - over_p)
    return to_grad, to_p, to_q


_js_divergence = register(
    "js_divergence(Tensor p, Tensor q) -> Tensor",
    *(_forward, _forward_fake, _save_inputs, _gradients),
)
_js_divergence_backward = register(
    "js_divergence_backward(Tensor grad, Tensor p, Tensor q) -> (Tensor, Tensor)",
    *(_backward, _backward_fake, _save_inputs, _second_gradients),
)

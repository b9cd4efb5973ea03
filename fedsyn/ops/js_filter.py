"""The divergence between two modalities' assignments to prototypes, and its least over clients.

p = softmax_k(s x·px_k),  q = softmax_k(s y·py_k),  divergence = JSD(p, q)
assignment = argmax_k s (x·px_k + y·py_k)
(Lin 1991, eq. 3, for the divergence.)

No array of all similarities is ever stored: the compiled kernels work on tiles that stay in the
cache, the references on chunks of rows.
"""

from typing import Any

import torch
from torch import Tensor

from fedsyn.ops.backends import choose
from fedsyn.ops.checks import check_scale
from fedsyn.ops.chunks import chunks
from fedsyn.ops.js_divergence import js_divergence_reference
from fedsyn.ops.library import launch, register

# Best first. The compiled kernels have float32 only.
_IMPLEMENTED = {"cpu": ("cpu", "reference"), "cuda": ("cuda", "triton", "reference")}


def js_assign(
    x: Tensor,  # [N, D]
    y: Tensor,  # [N, D]
    prototypes_x: Tensor,  # [K, D]
    prototypes_y: Tensor,  # [K, D]
    scale: float,
    valid: Tensor | None = None,  # [K] bool: prototypes that exist
) -> tuple[Tensor, Tensor]:  # [N], [N]
    """How far two modalities disagree about the prototype of each pair, and the one they settle on.

    Parameters
    ----------
    x, y : Tensor [N, D]
        Embeddings of both modalities, float32 or float64, on a CPU or an NVIDIA GPU.
    prototypes_x, prototypes_y : Tensor [K, D]
        What ``x`` and ``y`` are compared with; the same tensor where they share a space.
    scale : float
        Inverse temperature.
    valid : Tensor [K] bool, optional
        Prototypes that take part.

    Returns
    -------
    divergence : Tensor [N]
        Jensen–Shannon divergence in nats between the softmax of the similarities of ``x`` and that
        of ``y``, in [0, ln 2]. Differentiable (once) to all four operands. NaN where an operand is
        NaN; infinite, without a gradient, where no prototype is valid.
    assignment : Tensor [N] long
        The prototype with the greatest sum of both similarities times ``scale``, the first of
        equals. In range, but without a meaning, where the divergence is not finite.

    Raises
    ------
    TypeError
        If the operands are not tensors of one dtype, float32 or float64, or ``valid`` is not bool.
    ValueError
        If shapes or devices do not fit, there is no prototype, or ``scale`` is not finite.

    References
    ----------
    Lin 1991, "Divergence measures based on the Shannon entropy", IEEE Transactions on Information
    Theory 37 (1), eq. 3 with weights ½.
    """
    _check("js_assign", "[K, D]", x, y, prototypes_x, prototypes_y, scale, valid)
    found: tuple[Tensor, Tensor] = _js_assign(x, y, prototypes_x, prototypes_y, scale, valid)
    return found


def js_filter(
    x: Tensor,  # [N, D]
    y: Tensor,  # [N, D]
    prototypes_x: Tensor,  # [C, K, D]
    prototypes_y: Tensor,  # [C, K, D]
    scale: float,
    valid: Tensor | None = None,  # [C, K] bool: prototypes that exist
) -> tuple[Tensor, Tensor, Tensor]:  # [N], [N], [N]
    """The client by whose prototypes each pair is judged to agree best.

    `js_assign` against each client's prototypes, and the least of the divergences.

    Parameters
    ----------
    x, y : Tensor [N, D]
        Embeddings of both modalities, float32 or float64, on a CPU or an NVIDIA GPU.
    prototypes_x, prototypes_y : Tensor [C, K, D]
        Of every client.
    scale : float
        Inverse temperature.
    valid : Tensor [C, K] bool, optional
        Prototypes that exist. A client without any takes no part.

    Returns
    -------
    divergence : Tensor [N]
        The least over the clients, in nats. NaN if it is NaN for any of them; infinite where no
        client has a prototype. No gradient flows.
    client : Tensor [N] long
        Where it is reached, the first of equals.
    assignment : Tensor [N] long
        The prototype of that client that the pair is assigned to.

    Raises
    ------
    TypeError
        If the operands are not tensors of one dtype, float32 or float64, or ``valid`` is not bool.
    ValueError
        If shapes or devices do not fit, there is no client or prototype, or ``scale`` is not
        finite.

    Notes
    -----
    The CPU kernel leaves out clients that cannot win. With h² = 1 − Σ √(p q), every term of the
    divergence is between ln 2 and 1 times that of h², so ln 2 · h² ≤ JSD ≤ h²; only clients whose
    lower bound is not above the least upper bound are computed, by the same instructions as
    `js_assign`. The result is the same bit for bit.

    References
    ----------
    Topsøe 2000, "Some inequalities for information divergence and related measures of
    discrimination", IEEE Transactions on Information Theory 46 (4), for bounds of this kind.
    """
    _check("js_filter", "[C, K, D]", x, y, prototypes_x, prototypes_y, scale, valid)
    operands = (t.detach() for t in (x, y, prototypes_x, prototypes_y))
    found: tuple[Tensor, Tensor, Tensor] = _js_filter(*operands, scale, valid)
    return found


def js_assign_reference(
    x: Tensor,  # [N, D]
    y: Tensor,  # [N, D]
    prototypes_x: Tensor,  # [K, D]
    prototypes_y: Tensor,  # [K, D]
    scale: float,
    valid: Tensor | None = None,  # [K]
) -> tuple[Tensor, Tensor]:  # [N], [N]
    """`js_assign` as its formula reads, in PyTorch, chunk by chunk."""
    divergence = x.new_empty(x.shape[0])
    assignment = torch.empty_like(divergence, dtype=torch.long)
    for rows in chunks(x.shape[0], prototypes_x.shape[0], x.device.type):
        a = _logits(x[rows], prototypes_x, scale, valid)
        b = _logits(y[rows], prototypes_y, scale, valid)
        divergence[rows] = js_divergence_reference(a.softmax(-1), b.softmax(-1))
        assignment[rows] = (a + b).argmax(-1)
    if valid is not None:
        divergence.masked_fill_(~valid.any(), torch.inf)
    return divergence, assignment


def js_assign_backward_reference(
    grad: Tensor,  # [N]
    x: Tensor,  # [N, D]
    y: Tensor,  # [N, D]
    prototypes_x: Tensor,  # [K, D]
    prototypes_y: Tensor,  # [K, D]
    scale: float,
    valid: Tensor | None,  # [K]
    to_prototypes: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # [N, D], [N, D], [K, D], [K, D]
    """The gradients of `js_assign`'s divergence, in PyTorch; no prototypes' if not wanted.

    With l = ½ ln(2p/m):  dx = s (p ∘ (l − Σ p l)) PX, and likewise for the others.
    """
    to_x, to_y = torch.empty_like(x), torch.empty_like(y)
    to_px, to_py = (
        torch.zeros_like(t) if to_prototypes else t.new_empty(0)
        for t in (prototypes_x, prototypes_y)
    )
    for rows in chunks(x.shape[0], prototypes_x.shape[0], x.device.type):
        # Masked to a number: with no prototype left, rows are equal and have no gradient.
        p, q = (
            _logits(u[rows], prototypes, scale, valid, -1e30).softmax(-1)
            for u, prototypes in ((x, prototypes_x), (y, prototypes_y))
        )
        slopes = torch.ops.fedsyn.js_divergence_backward(grad[rows], p, q)
        for u, prototypes, weight, slope, to_u, to_p in (
            (x[rows], prototypes_x, p, slopes[0], to_x[rows], to_px),
            (y[rows], prototypes_y, q, slopes[1], to_y[rows], to_py),
        ):
            to_logits = weight * (slope - (weight * slope).sum(-1, keepdim=True))
            torch.mul(to_logits @ prototypes, scale, out=to_u)
            if to_prototypes:
                to_p.addmm_(to_logits.T, u, alpha=scale)
    return to_x, to_y, to_px, to_py


def js_filter_reference(
    x: Tensor,  # [N, D]
    y: Tensor,  # [N, D]
    prototypes_x: Tensor,  # [C, K, D]
    prototypes_y: Tensor,  # [C, K, D]
    scale: float,
    valid: Tensor | None = None,  # [C, K]
) -> tuple[Tensor, Tensor, Tensor]:  # [N], [N], [N]
    """`js_filter` client by client, in PyTorch."""
    divergence = x.new_full((x.shape[0],), torch.inf)
    client = torch.zeros_like(divergence, dtype=torch.long)
    assignment = torch.zeros_like(client)
    for c in range(prototypes_x.shape[0]):
        mask = None if valid is None else valid[c]
        value, chosen = js_assign_reference(x, y, prototypes_x[c], prototypes_y[c], scale, mask)
        better = (value < divergence) | (value.isnan() & ~divergence.isnan())
        divergence = torch.where(better, value, divergence)
        client.masked_fill_(better, c)
        assignment = torch.where(better, chosen, assignment)
    return divergence, client, assignment


def _logits(
    u: Tensor, prototypes: Tensor, scale: float, valid: Tensor | None, absent: float = -torch.inf
) -> Tensor:
    logits = (u @ prototypes.T).mul_(scale)
    return logits if valid is None else logits.masked_fill_(~valid, absent)


def _check(
    op: str,
    layout: str,
    x: Tensor,
    y: Tensor,
    prototypes_x: Tensor,
    prototypes_y: Tensor,
    scale: float,
    valid: Tensor | None,
) -> None:
    operands = {"x": x, "y": y, "prototypes_x": prototypes_x, "prototypes_y": prototypes_y}
    for name, operand in operands.items():
        if not isinstance(operand, Tensor):
            raise TypeError(f"{op}: expected {name} to be a tensor, got {type(operand).__name__}")
        if operand.dtype != x.dtype or x.dtype not in (torch.float32, torch.float64):
            raise TypeError(
                f"{op}: expected one dtype, float32 or float64, got {x.dtype} and {name} "
                f"{operand.dtype}"
            )
        if operand.device != x.device or x.device.type not in _IMPLEMENTED:
            raise ValueError(
                f"{op}: expected one CPU or CUDA device, got {x.device} and {name} {operand.device}"
            )
    shape = prototypes_x.shape
    fits = (
        x.ndim == 2
        and x.shape == y.shape
        and len(shape) == layout.count(",") + 1
        and shape == prototypes_y.shape
        and shape[-1] == x.shape[1]
    )
    if not fits or 0 in shape:
        raise ValueError(
            f"{op}: expected x and y [N, D] and both prototypes {layout}, nothing but N zero, got "
            + ", ".join(f"{name} {tuple(operand.shape)}" for name, operand in operands.items())
        )
    if valid is not None:
        if not isinstance(valid, Tensor) or valid.dtype != torch.bool:
            raise TypeError(f"{op}: expected valid to be a tensor of bool, got {_kind(valid)}")
        if valid.shape != shape[:-1] or valid.device != x.device:
            raise ValueError(
                f"{op}: expected valid {tuple(shape[:-1])} on {x.device}, "
                f"got {tuple(valid.shape)} on {valid.device}"
            )
    check_scale(op, scale)


def _kind(value: object) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__


# ---- The operators behind it ----------------------------------------------------------------


def _backend(op: str, x: Tensor) -> str:
    device = x.device.type
    implemented = _IMPLEMENTED[device] if x.dtype == torch.float32 else ("reference",)
    return choose(op, implemented, f"{device} {x.dtype}")


def _contiguous(*operands: Tensor | None) -> list[Tensor | None]:
    return [None if operand is None else operand.contiguous() for operand in operands]


def _assign(
    x: Tensor, y: Tensor, px: Tensor, py: Tensor, scale: float, valid: Tensor | None
) -> tuple[Tensor, Tensor]:
    _check("js_assign", "[K, D]", x, y, px, py, scale, valid)
    chosen = _backend("js_assign", x)
    if chosen == "reference":
        return js_assign_reference(x, y, px, py, scale, valid)
    if chosen == "triton":
        from fedsyn.kernels.js_divergence import triton as kernels

        by_triton: tuple[Tensor, Tensor] = kernels.assign(
            *_contiguous(x, y, px, py), x.new_full((1,), scale), valid
        )
        return by_triton
    found = divergence, assignment = _assign_fake(x, y, px, py, scale, valid)
    operands = _contiguous(x, y, px, py, valid)
    launch("js_assign", chosen, x, *operands, divergence, assignment, len(x), *px.shape, scale)
    return found


def _assign_fake(
    x: Tensor, y: Tensor, px: Tensor, py: Tensor, scale: float, valid: Tensor | None
) -> tuple[Tensor, Tensor]:
    divergence = x.new_empty(x.shape[0])
    return divergence, torch.empty_like(divergence, dtype=torch.long)


def _assign_backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    px: Tensor,
    py: Tensor,
    scale: float,
    valid: Tensor | None,
    to_prototypes: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _check("js_assign", "[K, D]", x, y, px, py, scale, valid)
    if grad.shape != x.shape[:1] or grad.dtype != x.dtype:
        raise ValueError(f"js_assign: expected grad [{len(x)}], got {tuple(grad.shape)}")
    x, y, px, py = (operand.contiguous() for operand in (x, y, px, py))
    return js_assign_backward_reference(grad, x, y, px, py, scale, valid, to_prototypes)


def _assign_backward_fake(
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    px: Tensor,
    py: Tensor,
    scale: float,
    valid: Tensor | None,
    to_prototypes: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    to_px, to_py = (t.new_empty(t.shape if to_prototypes else 0) for t in (px, py))
    return x.new_empty(x.shape), y.new_empty(y.shape), to_px, to_py


def _save(ctx: Any, inputs: Any, output: Any) -> None:
    *operands, ctx.scale, valid = inputs
    ctx.save_for_backward(*operands, valid)


def _gradients(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    *operands, valid = ctx.saved_tensors
    to_prototypes = any(ctx.needs_input_grad[2:4])
    found = _js_assign_backward(grad, *operands, ctx.scale, valid, to_prototypes)
    wanted = zip(found, ctx.needs_input_grad[:4], strict=True)
    return (*(value if needed else None for value, needed in wanted), None, None)


def _filter(
    x: Tensor, y: Tensor, px: Tensor, py: Tensor, scale: float, valid: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    _check("js_filter", "[C, K, D]", x, y, px, py, scale, valid)
    chosen = _backend("js_filter", x)
    if chosen == "reference":
        return js_filter_reference(x, y, px, py, scale, valid)
    if chosen == "triton":
        from fedsyn.kernels.js_divergence import triton as kernels

        by_triton: tuple[Tensor, Tensor, Tensor] = kernels.filter(
            *_contiguous(x, y, px, py), x.new_full((1,), scale), valid
        )
        return by_triton
    found = _filter_fake(x, y, px, py, scale, valid)
    operands = _contiguous(x, y, px, py, valid)
    launch("js_filter", chosen, x, *operands, *found, len(x), *px.shape, scale)
    return found


def _filter_fake(
    x: Tensor, y: Tensor, px: Tensor, py: Tensor, scale: float, valid: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    divergence = x.new_empty(x.shape[0])
    client = torch.empty_like(divergence, dtype=torch.long)
    return divergence, client, torch.empty_like(client)


_OPERANDS = (
    "Tensor x, Tensor y, Tensor prototypes_x, Tensor prototypes_y, float scale, Tensor? valid"
)
_js_assign = register(
    f"js_assign({_OPERANDS}) -> (Tensor, Tensor)",
    *(_assign, _assign_fake, _save, _gradients),
)
_js_assign_backward = register(
    f"js_assign_backward(Tensor grad, {_OPERANDS}, bool to_prototypes)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    *(_assign_backward, _assign_backward_fake),
)
_js_filter = register(
    f"js_filter({_OPERANDS}) -> (Tensor, Tensor, Tensor)", *(_filter, _filter_fake)
)

"""Symmetric InfoNCE between two batches of embeddings, batched over clients.

S = scale · X Yᵀ,  r_i = lse_j S_ij,  c_j = lse_i S_ij,  L = mean_i [ (r_i + c_i) / 2 − S_ii ]
dS_ij = 1/(2B) [ e^(S_ij − r_i) + e^(S_ij − c_j) ] − 1/B [i = j]
dX = scale · dS Y,   dY = scale · dSᵀ X,   dscale = Σ_i ⟨X_i, (dS Y)_i⟩
(van den Oord et al. 2018, arXiv 1807.03748, eq. 4; symmetric as in CLIP, Radford et al. 2021.)

The compiled kernels never hold S: they keep r and c and compute S again, block by block, in the
backward pass.
"""

from typing import Any

import torch
from torch import Tensor

from fedsyn.ops.backends import choose
from fedsyn.ops.checks import check_same_shape, check_scale, check_trailing
from fedsyn.ops.library import launch, register

# Stands for minus infinity: finite, so that a fully masked row gives 0 · finite = 0 and no NaN.
MASKED = -1e30

# Best first.
_IMPLEMENTED = {
    ("cpu", torch.float32): ("cpu", "reference"),
    ("cpu", torch.bfloat16): ("cpu", "reference"),
    ("cuda", torch.float32): ("triton", "reference"),
    ("cuda", torch.bfloat16): ("triton", "reference"),
    ("cuda", torch.float16): ("triton", "reference"),
}


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
        Embeddings, unit rows by convention (not checked); float32, float64, or half precision,
        whose similarities and sums are kept in float32.
    scale : float or Tensor [...]
        Inverse temperature; a tensor may require its gradient.
    valid : Tensor [..., B], optional
        Rows that are neither positives nor negatives where ``False``; ragged batches of stacked
        clients are padded with such rows. A batch with no valid row has loss 0.

    Returns
    -------
    Tensor [...]
        ``log B`` where all similarities are equal. float32 for half precision, else as ``x``.

    Raises
    ------
    TypeError
        If ``x`` and ``y`` are not of one floating dtype, or ``valid`` is not boolean.
    ValueError
        If the shapes or devices differ, D is zero, or ``scale`` is not finite.

    Notes
    -----
    Memory is linear in B for float32 and bfloat16 on a CPU and for Triton on a GPU.
    """
    check_same_shape("info_nce", x, y, dims=2)
    check_scale("info_nce", scale)
    if x.shape[-1] == 0:
        raise ValueError(f"info_nce: expected D > 0, got x {tuple(x.shape)}")
    if valid is not None:
        check_trailing("info_nce", "valid", valid, x.shape[:-1])
        if valid.dtype != torch.bool:
            raise TypeError(f"info_nce: expected a boolean valid, got {valid.dtype}")
        valid = valid.reshape(-1, x.shape[-2])
    batch = x.shape[:-2]
    clients = batch.numel()
    precise = sums_dtype(x.dtype)
    if isinstance(scale, Tensor):
        scales = scale.to(precise).expand(batch).reshape(clients)
    else:
        scales = x.new_full((clients,), scale, dtype=precise)
    if x.ndim == 3:  # the usual case, and every view costs a microsecond
        loss: Tensor = _info_nce(x, y, scales, valid)[0]
        return loss
    flat = (clients, *x.shape[-2:])
    loss = _info_nce(x.reshape(flat), y.reshape(flat), scales, valid)[0]
    return loss.reshape(batch)


def sums_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of similarities, sums and losses of embeddings of ``dtype``."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def info_nce_reference(
    x: Tensor,  # [C, M, D]
    y: Tensor,  # [C, N, D]
    scale: Tensor,  # [C]
    valid: Tensor | None = None,  # [C, M]
) -> tuple[Tensor, Tensor]:  # r [C, M], c [C, N]
    """The log-sum-exps of `info_nce` as their formulas read, in PyTorch."""
    similarity = _similarity(x, y, scale, valid)
    rows, columns = similarity.logsumexp(-1), similarity.logsumexp(-2)
    return (rows, columns) if valid is None else (rows * valid, columns * valid)


def info_nce_backward_reference(
    grad: Tensor,  # [C]
    x: Tensor,  # [C, M, D]
    y: Tensor,  # [C, N, D]
    scale: Tensor,  # [C]
    valid: Tensor | None,  # [C, M]
    rows: Tensor,  # [C, M]
    columns: Tensor,  # [C, N]
    offset: int = 0,  # row i's partner is row i + offset of y
) -> tuple[Tensor, Tensor, Tensor]:  # dX [C, M, D], dY [C, N, D], dscale [C]
    """The gradients of `info_nce` as their formulas read, in PyTorch."""
    similarity = _similarity(x, y, scale, valid)
    both = (similarity - rows[..., None]).exp() + (similarity - columns[:, None, :]).exp()
    derivative = both / 2
    derivative.diagonal(offset, -2, -1).sub_(1)
    if valid is None:
        count: Tensor | int = max(x.shape[1], 1)
    else:
        derivative = derivative * (valid[:, :, None] & valid[:, None, :])
        count = valid.sum(-1).clamp(min=1)
    derivative = derivative * (grad / count)[:, None, None]
    wide_x, wide_y = x.to(both.dtype), y.to(both.dtype)
    to_x, to_y = derivative @ wide_y, derivative.mT @ wide_x
    factor = scale[:, None, None]
    return (factor * to_x).to(x.dtype), (factor * to_y).to(y.dtype), (wide_x * to_x).sum((1, 2))


def _similarity(x: Tensor, y: Tensor, scale: Tensor, valid: Tensor | None) -> Tensor:
    precise = sums_dtype(x.dtype)
    similarity = scale[:, None, None] * (x.to(precise) @ y.to(precise).mT)
    if valid is None:
        return similarity
    return similarity.masked_fill(~(valid[:, :, None] & valid[:, None, :]), MASKED)


# ---- What the plain and the distributed operator are made of ----------------------------------


def log_sum_exps(
    x: Tensor,  # [C, M, D]
    y: Tensor,  # [C, N, D]
    scale: Tensor,  # [C]
) -> tuple[Tensor, Tensor]:  # r [C, M], c [C, N]
    """Log-sum-exps of S over columns and over rows, by the backend in force."""
    return _sums(implementation(x), x, y, scale, None, None)


def _sums(
    chosen: str, x: Tensor, y: Tensor, scale: Tensor, valid: Tensor | None, loss: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`log_sum_exps` by one backend; "cpu" also fills ``loss [C]``, if given."""
    if chosen == "reference":
        return info_nce_reference(x, y, scale, valid)
    if chosen == "triton":
        from fedsyn.kernels.info_nce import triton as kernels

        found: tuple[Tensor, Tensor] = kernels.lse(x, y, scale, valid, valid)
        return found
    (clients, m, width), n = x.shape, y.shape[1]
    rows, columns = scale.new_empty(clients, m), scale.new_empty(clients, n)
    operands = (x.contiguous(), y.contiguous(), scale.contiguous(), _contiguous(valid))
    launch("info_nce", chosen, x, *operands, rows, columns, loss, clients, m, n, width, 0)
    return rows, columns


def gradients(
    grad: Tensor,  # [C]
    x: Tensor,  # [C, M, D]
    y: Tensor,  # [C, N, D]
    scale: Tensor,  # [C]
    valid: Tensor | None,  # [C, M], then M = N
    rows: Tensor,  # [C, M]
    columns: Tensor,  # [C, N]
    offset: int = 0,  # row i's partner is row i + offset of y
) -> tuple[Tensor, Tensor, Tensor]:  # dX [C, M, D], dY [C, N, D], dscale [C]
    """Gradients of a loss that is the mean over x's valid rows, by the backend in force."""
    chosen = implementation(x)
    if chosen == "reference":
        return info_nce_backward_reference(grad, x, y, scale, valid, rows, columns, offset)
    if chosen == "triton":
        from fedsyn.kernels.info_nce import triton as kernels

        found: tuple[Tensor, Tensor, Tensor] = kernels.gradients(
            grad, x, y, scale, valid, valid, rows, columns, offset
        )
        return found
    results = x.new_empty(x.shape), y.new_empty(y.shape), scale.new_empty(scale.shape)
    operands = [operand.contiguous() for operand in (grad, x, y, scale)]
    sums = (rows.contiguous(), columns.contiguous())
    sizes = (*x.shape[:2], *y.shape[1:], offset)
    launch("info_nce_backward", chosen, x, *operands, _contiguous(valid), *sums, *results, *sizes)
    return results


def implementation(x: Tensor, operator: str = "info_nce") -> str:
    """The backend in force for embeddings like ``x``, of ``operator``."""
    implemented = _IMPLEMENTED.get((x.device.type, x.dtype), ("reference",))
    return choose(operator, implemented, x.device.type)


def _contiguous(valid: Tensor | None) -> Tensor | None:
    return None if valid is None else valid.contiguous()


# ---- The operators behind it ----------------------------------------------------------------


def _forward(
    x: Tensor, y: Tensor, scale: Tensor, valid: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    _check_flat(x, y, scale, valid)
    chosen = implementation(x)
    if chosen == "cpu":
        loss = scale.new_empty(scale.shape)
        return loss, *_sums(chosen, x, y, scale, valid, loss)
    rows, columns = _sums(chosen, x, y, scale, valid, None)
    positive = scale[:, None] * (x.to(scale.dtype) * y.to(scale.dtype)).sum(-1)
    losses = (rows + columns) / 2 - positive
    if valid is None:
        return losses.sum(-1) / max(x.shape[1], 1), rows, columns
    return losses.masked_fill(~valid, 0).sum(-1) / valid.sum(-1).clamp(min=1), rows, columns


def _backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    valid: Tensor | None,
    rows: Tensor,
    columns: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    _check_flat(x, y, scale, valid, grad, rows, columns)
    return gradients(grad, x, y, scale, valid, rows, columns)


def _check_flat(x: Tensor, y: Tensor, scale: Tensor, valid: Tensor | None, *sums: Tensor) -> None:
    """Keep direct calls of the operators within their memory; `info_nce` explains better."""
    fits = x.ndim == 3 and x.shape == y.shape and scale.shape == x.shape[:1] and x.shape[2] > 0
    fits = fits and x.dtype == y.dtype and scale.dtype == sums_dtype(x.dtype)
    if valid is not None:
        fits = fits and valid.shape == x.shape[:2] and valid.dtype == torch.bool
    if sums:
        expected = (x.shape[:1], x.shape[:2], x.shape[:2])
        fits = fits and tuple(part.shape for part in sums) == expected
        fits = fits and all(part.dtype == scale.dtype for part in sums)
    if not fits:
        raise ValueError(
            "fedsyn::info_nce: expected x and y [C, B, D] alike, scale [C] and valid [C, B]"
        )


def _forward_fake(
    x: Tensor, y: Tensor, scale: Tensor, valid: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    sums = [scale.new_empty(x.shape[:2]) for _ in range(2)]
    return scale.new_empty(x.shape[0]), sums[0], sums[1]


def _backward_fake(
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    valid: Tensor | None,
    rows: Tensor,
    columns: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), y.new_empty(y.shape), scale.new_empty(scale.shape)


def _save(ctx: Any, inputs: tuple[Tensor | None, ...], output: tuple[Tensor, ...]) -> None:
    x, y, scale, valid = inputs
    _, rows, columns = output
    ctx.save_for_backward(x, y, scale, valid, rows, columns)


def _gradients(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    return (*_info_nce_backward(grad, *ctx.saved_tensors), None)


_info_nce = register(
    "info_nce(Tensor x, Tensor y, Tensor scale, Tensor? valid) -> (Tensor, Tensor, Tensor)",
    *(_forward, _forward_fake, _save, _gradients),
)
_info_nce_backward = register(
    "info_nce_backward(Tensor grad, Tensor x, Tensor y, Tensor scale, Tensor? valid, Tensor rows, "
    "Tensor columns) -> (Tensor, Tensor, Tensor)",
    *(_backward, _backward_fake),
)

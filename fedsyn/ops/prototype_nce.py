"""Contrast of embeddings against prototypes, batched over clients.

S = scale · X Pᵀ,   L = mean_i [ lse_k S_ik − S_{i, target_i} ]
dS = (softmax(S) − onehot(target)) / B,   dX = scale · dS P,   dP = scale · dSᵀ X,
dscale = ⟨dS, X Pᵀ⟩
(the instance–prototype term of prototypical contrastive learning, Li et al. 2021, eq. 11.)

The softmax runs along whole rows, so a block of rows is done with as soon as its S is: the operator
computes the gradients together with the loss, and the backward pass only multiplies them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fedsyn.ops.backends import choose, native
from fedsyn.ops.checks import check_scale
from fedsyn.ops.info_nce import MASKED, sums_dtype
from fedsyn.ops.library import launch, register

# Best first.
_IMPLEMENTED = {
    ("cpu", torch.float32): ("cpu", "reference"),
    ("cpu", torch.float64): ("reference",),
    ("cpu", torch.bfloat16): ("reference",),
    ("cuda", torch.float32): ("cuda", "triton", "reference"),
    ("cuda", torch.float64): ("reference",),
    ("cuda", torch.bfloat16): ("cuda", "triton", "reference"),
}
_DTYPES = (torch.float32, torch.float64, torch.bfloat16)
_PLAIN = torch.contiguous_format
_BLOCK = 1 << 22  # similarities that the reference holds at a time


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
    target: Tensor,  # [..., B] long, the prototype of each row; negative: ignored
    scale: float | Tensor,  # 1 / temperature; a tensor broadcasts against [...]
    valid: Tensor | None = None,  # [..., K] bool: prototypes that exist
) -> Tensor:  # [...]
    """Mean over the rows of the cross-entropy of ``x`` against its target prototype.

    Parameters
    ----------
    x : Tensor [..., B, D]
        Embeddings, unit rows by convention (not checked); float32, float64, or bfloat16, whose
        similarities and sums are kept in float32.
    prototypes : Tensor [..., K, D]
        Each client's own; clients with fewer than ``K`` mark the rest in ``valid``.
    target : Tensor [..., B]
        Index of a prototype. Rows with a negative target, or whose target does not exist, take no
        part in the mean; a batch of none but such rows has loss 0 and gradients 0.
    scale : float or Tensor [...]
        Inverse temperature; a tensor may require its gradient.
    valid : Tensor [..., K], optional
        Prototypes that are in no softmax where ``False``.

    Returns
    -------
    Tensor [...]
        ``log K`` where all similarities are equal. float32 for bfloat16, else as ``x``.

    Raises
    ------
    TypeError
        If ``x`` and ``prototypes`` are not of one dtype out of those above, ``target`` is not
        int64, or ``valid`` is not boolean.
    ValueError
        If shapes or devices do not fit, K or D is zero, a target is not below K, or ``scale`` is
        not finite. Tensors on a GPU are not read back: there a target of K or more takes no part,
        and a scale that is not finite comes out as NaN.

    Notes
    -----
    Memory is linear in B. The gradients can be differentiated again (``create_graph=True``), at the
    cost of the whole matrix S.
    """
    if not (
        isinstance(x, Tensor) and isinstance(prototypes, Tensor) and isinstance(target, Tensor)
    ):
        raise TypeError(
            "prototype_nce: expected tensors x, prototypes and target, got "
            f"{type(x).__name__}, {type(prototypes).__name__} and {type(target).__name__}"
        )
    check_scale("prototype_nce", scale)
    scales = None
    if isinstance(scale, Tensor):
        scales, scale = _scales(scale, x), 1.0
    want_x = want_prototypes = want_scale = False
    if torch.is_grad_enabled():
        want_x, want_prototypes = x.requires_grad, prototypes.requires_grad
        want_scale = scales is not None and scales.requires_grad
    arguments = (x, prototypes, target, scales, scale, valid, want_x, want_prototypes, want_scale)
    loss: Tensor
    if want_x or want_prototypes or want_scale:
        loss = _Differentiable.apply(*arguments)
    else:
        loss = _prototype_nce(*arguments)[0]
    return loss


def _scales(scale: Tensor, x: Tensor) -> Tensor:  # [...]
    try:
        return scale.to(sums_dtype(x.dtype)).expand(x.shape[:-2])
    except RuntimeError:
        raise ValueError(
            f"prototype_nce: expected a scale that broadcasts to {tuple(x.shape[:-2])}, "
            f"got {tuple(scale.shape)}"
        ) from None


class _Differentiable(torch.autograd.Function):
    """The operator returns its gradients; this multiplies them by the upstream gradient.

    A plain Function around the operator and not ``register_autograd``, which takes twice as long.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        loss: Tensor
        loss, to_x, to_prototypes, to_scale = _prototype_nce(*arguments)
        x, prototypes, target, scales, ctx.scale, valid, *ctx.wanted = arguments
        inputs = (x, prototypes, target, scales, valid)
        ctx.save_for_backward(to_x, to_prototypes, to_scale, *inputs)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        to_x, to_prototypes, to_scale, *inputs = ctx.saved_tensors
        want_x, want_prototypes, want_scale = ctx.wanted
        if torch.is_grad_enabled():  # to be differentiated again
            to_x, to_prototypes, to_scale = _differentiable_gradients(ctx.scale, *inputs)
        row = grad[..., None, None] if grad.ndim else grad
        return (
            row * to_x if want_x else None,
            row * to_prototypes if want_prototypes else None,
            None,
            grad * to_scale if want_scale else None,
            *(None,) * 5,
        )


def _differentiable_gradients(
    scale: float,
    x: Tensor,
    prototypes: Tensor,
    target: Tensor,
    scales: Tensor | None,
    valid: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """Gradients to ``x``, ``prototypes`` and ``scales`` that know how they were computed."""
    factor = scale if scales is None else scales
    loss = prototype_nce_reference(x, prototypes, target, factor, valid)
    inputs = (x, prototypes, scales)
    wanted = [t for t in inputs if t is not None and t.requires_grad]
    found = iter(torch.autograd.grad(loss.sum(), wanted, create_graph=True))
    return tuple(next(found) if t is not None and t.requires_grad else None for t in inputs)


def prototype_nce_reference(
    x: Tensor,  # [..., B, D]
    prototypes: Tensor,  # [..., K, D]
    target: Tensor,  # [..., B]
    scale: float | Tensor,  # a tensor: [...]
    valid: Tensor | None = None,  # [..., K]
) -> Tensor:  # [...]
    """`prototype_nce` as its formula reads, in PyTorch."""
    count = prototypes.shape[-2]
    kept, weight = _weights(target, count, valid, sums_dtype(x.dtype))
    x, prototypes = _present(x, kept), _present(prototypes, valid)
    if isinstance(scale, Tensor):
        scale = scale[..., None, None]
    logits = _masked(scale * (x @ prototypes.transpose(-1, -2)), valid)
    positive = logits.gather(-1, target.clamp(0, count - 1)[..., None]).squeeze(-1)
    return ((logits.logsumexp(-1) - positive) * weight).sum(-1)


def loss_and_gradients_reference(
    x: Tensor,  # [..., B, D]
    prototypes: Tensor,  # [..., K, D]
    target: Tensor,  # [..., B]
    scale: float | Tensor,  # a tensor: [...]
    valid: Tensor | None,  # [..., K]
    want_x: bool,
    want_prototypes: bool,
    want_scale: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss and gradients by the formulas above, in PyTorch, a block of rows at a time.

    Returns
    -------
    loss : Tensor [...]
    dX : Tensor [..., B, D]
    dP : Tensor [..., K, D]
    dscale : Tensor [...]
        Gradients of the sum of the losses; those that are not wanted are empty.
    """
    results = _empty(x, prototypes, want_x, want_prototypes, want_scale)
    loss, to_x, to_prototypes, to_scale = results
    sums = [t.new_zeros(t.shape, dtype=loss.dtype) for t in (loss, to_prototypes, to_scale)]
    count = prototypes.shape[-2]
    kept, weight = _weights(target, count, valid, loss.dtype)
    p = _present(prototypes, valid)
    factor = scale[..., None, None] if isinstance(scale, Tensor) else scale
    step = max(1, _BLOCK // max(1, x.shape[:-2].numel() * count))
    for first in range(0, x.shape[-2], step):
        rows = slice(first, first + step)
        u = _present(x[..., rows, :], kept[..., rows])
        index = target[..., rows, None].clamp(0, count - 1)
        similarity = u @ p.transpose(-1, -2)
        logits = _masked(factor * similarity, valid)
        lse = logits.logsumexp(-1, keepdim=True)
        share = weight[..., rows, None]
        sums[0] += ((lse - logits.gather(-1, index)) * share).sum((-1, -2))
        if not (want_x or want_prototypes or want_scale):
            continue
        slope = (logits - lse).exp() * share
        slope.scatter_add_(-1, index, -share)
        if want_x:
            to_x[..., rows, :] = factor * (slope @ p)
        if want_prototypes:
            sums[1] += factor * (slope.transpose(-1, -2) @ u)
        if want_scale:
            sums[2] += (slope * similarity).sum((-1, -2))
    for result, value in zip((loss, to_prototypes, to_scale), sums, strict=True):
        result.copy_(value)
    return results


def _weights(
    target: Tensor, count: int, valid: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Which rows take part ``[..., B]``, and the share of each in the mean."""
    kept = (target >= 0) & (target < count)
    if valid is not None:
        kept = kept & valid.gather(-1, target.clamp(0, count - 1))
    return kept, kept.to(dtype) / kept.sum(-1, keepdim=True).clamp(min=1)


def _present(rows: Tensor, exists: Tensor | None) -> Tensor:
    """Rows in the dtype of the sums; what is left out may hold anything, and 0 · NaN is NaN."""
    rows = rows.to(sums_dtype(rows.dtype))
    return rows if exists is None else rows.masked_fill(~exists[..., None], 0)


def _masked(logits: Tensor, valid: Tensor | None) -> Tensor:
    return logits if valid is None else logits.masked_fill(~valid[..., None, :], MASKED)


# ---- The operator behind it -----------------------------------------------------------------


def _forward(
    x: Tensor,
    prototypes: Tensor,
    target: Tensor,
    scales: Tensor | None,
    scale: float,
    valid: Tensor | None,
    *wanted: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _check(x, prototypes, target, scales, valid)
    device = x.device.type
    chosen = choose("prototype_nce", _IMPLEMENTED[device, x.dtype], f"{device} {x.dtype}")
    if chosen == "reference":
        _check_values(target, scales, prototypes.shape[-2])
        return loss_and_gradients_reference(
            x, prototypes, target, scale if scales is None else scales, valid, *wanted
        )
    if chosen == "triton":
        return _by_triton(x, prototypes, target, scales, scale, valid, *wanted)
    x, prototypes, target = x.contiguous(), prototypes.contiguous(), target.contiguous()
    scales = None if scales is None else scales.contiguous()
    valid = None if valid is None else valid.contiguous()
    loss, to_x, to_prototypes, to_scale = results = _empty(x, prototypes, *wanted)
    sizes = (loss.numel(), x.shape[-2], *prototypes.shape[-2:])
    workspace: tuple[Tensor, ...] = ()
    if chosen == "cuda":
        size = _workspace(*sizes)
        workspace = (torch.empty(size, dtype=torch.uint8, device=x.device),)
    # An empty tensor has address 0, which is how the kernel hears that it is not wanted.
    launch(
        *("prototype_nce", chosen, x, x, prototypes, target, scales, scale, valid),
        *(loss, to_x, to_prototypes, to_scale, *workspace, *sizes),
    )
    return results


def _by_triton(
    x: Tensor,
    prototypes: Tensor,
    target: Tensor,
    scales: Tensor | None,
    scale: float,
    valid: Tensor | None,
    *wanted: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from fedsyn.kernels.prototype_nce import triton as kernels

    lead, (count, width) = x.shape[:-2], prototypes.shape[-2:]
    clients = lead.numel()
    kept, _ = _weights(target, count, valid, torch.float32)
    if scales is None:
        scales = torch.full(lead, scale, device=x.device)
    loss, to_x, to_prototypes, to_scale = kernels.loss_and_gradients(
        x.reshape(clients, -1, width),
        prototypes.reshape(clients, count, width),
        target.masked_fill(~kept, -1).reshape(clients, -1),
        scales.reshape(clients),
        None if valid is None else valid.reshape(clients, count),
        *wanted[:2],
    )
    nothing = x.new_empty(0)
    return (
        loss.reshape(lead),
        nothing if to_x is None else to_x.reshape(x.shape),
        nothing.clone() if to_prototypes is None else to_prototypes.reshape(prototypes.shape),
        to_scale.reshape(lead) if wanted[2] else loss.new_empty(0),
    )


def _workspace(*sizes: int) -> int:
    measure: Callable[..., int] = getattr(native(), "prototype_nce_cuda_workspace")  # noqa: B009
    return max(measure(*sizes), 1)


def _empty(
    x: Tensor, prototypes: Tensor, want_x: bool, want_prototypes: bool, want_scale: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Room for the results; nothing for those that are not wanted."""
    loss = x.new_empty(x.shape[:-2], dtype=sums_dtype(x.dtype))
    return (
        loss,
        torch.empty_like(x, memory_format=_PLAIN) if want_x else x.new_empty(0),
        torch.empty_like(prototypes, memory_format=_PLAIN) if want_prototypes else x.new_empty(0),
        torch.empty_like(loss) if want_scale else loss.new_empty(0),
    )


def _forward_fake(
    x: Tensor,
    prototypes: Tensor,
    target: Tensor,
    scales: Tensor | None,
    scale: float,
    valid: Tensor | None,
    *wanted: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _check(x, prototypes, target, scales, valid)
    return _empty(x, prototypes, *wanted)


def _check(
    x: Tensor, prototypes: Tensor, target: Tensor, scales: Tensor | None, valid: Tensor | None
) -> None:
    shape, count = x.shape, prototypes.shape
    if x.dtype != prototypes.dtype or x.dtype not in _DTYPES:
        raise TypeError(
            "prototype_nce: expected x and prototypes of one dtype, float32, float64 or bfloat16, "
            f"got {x.dtype} and {prototypes.dtype}"
        )
    if target.dtype != torch.int64 or (valid is not None and valid.dtype != torch.bool):
        raise TypeError(
            "prototype_nce: expected an int64 target and a boolean valid, "
            f"got {target.dtype} and {None if valid is None else valid.dtype}"
        )
    if not len(shape) == len(count) >= 2 or shape[:-2] != count[:-2] or shape[-1] != count[-1]:
        raise ValueError(
            "prototype_nce: expected x [..., B, D] and prototypes [..., K, D], "
            f"got {tuple(shape)} and {tuple(count)}"
        )
    if count[-1] == 0 or count[-2] == 0:
        raise ValueError(f"prototype_nce: expected K > 0 and D > 0, got prototypes {tuple(count)}")
    if target.shape != shape[:-1] or (valid is not None and valid.shape != count[:-1]):
        raise ValueError(
            f"prototype_nce: expected target {tuple(shape[:-1])} and valid {tuple(count[:-1])}, "
            f"got {tuple(target.shape)} and {None if valid is None else tuple(valid.shape)}"
        )
    if scales is not None and (scales.shape != shape[:-2] or scales.dtype != sums_dtype(x.dtype)):
        raise ValueError(
            f"prototype_nce: expected scales {tuple(shape[:-2])} of {sums_dtype(x.dtype)}, "
            f"got {tuple(scales.shape)} of {scales.dtype}"
        )
    for tensor in (prototypes, target, scales, valid):
        if tensor is not None and tensor.device != x.device:
            raise ValueError(
                f"prototype_nce: expected one device, got {x.device} and {tensor.device}"
            )


def _check_values(target: Tensor, scales: Tensor | None, count: int) -> None:
    """What only a look at the values tells; the compiled CPU kernel looks for itself."""
    if target.device.type != "cpu":
        return
    if target.numel() and (most := int(target.max())) >= count:
        raise ValueError(
            f"prototype_nce: expected targets below the number of prototypes, {count}, got {most}"
        )
    if scales is not None and not bool(scales.isfinite().all()):
        raise ValueError(f"prototype_nce: expected finite scales, got {scales.tolist()}")


_prototype_nce = register(
    "prototype_nce(Tensor x, Tensor prototypes, Tensor target, Tensor? scales, float scale, "
    "Tensor? valid, bool want_x, bool want_prototypes, bool want_scale) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    *(_forward, _forward_fake),
)

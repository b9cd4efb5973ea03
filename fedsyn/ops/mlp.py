"""Multilayer perceptrons of all clients in one call, several beside each other.

A_0 = x,  A_l = D_l (A_{l−1} W_l + b_l),  D_l ∈ {1, slope},  u = A_{L−1} W_L + b_L,  y = head(u)
G_L = du,  dW_l = A_{l−1}ᵀ G_l,  db_l = Σ G_l,  G_{l−1} = D_{l−1} (G_l W_lᵀ),  dx = G_1 W_1ᵀ

With a linear term u = A_{L−1} W_L + b_L + x A, dA = xᵀ G_L and dx = G_1 W_1ᵀ + G_L Aᵀ; the kernel
adds x A to the sums of the last product before the bias and the head.

head(u) is u, or t / max(‖t‖₂, 10⁻¹²) of t = u or tanh(u). The compiled kernel keeps A_l and ‖t‖ for
its backward pass, from whose signs D_l can be read, and writes the gradient of all parameters where
it belongs in one row a client.
"""

import functools
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu, normalize

from fedsyn.ops.backends import choose
from fedsyn.ops.checks import check_number
from fedsyn.ops.library import below_autograd, launch, register, register_autograd_kernel

HEADS = ("linear", "unit", "tanh_unit")

# Best first.
_IMPLEMENTED = {("cpu", torch.float32): ("cpu", "reference")}


def mlp(
    x: Tensor,  # [C, B, sum of first widths]
    params: Tensor,  # [C, P], one row of parameters a client
    towers: Sequence[Sequence[int]],  # widths of each
    slope: float = 0.0,  # of LeakyReLU for negative inputs
    head: str = "linear",
    skip: bool = False,  # u = x A + MLP(x)
) -> Tensor:  # [C, B, sum of last widths]
    """Apply every client's perceptrons to its batch, each tower to its own columns.

    Parameters
    ----------
    x : Tensor [C, B, in]
        Rows that have the inputs of the first tower, of the second, and so on, side by side.
    params : Tensor [C, P]
        Tower by tower, in each layer by layer, the weight [in, out] and the bias [out]: the order
        of `fedsyn.models.layout.Layout` for the shapes of `fedsyn.models.mlp.MLP`. With ``skip``
        each tower has A [first width, last width] behind its layers. Rows may lie any distance
        apart, as those of a wider matrix or of one ``expand``-ed model do.
    towers : sequence of sequences of int
        From input to output, e.g. ``((512, 256, 64), (300, 256, 64))``.
    slope : float
        Of the LeakyReLUs between layers (none after the last); not negative, 0 is the ReLU.
    head : {"linear", "unit", "tanh_unit"}
        What becomes of each tower's output row u: nothing, u / max(‖u‖₂, 10⁻¹²), or the same of
        tanh(u).
    skip : bool
        Whether a linear term x A, without a bias of its own, is added to each tower's output row u
        before the head.

    Returns
    -------
    Tensor [C, B, out]
        The towers' outputs side by side. A row depends, bit for bit, on nothing but the row and its
        client's parameters.

    Raises
    ------
    TypeError
        If ``x`` and ``params`` are not tensors of one floating dtype, ``towers`` does not hold
        sequences of integers, ``slope`` is not a number, or ``skip`` not a truth value.
    ValueError
        If shapes or devices do not fit, a tower has fewer than two widths or one below 1, ``slope``
        is negative or not finite, or ``head`` is unknown.

    Notes
    -----
    Differentiable once in ``x`` and ``params``; further where PyTorch takes the kernel's place (all
    but float32 on a CPU). The gradient of ``params`` is one contiguous matrix.
    """
    for name, value in (("x", x), ("params", params)):
        if not isinstance(value, Tensor):
            raise TypeError(f"mlp: expected {name} a tensor, got {type(value).__name__}")
    widths: list[int] = []
    lengths: list[int] = []
    for tower in towers if isinstance(towers, tuple | list) else [towers]:
        if not isinstance(tower, tuple | list):
            raise TypeError(f"mlp: expected towers to be tuples of widths, got {towers!r}")
        widths += tower
        lengths.append(len(tower))
    for width in widths:
        if not isinstance(width, int):
            raise TypeError(f"mlp: expected integers as widths, got {towers!r}")
    check_number("mlp", "slope", slope)
    if not isinstance(skip, bool):
        raise TypeError(f"mlp: expected skip True or False, got {skip!r}")
    output: Tensor = _mlp(x, params, widths, lengths, slope, head, skip)
    return output


def mlp_reference(
    x: Tensor,  # [C, B, sum of first widths]
    params: Tensor,  # [C, P]
    towers: Sequence[Sequence[int]],
    slope: float,
    head: str,
    skip: bool = False,
) -> Tensor:  # [C, B, sum of last widths]
    """`mlp` as its formula reads, in PyTorch."""
    sizes = []
    for tower in towers:
        sizes += [size for a, b in pairwise(tower) for size in (a * b, b)]
        sizes += [tower[0] * tower[-1]] if skip else []
    parts = iter(params.split(sizes, -1))
    outputs = []
    for own, tower in zip(x.split([tower[0] for tower in towers], -1), towers, strict=True):
        a = own
        for layer, shape in enumerate(pairwise(tower)):
            if layer > 0:
                a = leaky_relu(a, slope) if slope else torch.relu(a)
            weight, bias = next(parts).unflatten(-1, shape), next(parts)[:, None]
            a = torch.baddbmm(bias, a, weight)
        if skip:
            a = torch.baddbmm(a, own, next(parts).unflatten(-1, (tower[0], tower[-1])))
        if head == "tanh_unit":
            a = torch.tanh(a)
        outputs.append(a if head == "linear" else normalize(a, dim=-1))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)


# ---- The operators behind it ----------------------------------------------------------------


class Towers(NamedTuple):
    """The towers, and how wide their input and output are."""

    towers: list[tuple[int, ...]]
    ins: int  # columns of x
    outs: int  # of the output
    params: int  # of one client
    hidden: int  # values


@functools.lru_cache(maxsize=256)
def towers_of(widths: tuple[int, ...], lengths: tuple[int, ...], skip: bool = False) -> Towers:
    """The towers of widths that lie one tower's behind the other's; `ValueError` if they do not.

    ``skip``: each has a linear term.
    """
    if not lengths or sum(lengths) != len(widths):
        raise ValueError(f"mlp: expected one tower or more, got widths {widths} of {lengths}")
    towers = [
        widths[end - length : end] for end, length in zip(accumulate(lengths), lengths, strict=True)
    ]
    for tower in towers:
        if len(tower) < 2 or min(tower) < 1:
            raise ValueError(f"mlp: expected towers of two or more widths >= 1, got {tower}")
    layers = sum((a + 1) * b for tower in towers for a, b in pairwise(tower))
    return Towers(
        towers,
        sum(tower[0] for tower in towers),
        sum(tower[-1] for tower in towers),
        layers + (sum(tower[0] * tower[-1] for tower in towers) if skip else 0),
        sum(width for tower in towers for width in tower[1:-1]),
    )


def _check(
    x: Tensor,
    params: Tensor,
    widths: list[int],
    lengths: list[int],
    slope: float,
    head: str,
    skip: bool,
) -> Towers:
    """Refuse operands that do not fit."""
    if x.dtype != params.dtype or not x.is_floating_point():
        raise TypeError(
            f"mlp: expected one floating dtype, got x {x.dtype} and params {params.dtype}"
        )
    if x.device != params.device:
        raise ValueError(
            f"mlp: expected one device, got x on {x.device} and params on {params.device}"
        )
    plan = towers_of(tuple(widths), tuple(lengths), skip)
    shape = x.shape
    if len(shape) != 3 or shape[2] != plan.ins:
        raise ValueError(f"mlp: expected x [C, B, {plan.ins}], got {tuple(shape)}")
    if params.shape != (shape[0], plan.params):
        raise ValueError(
            f"mlp: expected params ({shape[0]}, {plan.params}), got {tuple(params.shape)}"
        )
    if slope < 0:
        raise ValueError(f"mlp: expected slope >= 0, got {slope}")
    if head not in HEADS:
        raise ValueError(f"mlp: expected head one of {', '.join(HEADS)}, got {head!r}")
    return plan


@functools.cache
def _implemented(device: str, dtype: torch.dtype) -> tuple[tuple[str, ...], str]:
    """What there is, and its name for messages."""
    return _IMPLEMENTED.get((device, dtype), ("reference",)), f"{device} {dtype}"


def _backend(x: Tensor) -> str:
    return choose("mlp", *_implemented(x.device.type, x.dtype))


def _apply(
    x: Tensor,
    params: Tensor,
    widths: list[int],
    lengths: list[int],
    slope: float,
    head: str,
    skip: bool,
) -> Tensor:
    plan = _check(x, params, widths, lengths, slope, head, skip)
    chosen = _backend(x)
    if chosen == "reference":
        return mlp_reference(x, params, plan.towers, slope, head, skip)
    clients, rows, _ = x.shape
    out = x.new_empty((clients, rows, plan.outs))
    params = _rows(params)
    sizes = (widths, lengths, clients, rows, params.stride(0))
    launch("mlp", chosen, x, x.contiguous(), params, out, None, *sizes, slope, head, skip)
    return out


def _apply_fake(
    x: Tensor,
    params: Tensor,
    widths: list[int],
    lengths: list[int],
    slope: float,
    head: str,
    skip: bool,
) -> Tensor:
    plan = _check(x, params, widths, lengths, slope, head, skip)
    return x.new_empty((x.shape[0], x.shape[1], plan.outs))


def _forward(
    x: Tensor,
    params: Tensor,
    widths: list[int],
    lengths: list[int],
    slope: float,
    head: str,
    skip: bool,
) -> tuple[Tensor, Tensor]:
    out, kept = _forward_fake(x, params, widths, lengths, slope, head, skip)
    params = _rows(params)
    sizes = (widths, lengths, x.shape[0], x.shape[1], params.stride(0))
    launch("mlp", "cpu", x, x.contiguous(), params, out, kept, *sizes, slope, head, skip)
    return out, kept


def _forward_fake(
    x: Tensor,
    params: Tensor,
    widths: list[int],
    lengths: list[int],
    slope: float,
    head: str,
    skip: bool,
) -> tuple[Tensor, Tensor]:
    plan = _check(x, params, widths, lengths, slope, head, skip)
    _check_compiled(x)
    clients, rows, _ = x.shape
    out = x.new_empty((clients, rows, plan.outs))
    return out, x.new_empty((clients, rows * _kept(plan, head)))


def _kept(plan: Towers, head: str) -> int:
    """Floats kept of each row: the hidden activations, and the norms that a head divides by."""
    return plan.hidden + (0 if head == "linear" else len(plan.towers))


def _backward(
    grad: Tensor,
    x: Tensor,
    params: Tensor,
    out: Tensor | None,
    kept: Tensor,
    widths: list[int],
    lengths: list[int],
    slope: float,
    head: str,
    skip: bool,
    to_x: bool,
    to_params: bool,
) -> tuple[Tensor, Tensor]:
    network = (widths, lengths, slope, head, skip)
    found = _backward_fake(grad, x, params, out, kept, *network, to_x, to_params)
    operands = (grad.contiguous(), x.contiguous(), _rows(params), out, kept)
    results = (found[0] if to_x else None, found[1] if to_params else None)
    sizes = (widths, lengths, x.shape[0], x.shape[1], operands[2].stride(0))
    launch("mlp_backward", "cpu", x, *operands, *results, *sizes, slope, head, skip)
    return found


def _backward_fake(
    grad: Tensor,
    x: Tensor,
    params: Tensor,
    out: Tensor | None,
    kept: Tensor,
    widths: list[int],
    lengths: list[int],
    slope: float,
    head: str,
    skip: bool,
    to_x: bool,
    to_params: bool,
) -> tuple[Tensor, Tensor]:
    plan = _check(x, params, widths, lengths, slope, head, skip)
    _check_compiled(x)
    clients, rows, _ = x.shape
    like_out, like_kept = (clients, rows, plan.outs), (clients, rows * _kept(plan, head))
    shapes = [(grad, like_out), (kept, like_kept)]
    if head != "linear":
        shapes.append((x if out is None else out, like_out))
    for value, shape in shapes:
        if value.shape != shape or value.dtype != x.dtype or value.device != x.device:
            raise ValueError("fedsyn::mlp_backward: expected what fedsyn::mlp_forward gave for x")
    return (
        x.new_empty(x.shape if to_x else (0,)),
        params.new_empty(params.shape if to_params else (0,)),
    )


def _check_compiled(x: Tensor) -> None:
    if x.device.type != "cpu" or x.dtype != torch.float32:
        raise ValueError(
            "fedsyn::mlp_forward, fedsyn::mlp_backward: expected float32 on a CPU, "
            f"got {x.dtype} on {x.device}"
        )


def _rows(params: Tensor) -> Tensor:
    """``params`` with the columns of each row side by side."""
    return params if params.stride(1) == 1 else params.contiguous()


class _Differentiable(torch.autograd.Function):
    """The compiled operator with its first derivatives."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, params: Tensor, *network: Any) -> Any:
        out, kept = below_autograd(_mlp_forward, x, params, *network)
        linear = network[3] == "linear"
        ctx.save_for_backward(x, params, None if linear else out, kept)
        ctx.network = network
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, params, out, kept = ctx.saved_tensors
        to_x, to_params = ctx.needs_input_grad[:2]
        saved = (grad, x, params, out, kept)
        found = below_autograd(_mlp_backward, *saved, *ctx.network, to_x, to_params)
        if torch.is_grad_enabled():
            found = [_Constant.apply(value, grad, x, params) for value in found]
        return (
            found[0] if to_x else None,
            found[1] if to_params else None,
            *[None] * len(ctx.network),
        )


class _Constant(torch.autograd.Function):
    """A gradient that depends on tensors in a way that is not written down."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, *of: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> None:
        raise NotImplementedError("mlp: no second derivatives")


def _autograd(x: Tensor, params: Tensor, *network: Any) -> Any:
    if torch.is_grad_enabled() and (x.requires_grad or params.requires_grad):
        if _backend(x) == "cpu":
            return _Differentiable.apply(x, params, *network)
        _, _, slope, head, skip = network
        plan = _check(x, params, *network)
        return mlp_reference(x, params, plan.towers, slope, head, skip)
    return below_autograd(_mlp, x, params, *network)


_NETWORK = "Tensor x, Tensor params, int[] widths, int[] lengths, float slope, str head, bool skip"
_mlp = register(f"mlp({_NETWORK}) -> Tensor", _apply, _apply_fake)
register_autograd_kernel("mlp", _autograd)
_mlp_forward = register(f"mlp_forward({_NETWORK}) -> (Tensor, Tensor)", _forward, _forward_fake)
_mlp_backward = register(
    "mlp_backward(Tensor grad, Tensor x, Tensor params, Tensor? out, Tensor kept, int[] widths, "
    "int[] lengths, float slope, str head, bool skip, bool to_x, bool to_params) "
    "-> (Tensor, Tensor)",
    *(_backward, _backward_fake),
)

"""The loss of a WGAN-GP critic and its exact gradient, without double backward.

    L = E f(fake) − E f(real) + λ E (‖∇f(between)‖₂ − 1)²

A critic of linear layers and LeakyReLUs, A_l = D_l (A_{l−1} W_l + b_l), D_l ∈ {1, slope}, is
piecewise linear in its input. With e = −1/B at real rows, 1/B at fake ones and 1 between them,

    G_L = e,  G_l = D_l (G_{l+1} W_{l+1}ᵀ),  g = G_1 W_1ᵀ       derivatives of e · f
    n = ‖g‖₂,  U = λ (2/B) (1 − 1/n) g                          the penalty's gradient to g
    R_0 = U,  R_l = D_l (R_{l−1} W_l)                           carried to the layers
    dW_l = [A_{l−1} of real and fake; R_{l−1} of between]ᵀ G_l,  db_l = Σ G_l of real and fake

is the gradient to the weights and biases almost everywhere, in about as many products as backward
passes of the three terms have, one a layer for the weights of all three. (Gulrajani et al. 2017,
arXiv 1704.00028, eq. 3.)
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedsyn.ops.backends import choose
from fedsyn.ops.checks import check_number
from fedsyn.ops.library import below_autograd, launch, register, register_autograd_kernel

# Best first.
_IMPLEMENTED = {("cpu", torch.float32): ("cpu", "reference")}
_SHORTEST = 1e-12  # of gradients: a flat critic has penalty 1 and a finite derivative


class CriticStep(NamedTuple):
    """What a step of a critic's training needs and reports."""

    loss: Tensor  # [...]
    penalty: Tensor  # [...], the mean (‖∇f‖₂ − 1)² within it, 0 without rows between
    gradient: Tensor  # [..., P], of the loss: w_1, b_1, w_2, b_2, … in one row


def critic_step(
    real: Tensor,  # [..., B, D]
    fake: Tensor,  # [..., B, D]
    between: Tensor | None,  # [..., B, D], where the penalty is taken
    weights: Sequence[Tensor],  # of [..., in, out], last out = 1
    biases: Sequence[Tensor],  # of [..., 1, out]
    slope: float,  # of LeakyReLU for negative inputs
    penalty_weight: float,
) -> CriticStep:
    """Loss, penalty and flat gradient of a critic in one pass over all three batches.

    For training loops that hand the gradient to their optimiser themselves; `critic_loss` is the
    same for autograd.

    Parameters
    ----------
    real, fake, between : Tensor [..., B, D]
        Real rows, generated rows, and points between them. ``None`` for ``between`` leaves the
        penalty out, as in the clipped WGAN.
    weights, biases : sequences of Tensor
        The critic's layers from input to output, with LeakyReLUs between them. Clients may lie any
        distance apart in memory, as the views of one flat row do.
    slope : float
        Not negative; 0 is the ReLU.
    penalty_weight : float
        λ, 10 in the paper.

    Returns
    -------
    CriticStep
        The gradient has the layers' parameters in the order of `fedsyn.models.layout.Layout`.

    Raises
    ------
    TypeError
        If an argument is not a tensor, or the tensors are not of one floating dtype.
    ValueError
        If a batch is empty, shapes or devices differ, the layers do not chain or end in one
        output, or ``slope`` or ``penalty_weight`` is not finite.

    References
    ----------
    Gulrajani et al. 2017, "Improved Training of Wasserstein GANs", arXiv 1704.00028, eq. 3.
    """
    check("critic_step", {"real": real, "fake": fake}, between, weights, biases, slope)
    check_number("critic_step", "penalty_weight", penalty_weight)
    operands = (list(weights), list(biases), slope, penalty_weight)
    with torch.no_grad():
        return CriticStep(*critic_operator(real, fake, between, *operands, True))


def critic_loss(
    real: Tensor,  # [..., B, D]
    fake: Tensor,  # [..., B, D]
    between: Tensor | None,  # [..., B, D], where the penalty is taken
    weights: Sequence[Tensor],  # of [..., in, out], last out = 1
    biases: Sequence[Tensor],  # of [..., 1, out]
    slope: float,  # of LeakyReLU for negative inputs
    penalty_weight: float,
) -> Tensor:  # [...]
    """E f(fake) − E f(real) + λ E (‖∇f(between)‖₂ − 1)², for autograd to weights and biases.

    Arguments and errors are those of `critic_step`. The batches are constants: ``real`` and
    ``fake`` that require a gradient are refused with a ``ValueError``, and none flows to
    ``between`` (it is zero almost everywhere). The gradient is computed with the loss if a weight
    or bias requires it, and has no derivative itself.
    """
    scored = {"real": real, "fake": fake}
    check("critic_loss", scored, between, weights, biases, slope)
    check_number("critic_loss", "penalty_weight", penalty_weight)
    wanted = torch.is_grad_enabled() and any(p.requires_grad for p in (*weights, *biases))
    for name, rows in scored.items():
        if torch.is_grad_enabled() and rows.requires_grad:
            raise ValueError(f"critic_loss: expected constant rows, got {name} with a gradient")
    constant = None if between is None else between.detach()
    operands = (list(weights), list(biases), slope, penalty_weight)
    loss: Tensor = critic_operator(real, fake, constant, *operands, wanted)[0]
    return loss


def critic_step_reference(
    real: Tensor | None,  # [..., B, D], with fake or neither
    fake: Tensor | None,  # [..., B, D]
    between: Tensor | None,  # [..., B, D]
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    slope: float,
    penalty_weight: float,
    gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # loss [...], penalty [...], gradient [..., P or 0]
    """`critic_step` as its formula reads, in PyTorch; of the penalty alone without real rows."""
    parts = [rows for rows in (real, fake, between) if rows is not None]
    *batch_axes, batch, _ = parts[0].shape
    scored = 0 if real is None else 2 * batch
    kept, masks = [torch.cat(parts, -2)], []  # A_l, D_l
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        hidden = kept[-1] @ weight + bias
        masks.append(_derivative(hidden, slope))
        kept.append(hidden * masks[-1])
    loss = penalty = parts[0].new_zeros(batch_axes)
    if scored:
        score = (kept[-1][..., :scored, :] @ weights[-1] + biases[-1]).squeeze(-1)
        loss = score[..., batch:].mean(-1) - score[..., :batch].mean(-1)

    ones = parts[0].new_ones(batch, 1)
    shares = [-ones / batch, ones / batch] if scored else []
    outer = [torch.cat([*shares, ones] if between is not None else shares)]  # G_l, last first
    for weight, mask in zip(reversed(weights[1:]), reversed(masks), strict=True):
        outer.append(mask * (outer[-1] @ weight.mT))
    outer.reverse()
    adjoint = parts[0][..., :0, :]  # R_l
    if between is not None:
        penalty, adjoint = penalize(outer[0][..., scored:, :] @ weights[0].mT)
        adjoint = penalty_weight * adjoint
        loss = loss + penalty_weight * penalty
    if not gradient:
        return loss, penalty, loss.new_empty(*batch_axes, 0)

    found = []
    for layer, (weight, factor) in enumerate(zip(weights, outer, strict=True)):
        left = torch.cat([kept[layer][..., :scored, :], adjoint], -2)
        found.append((left.mT @ factor).flatten(-2))
        if layer < len(masks):
            adjoint = masks[layer][..., scored:, :] * (adjoint @ weight)
            to_bias = factor[..., :scored, :].sum(-2)
        else:  # the last bias cancels between real and fake: no rounding is left of it
            to_bias = loss.new_zeros(*batch_axes, 1)
        if scored:
            found.append(to_bias)
    return loss, penalty, torch.cat(found, -1)


def penalize(
    gradient: Tensor,  # [..., B, D], of the critic at each row
) -> tuple[Tensor, Tensor]:  # [...], [..., B, D]
    """The penalty P = mean (n − 1)², n = ‖g‖₂, and its derivative (2/B) (1 − 1/n) g."""
    precise = torch.promote_types(gradient.dtype, torch.float32)
    norm = torch.linalg.vector_norm(gradient, dim=-1, keepdim=True, dtype=precise)
    norm = norm.clamp(min=_SHORTEST)
    penalty = (norm - 1).square().mean((-2, -1))
    factor = 2 / gradient.shape[-2] * (1 - 1 / norm)
    return penalty.to(gradient.dtype), factor.to(gradient.dtype) * gradient


def _derivative(hidden: Tensor, slope: float) -> Tensor:
    """1 or ``slope``; not a number where ``hidden`` is not, so that its penalty shows it."""
    # (Two Python floats in torch.where would round the slope to float32.)
    mask = torch.where(hidden > 0, hidden.new_ones(()), slope)
    return torch.where(hidden.isnan(), hidden, mask)


# ---- Checks ---------------------------------------------------------------------------------


def check(
    op: str,
    scored: Mapping[str, Tensor],  # the rows whose scores count, by name
    between: Tensor | None,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    slope: float,
    name: str = "between",
) -> None:
    """Refuse what is not a critic and batches that fit it; ``name`` is that of ``between``."""
    rows = scored if between is None else {**scored, name: between}
    values = [*rows.values(), *weights, *biases]

    def argument(index: int) -> str:
        layers = [f"{kind}[{i}]" for kind in ("weights", "biases") for i in range(len(weights))]
        return [*rows, *layers][index]

    if not weights or len(weights) != len(biases):
        raise ValueError(
            f"{op}: expected as many weights as biases and at least one, "
            f"got {len(weights)} and {len(biases)}"
        )
    for i, value in enumerate(values):
        if not isinstance(value, Tensor):
            raise TypeError(f"{op}: expected {argument(i)} a tensor, got {type(value).__name__}")
    x = values[0]
    dtype, device, axes = x.dtype, x.device, x.shape[:-2]
    for i, value in enumerate(values):
        if value.dtype != dtype or not dtype.is_floating_point:
            raise TypeError(
                f"{op}: expected one floating dtype, got {argument(0)} {dtype} "
                f"and {argument(i)} {value.dtype}"
            )
        if value.device != device:
            raise ValueError(
                f"{op}: expected one device, got {argument(0)} on {device} "
                f"and {argument(i)} on {value.device}"
            )
    if x.ndim < 2 or 0 in x.shape[-2:]:
        raise ValueError(
            f"{op}: expected {argument(0)} [..., B, D] with B, D > 0, got {tuple(x.shape)}"
        )
    outs = [weight.shape[-1] if weight.ndim else 0 for weight in weights[:-1]] + [1]
    shapes: list[tuple[int, ...]] = [x.shape for _ in rows]
    shapes += [(*axes, *pair) for pair in zip([x.shape[-1], *outs], outs, strict=False)]
    shapes += [(*axes, 1, out) for out in outs]
    for i, (value, shape) in enumerate(zip(values, shapes, strict=True)):
        if value.shape != shape or 0 in shape[-2:]:
            raise ValueError(
                f"{op}: expected {argument(i)} {tuple(shape)}, got {tuple(value.shape)}"
            )
    check_number(op, "slope", slope)
    if slope < 0:
        raise ValueError(f"{op}: expected slope >= 0, got {slope}")


# ---- The operator behind it, of `gradient_penalty` too -------------------------------------------


def _forward(
    real: Tensor | None,
    fake: Tensor | None,
    between: Tensor | None,
    weights: list[Tensor],
    biases: list[Tensor],
    slope: float,
    penalty_weight: float,
    gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    outputs = _fake(real, fake, between, weights, biases, slope, penalty_weight, gradient)
    like = weights[0]
    device = like.device.type
    implemented = _IMPLEMENTED.get((device, like.dtype), ("reference",))
    chosen = choose("critic_step", implemented, f"{device} {like.dtype}")
    if chosen == "reference":
        return critic_step_reference(
            *(real, fake, between, weights, biases, slope, penalty_weight, gradient)
        )
    loss, penalty, flat = outputs
    if loss.numel() == 0:
        return outputs
    batches = [None if rows is None else rows.contiguous() for rows in (real, fake, between)]
    rows = next(batch for batch in batches if batch is not None)
    clients, batch = loss.numel(), rows.shape[-2]
    weights, biases = _clients(weights, clients), _clients(biases, clients)
    widths = [rows.shape[-1], *(weight.shape[-1] for weight in weights)]
    layers = (*_places(weights), *_places(biases), widths)
    sizes = (clients, batch, slope, penalty_weight)
    to = flat if gradient else None
    launch("critic_step", chosen, like, *batches, *layers, *sizes, loss, penalty, to)
    return outputs


def _clients(values: list[Tensor], clients: int) -> list[Tensor]:
    """As ``[C, rows, columns]``, the matrices of every client contiguous."""
    flat = [value.reshape(clients, *value.shape[-2:]) for value in values]
    return [v if v.stride()[1:] == (v.shape[2], 1) else v.contiguous() for v in flat]


def _places(values: list[Tensor]) -> tuple[list[int], list[int]]:
    """Addresses, and floats from one client to the next."""
    return [value.data_ptr() for value in values], [value.stride(0) for value in values]


def _fake(
    real: Tensor | None,
    fake: Tensor | None,
    between: Tensor | None,
    weights: list[Tensor],
    biases: list[Tensor],
    slope: float,
    penalty_weight: float,
    gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    if (real is None) != (fake is None) or (real is None and between is None):
        raise ValueError("fedsyn::critic_step: expected real and fake, between, or all three")
    scored = {} if real is None or fake is None else {"real": real, "fake": fake}
    check("fedsyn::critic_step", scored, between, weights, biases, slope)
    check_number("fedsyn::critic_step", "penalty_weight", penalty_weight)
    like, axes = weights[0], weights[0].shape[:-2]
    found = _alternate(weights, biases if scored else []) if gradient else []
    size = sum(value.shape[-2] * value.shape[-1] for value in found)
    return like.new_empty(axes), like.new_empty(axes), like.new_empty(*axes, size)


def _alternate(weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Sequence[Tensor]:
    """The parameters in the order of the gradient's row: without biases, the weights alone."""
    pairs = zip(weights, biases, strict=True)
    return [value for pair in pairs for value in pair] if biases else weights


class _Differentiable(torch.autograd.Function):
    """The operator, with the gradient that it finds beside the loss."""

    @staticmethod
    def forward(ctx: Any, rows: Any, numbers: Any, layers: int, *parameters: Tensor) -> Any:
        weights, biases = list(parameters[:layers]), list(parameters[layers:])
        loss, penalty, gradient = below_autograd(critic_operator, *rows, weights, biases, *numbers)
        ctx.mark_non_differentiable(penalty, gradient)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(gradient, *parameters)
        ctx.layers, ctx.scored = layers, rows[0] is not None
        return loss, penalty, gradient

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        gradient, *parameters = ctx.saved_tensors
        if grads[0] is None:
            return None, None, None, *[None] * len(parameters)
        weights, biases = parameters[: ctx.layers], parameters[ctx.layers :]
        if gradient.shape[-1] == 0:
            raise ValueError("fedsyn::critic_step: the gradient was not asked for (gradient=False)")
        flat = grads[0][..., None] * gradient
        if torch.is_grad_enabled():
            flat = _Constant.apply(flat, *parameters)
        found = _alternate(weights, biases if ctx.scored else [])
        parts = flat.split([value.shape[-2] * value.shape[-1] for value in found], -1)
        to = [part.view(value.shape) for part, value in zip(parts, found, strict=True)]
        if ctx.scored:
            return None, None, None, *to[::2], *to[1::2]
        return None, None, None, *to, *[None] * ctx.layers


class _Constant(torch.autograd.Function):
    """A gradient that depends on parameters in a way that is not written down."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, *parameters: Tensor) -> Tensor:
        return flat.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> None:
        raise NotImplementedError("critic_step, gradient_penalty: no second derivatives")


def _autograd(
    real: Tensor | None,
    fake: Tensor | None,
    between: Tensor | None,
    weights: list[Tensor],
    biases: list[Tensor],
    *numbers: float,
) -> Any:
    rows, parameters = (real, fake, between), (*weights, *biases)
    if torch.is_grad_enabled() and any(value.requires_grad for value in parameters):
        return _Differentiable.apply(rows, numbers, len(weights), *parameters)
    return below_autograd(critic_operator, *rows, weights, biases, *numbers)


critic_operator = register(
    "critic_step(Tensor? real, Tensor? fake, Tensor? between, Tensor[] weights, Tensor[] biases, "
    "float slope, float penalty_weight, bool gradient) -> (Tensor, Tensor, Tensor)",
    *(_forward, _fake),
)
register_autograd_kernel("critic_step", _autograd)

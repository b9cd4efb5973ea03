"""The gradient penalty of a critic, without double backward where its form allows it.

A critic of linear layers and LeakyReLUs is piecewise linear in its input: between kinks its input
gradient is a product of weight matrices and fixed masks, g = W_1 D_1 W_2 D_2 … w. So the penalty
and its exact gradient to the weights (almost everywhere) are matrix products; `critic_step` has
them. (Gulrajani et al. 2017, arXiv 1704.00028, eq. 3.)
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fedsyn.ops.critic_step import check, critic_operator, penalize


def gradient_penalty(
    x: Tensor,  # [..., B, D]
    weights: Sequence[Tensor],  # of [..., in, out], last out = 1
    biases: Sequence[Tensor],  # of [..., 1, out]
    slope: float,  # of LeakyReLU for negative inputs
) -> Tensor:  # [...]
    """Mean over the batch of (‖∂critic/∂x‖₂ − 1)².

    Parameters
    ----------
    x : Tensor [..., B, D]
        Where the gradient is taken; constant (no gradient flows to it: it is zero almost
        everywhere).
    weights, biases : sequences of Tensor
        The critic's layers from input to output. No gradient flows to the biases either.
    slope : float
        Not negative; 0 is the ReLU.

    Returns
    -------
    Tensor [...]
        With its gradient to the weights computed at once if one of them requires it; that has no
        derivative itself.

    Raises
    ------
    TypeError
        If an argument is not a tensor, or the tensors are not of one floating dtype.
    ValueError
        If the batch is empty, shapes or devices differ, there is no layer, the layers do not chain
        or the last has more than one output, or ``slope`` is negative or not finite.

    Notes
    -----
    A gradient shorter than 1e-12 counts as that long. A row that is not a number makes its
    critic's penalty none, unless the critic is linear and its gradient the same everywhere.
    """
    check("gradient_penalty", {}, x, weights, biases, slope, name="x")
    wanted = torch.is_grad_enabled() and any(weight.requires_grad for weight in weights)
    constants = [bias.detach() for bias in biases]
    operands = (list(weights), constants, slope, 1.0)
    penalty: Tensor = critic_operator(None, None, x.detach(), *operands, wanted)[0]
    return penalty


def gradient_penalty_of(
    critic: Callable[[Tensor], Tensor],
    x: Tensor,  # [..., B, D]
) -> Tensor:  # [...]
    """`gradient_penalty` of any critic, by its layers or else by double backward.

    Parameters
    ----------
    critic : callable or nn.Module
        From rows ``[..., B, D]`` to scores ``[..., B]`` or ``[..., B, 1]``, each row's of that row
        alone. An ``nn.Sequential`` of ``nn.Linear`` with ``nn.ReLU`` or ``nn.LeakyReLU`` of one
        slope between them is taken apart for `gradient_penalty`; anything else is differentiated
        twice by autograd.
    x : Tensor [..., B, D]
        Constant, as in `gradient_penalty`.

    Returns
    -------
    Tensor [...]
        With gradients to whatever of the critic requires them.

    Raises
    ------
    TypeError
        If ``x`` is not a tensor of the critic's dtype.
    ValueError
        If the critic has active dropout (its gradient would be one of a random function) or batch
        normalisation in training mode (its scores would depend on other rows), does not give one
        score a row, or cannot be differentiated by its input; and as `gradient_penalty`.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"gradient_penalty_of: expected x a tensor, got {type(x).__name__}")
    layers = _layers(critic) if isinstance(critic, nn.Module) else None
    if layers is None:
        return _by_autograd(critic, x)
    batch_axes = x.shape[:-2]
    weights = [layer.weight.mT.expand(*batch_axes, -1, -1) for layer in layers.linear]
    biases = [
        (weight.new_zeros(weight.shape[-1]) if layer.bias is None else layer.bias).expand(
            *batch_axes, 1, -1
        )
        for layer, weight in zip(layers.linear, weights, strict=True)
    ]
    return gradient_penalty(x, weights, biases, layers.slope)


class _Layers(NamedTuple):
    linear: list[nn.Linear]
    slope: float


def _layers(critic: nn.Module) -> _Layers | None:
    """The layers of a critic that `gradient_penalty` takes, if it is one."""
    if type(critic) is not nn.Sequential or any(_is_hooked(m) for m in critic.modules()):
        return None
    # (Exact types: a subclass, as of a parametrised layer, may compute something else.)
    modules = list(critic.children())
    linear = [layer for layer in modules[::2] if type(layer) is nn.Linear]
    slopes = {_slope(layer) for layer in modules[1::2]}
    alternate = len(modules) == 2 * len(linear) - 1 and None not in slopes and len(slopes) <= 1
    slope = next(iter(slopes), 0.0)
    if not alternate or slope is None or slope < 0 or linear[-1].out_features != 1:
        return None
    return _Layers(linear, slope)


def _slope(layer: nn.Module) -> float | None:
    if type(layer) is nn.ReLU:
        return 0.0
    return layer.negative_slope if type(layer) is nn.LeakyReLU else None


def _is_hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _by_autograd(critic: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if x.ndim < 2 or 0 in x.shape[-2:]:
        raise ValueError(
            f"gradient_penalty_of: expected x [..., B, D] with B, D > 0, got {tuple(x.shape)}"
        )
    if isinstance(critic, nn.Module):
        _check_rows_alone(critic)
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        score = critic(at)
        if score.shape not in (x.shape[:-1], (*x.shape[:-1], 1)):
            raise ValueError(
                f"gradient_penalty_of: expected scores {tuple(x.shape[:-1])}, "
                f"got {tuple(score.shape)}"
            )
        if not score.requires_grad:
            raise ValueError("gradient_penalty_of: expected scores with a gradient to x, got none")
        (gradient,) = torch.autograd.grad(
            score.sum(), at, create_graph=differentiable, materialize_grads=True
        )
    return penalize(gradient)[0]


def _check_rows_alone(critic: nn.Module) -> None:
    for module in critic.modules():
        active = module.training
        if active and isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            raise ValueError(
                f"gradient_penalty_of: the critic has active {type(module).__name__}, "
                "expected it in eval mode or without dropout"
            )
        if active and isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ValueError(
                f"gradient_penalty_of: the critic has {type(module).__name__} in training mode, "
                "expected a critic of each row alone, e.g. with LayerNorm"
            )

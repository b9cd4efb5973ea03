"""The gradient penalty of a LeakyReLU MLP critic without double backward.

A critic of linear layers and LeakyReLUs is piecewise linear in its input: between kinks its input
gradient is a product of weight matrices and fixed masks, g = W_1 D_1 W_2 D_2 … w. Writing that
product out makes the penalty an ordinary function of the weights, so one backward pass gives its
exact gradient (almost everywhere; Gulrajani et al. 2017, arXiv 1704.00028, eq. 3).
"""

from collections.abc import Sequence

import torch
from torch import Tensor


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
        The critic's layers from input to output.
    slope : float

    Returns
    -------
    Tensor [...]

    Raises
    ------
    ValueError
        If there is no layer, the layers do not chain, or the last has more than one output.
    """
    _check(x, weights, biases)
    with torch.no_grad():
        masks = []
        hidden = x
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            hidden = hidden @ weight + bias
            # (two Python floats in torch.where would round the slope to float32)
            masks.append(torch.where(hidden > 0, hidden.new_ones(()), slope))
            hidden = hidden * masks[-1]
    gradient = weights[-1].transpose(-1, -2)
    for weight, mask in zip(reversed(weights[:-1]), reversed(masks), strict=True):
        gradient = (gradient * mask) @ weight.transpose(-1, -2)
    # The root of a clamped square: a zero gradient has penalty 1 and a finite derivative.
    norm = gradient.square().sum(-1).clamp(min=1e-24).sqrt()
    if not masks:  # a linear critic has the same gradient at every row
        norm = norm.expand(x.shape[:-1])
    return (norm - 1).square().mean(-1)


def _check(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> None:
    if not weights or len(weights) != len(biases):
        raise ValueError(
            f"gradient_penalty: expected as many weights as biases and at least one, "
            f"got {len(weights)} and {len(biases)}"
        )
    widths = [x.shape[-1], *(weight.shape[-1] for weight in weights)]
    for layer, weight in enumerate(weights):
        if weight.shape[-2] != widths[layer]:
            raise ValueError(
                f"gradient_penalty: expected weights[{layer}] [..., {widths[layer]}, out], "
                f"got {tuple(weight.shape)}"
            )
    if widths[-1] != 1:
        raise ValueError(f"gradient_penalty: expected a critic of one output, got {widths[-1]}")

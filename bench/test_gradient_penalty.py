"""The gradient penalty and the whole critic step on the CPU: kernel, PyTorch formula, autograd.

Run with ``pytest bench/test_gradient_penalty.py``. Every contender gives the loss and its gradient
to all parameters. One thread each: what a core does, which the other tenants of a machine disturb
least. Read the minimum or the median.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from operator import itemgetter
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import leaky_relu

from fedsyn import ops
from fedsyn.ops import critic_loss, critic_step
from fedsyn.ops.critic_step import critic_step_reference
from formulas import SLOPE, critic, forced, gradient_penalty

WEIGHT = 10.0
Layers = Sequence[Tensor]
Rows = tuple[Tensor | None, Tensor | None, Tensor]  # real, fake, between; the last alone: penalty
Found = tuple[Tensor, Tensor | Sequence[Tensor]]  # loss [C], its gradients
Size = tuple[int, int, tuple[int, ...]]
# Clients, rows, widths: a default critic alone and stacked, and a large one alone.
SIZES: list[Size] = [
    (1, 64, (128, 256, 256, 1)),
    (1, 4096, (128, 256, 256, 1)),
    (50, 64, (128, 256, 256, 1)),
    (1, 256, (512, 1024, 1024, 1)),
]
compiled_reference = torch.compile(critic_step_reference, dynamic=False)


pytestmark = pytest.mark.usefixtures("one_thread")


def operands(
    clients: int, rows: int, widths: tuple[int, ...]
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Real, fake and rows between them; weights and biases as leaves."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(clients, *shape, generator=generator)

    weights = [draw(a, b) * 1.5 / a**0.5 for a, b in pairwise(widths)]
    biases = [0.1 * draw(1, b) for b in widths[1:]]
    batches = [draw(rows, widths[0]) + mean for mean in (0.0, 0.5, 0.25)]
    for x in batches:
        while (near := near_kinks(x, weights, biases)).any():
            x[near] = torch.randn(int(near.sum()), widths[0], generator=generator)
    weights, biases = ([p.requires_grad_() for p in ps] for ps in (weights, biases))
    return batches, weights, biases


def near_kinks(x: Tensor, weights: Layers, biases: Layers) -> Tensor:
    """Rows [C, B] at which rounding could decide on which side of a kink they are."""
    near = torch.zeros(x.shape[:-1], dtype=torch.bool)
    x = x.double()
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        x = x @ weight.double() + bias
        near |= (x.abs() < 1e-5).any(-1)
        x = leaky_relu(x, SLOPE)
    return near


def autograd_loss(rows: Rows, weights: Layers, biases: Layers) -> Tensor:
    """Of real and fake rows in one pass, or the penalty alone."""
    real, fake, between = rows
    penalty = gradient_penalty(between, weights, biases)
    if real is None or fake is None:
        return penalty
    scores = critic(torch.cat([real, fake], -2), weights, biases)
    count = real.shape[-2]
    return scores[..., count:].mean(-1) - scores[..., :count].mean(-1) + WEIGHT * penalty


def each(rows: Rows, change: Callable[[Tensor], Tensor]) -> Rows:
    """The rows that there are, changed."""
    real, fake, between = rows
    if real is None or fake is None:
        return None, None, change(between)
    return change(real), change(fake), change(between)


# ---- Contenders ---------------------------------------------------------------------------------


def differentiate(loss: Tensor, weights: Layers, biases: Layers, scored: bool) -> Found:
    parameters = [*weights, *biases] if scored else weights
    return loss.detach(), torch.autograd.grad(loss.sum(), parameters)


def by_operators(rows: Rows, weights: Layers, biases: Layers) -> Found:
    real, fake, between = rows
    if real is None or fake is None:
        loss = ops.gradient_penalty(between, weights, biases, SLOPE)
    else:
        loss = critic_loss(real, fake, between, weights, biases, SLOPE, WEIGHT)
    return differentiate(loss, weights, biases, real is not None)


def step(rows: Rows, weights: Layers, biases: Layers) -> Found:
    """Without autograd, as the training loop calls it."""
    real, fake, between = rows
    assert real is not None and fake is not None
    loss, _, gradient = critic_step(real, fake, between, weights, biases, SLOPE, WEIGHT)
    return loss, gradient


def reference(
    rows: Rows, weights: Layers, biases: Layers, function: Any = critic_step_reference
) -> Found:
    weight = 1.0 if rows[0] is None else WEIGHT
    with torch.no_grad():
        loss, _, gradient = function(*rows, weights, biases, SLOPE, weight, True)
    return loss, gradient


def compiled(rows: Rows, weights: Layers, biases: Layers) -> Found:
    return reference(rows, weights, biases, compiled_reference)


def autograd(rows: Rows, weights: Layers, biases: Layers) -> Found:
    loss = autograd_loss(rows, weights, biases)
    return differentiate(loss, weights, biases, rows[0] is not None)


def autograd_loop(rows: Rows, weights: Layers, biases: Layers) -> Found:
    losses = []
    for c in range(len(rows[-1])):
        own = each(rows, itemgetter(c))
        losses.append(autograd_loss(own, [w[c] for w in weights], [b[c] for b in biases]))
    return differentiate(torch.stack(losses), weights, biases, rows[0] is not None)


def functional(rows: Rows, weights: Layers, biases: Layers) -> Found:
    def loss(parameters: tuple[Layers, Layers], *rows: Tensor) -> Tensor:
        *scored, between = rows
        gradient = torch.func.grad(lambda x: critic(x, *parameters).sum())(between)
        penalty: Tensor = (vector_norm(gradient, dim=-1) - 1).square().mean(-1)
        if not scored:
            return penalty
        real, fake = (critic(x, *parameters).mean(-1) for x in scored)
        return fake - real + WEIGHT * penalty

    known = [x for x in rows if x is not None]
    parameters = [p.detach() for p in weights], [p.detach() for p in biases]
    of_client = torch.func.grad_and_value(loss)
    gradients, value = torch.func.vmap(of_client)(parameters, *known)
    return value, gradients[0] if rows[0] is None else [*gradients[0], *gradients[1]]


CONTENDERS: dict[str, Callable[[Rows, Layers, Layers], Found]] = {
    "kernel": forced("cpu", by_operators),
    "kernel, no autograd": forced("cpu", step),
    "reference": reference,
    "torch.compile of it": compiled,
    "autograd, stacked": autograd,
    "autograd, a loop": autograd_loop,
    "torch.func": functional,
}


def check(found: Found, expected: Found, widths: tuple[int, ...], scored: bool) -> None:
    """Within 1e-5 of the largest number expected; gradients as a list or in one flat row."""
    (value, gradients), (wanted, lists) = found, expected
    torch.testing.assert_close(value.double(), wanted, rtol=1e-5, atol=0)
    if isinstance(gradients, torch.Tensor):
        pairs = pairwise(widths)
        sizes = [n for a, b in pairs for n in ((a * b, b) if scored else (a * b,))]
        parts = gradients.split(sizes, -1)
        gradients = [*parts[::2], *parts[1::2]] if scored else parts
    for got, gradient in zip(gradients, lists, strict=True):
        bound = 1e-5 * max(g.abs().max().item() for g in lists)
        torch.testing.assert_close(got.double().view_as(gradient), gradient, rtol=0, atol=bound)


def run(benchmark: BenchmarkFixture, name: str, size: Size, scored: bool) -> None:
    (real, fake, between), weights, biases = operands(*size)
    rows = (real, fake, between) if scored else (None, None, between)
    wide = [[p.detach().double().requires_grad_() for p in ps] for ps in (weights, biases)]
    expected = autograd(each(rows, Tensor.double), *wide)
    contender = CONTENDERS[name]
    check(contender(rows, weights, biases), expected, size[2], scored)
    rounds = 100 if size[0] * size[1] < 256 else 12
    benchmark.pedantic(contender, (rows, weights, biases), rounds=rounds, warmup_rounds=2)


@pytest.mark.parametrize("name", [name for name in CONTENDERS if name != "kernel, no autograd"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_penalty(benchmark: BenchmarkFixture, name: str, size: Size) -> None:
    benchmark.group = f"gradient penalty {size}"
    run(benchmark, name, size, scored=False)


@pytest.mark.parametrize("name", CONTENDERS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_step(benchmark: BenchmarkFixture, name: str, size: Size) -> None:
    benchmark.group = f"critic step {size}"
    run(benchmark, name, size, scored=True)

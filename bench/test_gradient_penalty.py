"""The gradient penalty and the whole critic step on the CPU: kernel, PyTorch formula, autograd.

Run with ``pytest bench/test_gradient_penalty.py``. Every contender gives the loss and its gradient
to all parameters. One thread each: what a core does, which the other tenants of a machine disturb
least. Read the minimum or the median.
"""

from itertools import pairwise

import pytest
import torch
from torch.nn.functional import leaky_relu

from fedsyn.ops import backend, backends, critic_loss, critic_step, gradient_penalty
from fedsyn.ops.critic_step import critic_step_reference

SLOPE, WEIGHT = 0.2, 10.0
# Clients, rows, widths: a default critic alone and stacked, and a large one alone.
SIZES = [
    (1, 64, (128, 256, 256, 1)),
    (1, 4096, (128, 256, 256, 1)),
    (50, 64, (128, 256, 256, 1)),
    (1, 256, (512, 1024, 1024, 1)),
]
compiled_reference = torch.compile(critic_step_reference, dynamic=False)


pytestmark = pytest.mark.usefixtures("one_thread")


def operands(clients, rows, widths):
    """Real, fake and rows between them; weights and biases as leaves."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(clients, *shape, generator=generator)

    weights = [draw(a, b) * 1.5 / a**0.5 for a, b in pairwise(widths)]
    biases = [0.1 * draw(1, b) for b in widths[1:]]
    batches = [draw(rows, widths[0]) + mean for mean in (0.0, 0.5, 0.25)]
    for x in batches:
        while (near := near_kinks(x, weights, biases)).any():
            x[near] = torch.randn(int(near.sum()), widths[0], generator=generator)
    leaves = [[p.requires_grad_() for p in ps] for ps in (weights, biases)]
    return *batches, *leaves


def near_kinks(x, weights, biases):
    """Rows [C, B] at which rounding could decide on which side of a kink they are."""
    near = torch.zeros(x.shape[:-1], dtype=torch.bool)
    x = x.double()
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        x = x @ weight.double() + bias
        near |= (x.abs() < 1e-5).any(-1)
        x = leaky_relu(x, SLOPE)
    return near


def score(x, weights, biases):
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        x = leaky_relu(bias + x @ weight, SLOPE)
    return (x @ weights[-1] + biases[-1]).squeeze(-1)


def double_backward(at, weights, biases):
    at = at.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(score(at, weights, biases).sum(), at, create_graph=True)
    return (gradient.norm(dim=-1) - 1).square().mean(-1)


def autograd_loss(real, fake, between, weights, biases):
    """Of real and fake rows in one pass, or the penalty alone."""
    penalty = double_backward(between, weights, biases)
    if real is None:
        return penalty
    scores = score(torch.cat([real, fake], -2), weights, biases)
    rows = real.shape[-2]
    return scores[..., rows:].mean(-1) - scores[..., :rows].mean(-1) + WEIGHT * penalty


def client(operand, index):
    return None if operand is None else operand[index]


# ---- Contenders: (real, fake, between, weights, biases) -> loss [C], gradients ------------------


def differentiate(loss, weights, biases, scored):
    parameters = [*weights, *biases] if scored else weights
    return loss.detach(), torch.autograd.grad(loss.sum(), parameters)


def kernel(real, fake, between, weights, biases):
    with backend("cpu"):
        if real is None:
            loss = gradient_penalty(between, weights, biases, SLOPE)
        else:
            loss = critic_loss(real, fake, between, weights, biases, SLOPE, WEIGHT)
        return differentiate(loss, weights, biases, real is not None)


def step(real, fake, between, weights, biases):
    """Without autograd, as the training loop calls it."""
    with backend("cpu"):
        loss, _, gradient = critic_step(real, fake, between, weights, biases, SLOPE, WEIGHT)
    return loss, gradient


def reference(real, fake, between, weights, biases, function=critic_step_reference):
    weight = 1.0 if real is None else WEIGHT
    with torch.no_grad():
        loss, _, gradient = function(real, fake, between, weights, biases, SLOPE, weight, True)
    return loss, gradient


def compiled(*arguments):
    return reference(*arguments, function=compiled_reference)


def autograd(real, fake, between, weights, biases):
    loss = autograd_loss(real, fake, between, weights, biases)
    return differentiate(loss, weights, biases, real is not None)


def autograd_loop(real, fake, between, weights, biases):
    loss = torch.stack(
        [
            autograd_loss(
                *(client(x, c) for x in (real, fake, between)),
                *([p[c] for p in ps] for ps in (weights, biases)),
            )
            for c in range(len(between))
        ]
    )
    return differentiate(loss, weights, biases, real is not None)


def functional(real, fake, between, weights, biases):
    def loss(parameters, *rows):
        weights, biases = parameters
        real, fake, between = rows if len(rows) == 3 else (None, None, *rows)
        gradient = torch.func.grad(lambda x: score(x, weights, biases).sum())(between)
        penalty = (gradient.norm(dim=-1) - 1).square().mean(-1)
        if real is None:
            return penalty
        fake, real = (score(x, weights, biases).mean(-1) for x in (fake, real))
        return fake - real + WEIGHT * penalty

    rows = [x for x in (real, fake, between) if x is not None]
    parameters = [[p.detach() for p in ps] for ps in (weights, biases)]
    each = torch.func.grad_and_value(loss)
    gradients, value = torch.func.vmap(each)(parameters, *rows)
    return value, gradients[0] if real is None else [*gradients[0], *gradients[1]]


CONTENDERS = {
    "kernel": kernel,
    "kernel, no autograd": step,
    "reference": reference,
    "torch.compile of it": compiled,
    "autograd, stacked": autograd,
    "autograd, a loop": autograd_loop,
    "torch.func": functional,
}


def check(found, expected, widths, scored):
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


def run(benchmark, name, size, scored):
    if name.startswith("kernel") and "cpu" not in backends():
        pytest.skip("the compiled module is absent")
    real, fake, between, *layers = operands(*size)
    rows = (real, fake, between) if scored else (None, None, between)
    doubled = [[p.detach().double().requires_grad_() for p in ps] for ps in layers]
    expected = autograd(*(None if x is None else x.double() for x in rows), *doubled)
    contender = CONTENDERS[name]
    check(contender(*rows, *layers), expected, size[2], scored)
    rounds = 100 if size[0] * size[1] < 256 else 12
    benchmark.pedantic(contender, (*rows, *layers), rounds=rounds, warmup_rounds=2)


@pytest.mark.parametrize("name", [name for name in CONTENDERS if name != "kernel, no autograd"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_penalty(benchmark, name, size):
    benchmark.group = f"gradient penalty {size}"
    run(benchmark, name, size, scored=False)


@pytest.mark.parametrize("name", CONTENDERS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_step(benchmark, name, size):
    benchmark.group = f"critic step {size}"
    run(benchmark, name, size, scored=True)

"""Critics against torch's own layers in float64, client by client."""

import itertools

import pytest
import torch
from torch import nn

from fedsyn.models.layout import Layout
from fedsyn.synthesis.generators.critics import Critic, Scored

DIM, HIDDEN, ROWS, CLIENTS = 5, (7, 6), 9, 2
FORMS = [
    (form, norm, dropout)
    for form in ("plain", "projection")
    for norm in ("none", "layer", "spectral")
    for dropout in (0.0, 0.3)
]
forms = pytest.mark.parametrize(("form", "norm", "dropout"), FORMS)


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=stream(seed), dtype=torch.float64)


def parameters(critic):
    """Of both clients, away from where they start: gains are not one."""
    rows = torch.stack([critic.init(stream(seed)) for seed in range(CLIENTS)]).double()
    return rows + 0.1 * draw(*rows.shape, seed=7)


def power(critic):
    rows = torch.stack([critic.init_power(stream(seed)) for seed in range(CLIENTS)])
    return rows.double()


def batch(critic, penalty=True):
    real, fake, mix, prototype = (draw(CLIENTS, ROWS, DIM, seed=seed) for seed in range(4))
    between = real + mix[..., :1].sigmoid() * (fake - real) if penalty else None
    kept = torch.rand(CLIENTS, ROWS, critic.dropped, generator=stream(9), dtype=torch.float64)
    return Scored(real, fake, between, prototype, (kept < 0.7) / 0.7)


class Module(nn.Module):
    """One client's critic of torch's layers."""

    def __init__(self, critic, params, power):
        super().__init__()
        self.critic, self.norms = critic, nn.ModuleList()
        named = Layout(critic.layout.shapes).views(params[None])
        widths = (DIM, *HIDDEN, 1)
        self.layers = nn.ModuleList(
            nn.Linear(a, b, dtype=torch.float64) for a, b in itertools.pairwise(widths)
        )
        self.outer, at = [], 0
        for layer, linear in enumerate(self.layers):
            linear.weight.data = named[f"critic.{layer}.weight"][0].T.clone()
            linear.bias.data = named[f"critic.{layer}.bias"][0, 0].clone()
            self.outer.append(power[at : at + widths[layer + 1]])
            at += widths[layer + 1]
        self.outer.append(power[at:])
        for layer, width in enumerate(HIDDEN):
            self.norms.append(nn.LayerNorm(width, dtype=torch.float64))
            if critic.norm == "layer":
                self.norms[layer].weight.data = named[f"norm.{layer}.gain"][0, 0].clone()
                self.norms[layer].bias.data = named[f"norm.{layer}.offset"][0, 0].clone()
        if critic.form == "projection":
            self.embed = nn.Parameter(named["projection.weight"][0].clone())

    def divided(self, weight, outer):  # [out, in]
        if self.critic.norm != "spectral":
            return weight
        inner = (weight.T @ outer).detach()
        inner = inner / inner.norm()
        return weight / (outer @ (weight @ inner))

    def forward(self, x, y, kept):
        factors = kept.split(list(HIDDEN), -1) if self.critic.dropout else None
        for layer, linear in enumerate(self.layers[:-1]):
            x = nn.functional.linear(x, self.divided(linear.weight, self.outer[layer]), linear.bias)
            if self.critic.norm == "layer":
                x = self.norms[layer](x)
            x = nn.functional.leaky_relu(x, 0.2)
            if factors is not None:
                x = x * factors[layer]
        last = self.layers[-1]
        found = nn.functional.linear(x, self.divided(last.weight, self.outer[-2]), last.bias)[:, 0]
        if self.critic.form == "projection":
            matrix = self.divided(self.embed.T, self.outer[-1]).T
            found = found + torch.einsum("bd,dh,bh->b", y, matrix, x)
        return found

    def gradient(self):
        """In the order of the critic's row."""
        parts = []
        for linear in self.layers:
            parts += [linear.weight.grad.T.reshape(-1), linear.bias.grad]
        if self.critic.norm == "layer":
            for norm in self.norms:
                parts += [norm.weight.grad, norm.bias.grad]
        if self.critic.form == "projection":
            parts.append(self.embed.grad.reshape(-1))
        return torch.cat(parts)


@forms
@pytest.mark.parametrize("penalty", [True, False])
def test_loss_and_gradient_are_those_of_torchs_layers(form, norm, dropout, penalty):
    critic = Critic(DIM, HIDDEN, form, norm, dropout)
    params, kept_power, rows = parameters(critic), power(critic), batch(critic, penalty)
    loss, gradient = critic.step(params, kept_power, rows, 10.0)
    for client in range(CLIENTS):
        module = Module(critic, params[client], kept_power[client])
        y, kept = rows.prototype[client], rows.kept[client]
        expected = module(rows.fake[client], y, kept).mean()
        expected = expected - module(rows.real[client], y, kept).mean()
        if penalty:
            between = rows.between[client].clone().requires_grad_()
            (slope,) = torch.autograd.grad(
                module(between, y, kept).sum(), between, create_graph=True
            )
            expected = expected + 10 * ((slope.square().sum(-1).sqrt() - 1) ** 2).mean()
        expected.backward()
        torch.testing.assert_close(loss[client], expected.detach())
        torch.testing.assert_close(gradient[client], module.gradient())


@pytest.mark.parametrize("form", ["plain", "projection"])
def test_a_spectral_critic_is_as_steep_as_its_largest_singular_values_allow(form):
    critic = Critic(DIM, HIDDEN, form, "spectral")
    params, turned = parameters(critic), power(critic)
    for _ in range(200):
        turned = critic.turned(params, turned)
    for name, weight in critic._normalized(critic.layout.views(params), turned).items():
        largest = torch.linalg.matrix_norm(weight, 2)
        torch.testing.assert_close(largest, torch.ones(CLIENTS).double(), msg=name)
    if form == "plain":
        pairs = draw(CLIENTS, 50, DIM).requires_grad_()
        nothing = torch.zeros(CLIENTS, 50, 0)
        (slope,) = torch.autograd.grad(
            critic.score(params, turned, pairs, pairs, nothing).sum(), pairs
        )
        assert slope.norm(dim=-1).max() <= 1 + 1e-9


def test_one_turn_is_one_step_of_power_iteration():
    critic = Critic(DIM, (4,), "plain", "spectral")
    params, before = parameters(critic), power(critic)
    weight = critic.layout.views(params)["critic.0.weight"][1]  # [in, out]
    expected = weight.T @ weight @ before[1, :4]
    found = critic.turned(params, before)[1, :4]
    torch.testing.assert_close(found, expected / expected.norm())
    assert torch.equal(Critic(DIM, (4,)).turned(params, before), before)


def test_a_projection_critic_tells_the_same_pair_of_two_prototypes_apart():
    critic = Critic(DIM, HIDDEN, "projection")
    params, pairs = parameters(critic), draw(CLIENTS, 1, DIM).expand(-1, 2, -1)
    prototype, nothing = draw(CLIENTS, 2, DIM, seed=1), torch.zeros(CLIENTS, 2, 0)
    found = critic.score(params, power(critic), pairs, prototype, nothing)
    assert (found[:, 0] - found[:, 1]).abs().min() > 1e-3

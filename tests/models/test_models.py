"""Stacked networks compute what one network a client computes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsyn.models.generator import GeneratorNet, directions
from fedsyn.models.layout import Layout
from fedsyn.models.mlp import MLP
from fedsyn.models.retrieval import build, fuse
from fedsyn.models.settings import ModelConfig


def stacked(net, clients=3):
    return torch.stack([net.init(torch.Generator().manual_seed(c)) for c in range(clients)])


@given(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=1, max_size=4))
def test_a_layout_is_a_bijection(shapes):
    layout = Layout({f"p{k}": tuple(shape) for k, shape in enumerate(shapes)})
    row = torch.arange(float(layout.size))
    views = layout.views(row[None])
    assert [tuple(v.shape[1:]) for v in views.values()] == [tuple(s) for s in shapes]
    assert torch.equal(layout.flatten({n: v[0] for n, v in views.items()}), row)


def test_gradients_of_views_reach_the_row():
    layout = Layout({"a": (2,), "b": (1, 3)})
    flat = torch.zeros(1, 5, requires_grad=True)
    views = layout.views(flat)
    (2 * views["a"].sum() + 3 * views["b"].sum()).backward()
    assert flat.grad.tolist() == [[2, 2, 3, 3, 3]]


def test_a_stacked_mlp_is_one_torch_network_a_client():
    mlp = MLP("m", (4, 5, 2), slope=0.1)
    named = [mlp.init(torch.Generator().manual_seed(c)) for c in range(3)]
    x = torch.randn(3, 6, 4)
    out = mlp(torch.stack([mlp.layout.flatten(n) for n in named]), x)
    for client, params in enumerate(named):
        hidden = x[client] @ params["m.0.weight"] + params["m.0.bias"]
        hidden = torch.nn.functional.leaky_relu(hidden, 0.1)
        expected = hidden @ params["m.1.weight"] + params["m.1.bias"]
        torch.testing.assert_close(out[client], expected)


@pytest.mark.parametrize("bits", [0, 16])
def test_embeddings_are_unit_rows_of_the_configured_size(bits):
    net = build(ModelConfig(dim=8, bits=bits), 5, 4, {})
    image, text = net.embed(stacked(net), torch.randn(3, 7, 9))
    assert image.shape == text.shape == (3, 7, bits or 8)
    torch.testing.assert_close(image.norm(dim=-1), torch.ones(3, 7))
    torch.testing.assert_close(fuse(image, text).norm(dim=-1), torch.ones(3, 7))


def test_the_size_of_an_embedding_is_what_is_configured_unless_the_data_say_it():
    sizes = [
        build(ModelConfig(dim=dim, bits=bits), 5, 4, {}, out).code
        for dim, bits, out in ((0, 0, 0), (8, 0, 0), (0, 16, 0), (8, 16, 0), (0, 0, 5))
    ]
    assert sizes == [64, 8, 16, 16, 5]


@pytest.mark.parametrize("linear", ["trained", "frozen"])
def test_a_network_has_a_linear_term_if_it_has_hidden_layers_and_is_to_have_one(linear):
    def parameters(hidden, wanted):
        config = ModelConfig(hidden=hidden, dim=3, linear=linear)
        net = build(config, 5, 4, {"log_scale": torch.ones(1)}, linear=wanted)
        named = net.layout.views(net.init(torch.Generator())[None])
        assert list(named)[-1] == "log_scale"
        return {name: value for name, value in named.items() if name.endswith("linear")}

    found = parameters((6,), True)
    assert {name: tuple(value.shape[1:]) for name, value in found.items()} == {
        "image.linear": (5, 3), "text.linear": (4, 3),
    }  # fmt: skip
    assert not any(value.any() for value in found.values())
    assert parameters((), True) == parameters((6,), False) == {}


def test_a_warm_generator_is_the_gaussian():
    generator = GeneratorNet(noise=4, pair_dim=6, hidden=(8,))
    flat = generator.init(torch.Generator().manual_seed(0), warm=True)[None]
    noise, prototype, basis = torch.randn(1, 9, 4), torch.randn(1, 9, 6), torch.randn(1, 4, 6)
    layer = directions(basis)
    assert torch.equal(
        generator(flat, noise, prototype, layer), generator(None, noise, prototype, layer)
    )
    torch.testing.assert_close(generator(None, noise, prototype, layer), prototype + noise @ basis)

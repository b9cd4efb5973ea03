"""The stacked residual network computes what one convolutional network a client computes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsyn.models.resnet import ResNet

SMALL = ResNet("r", (7, 6, 3), channels=(4, 4, 6), blocks=2, stride=2, groups=2)


def draw(net, clients, batch):
    generator = torch.Generator().manual_seed(0)
    params = torch.stack([net.layout.flatten(net.init(generator)) for _ in range(clients)])
    # Scales and shifts that tell one channel from another.
    params = (params + 0.1 * torch.randn(params.shape, generator=generator)).double()
    height, width, channels = net.picture
    x = torch.randn(clients, batch, height * width * channels, generator=generator)
    return params, x.double()


class Block(nn.Module):
    def __init__(self, fan_in, out, stride, groups):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(fan_in, out, 3, stride, 1, bias=False),
            nn.GroupNorm(groups, out),
            nn.ReLU(),
            nn.Conv2d(out, out, 3, 1, 1, bias=False),
            nn.GroupNorm(groups, out),
        )
        self.shortcut = nn.Sequential()
        if stride > 1 or fan_in != out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(fan_in, out, 1, stride, bias=False), nn.GroupNorm(groups, out)
            )

    def forward(self, x):
        return torch.relu(self.body(x) + self.shortcut(x))


def in_torch(net, row):
    """The same network of torch's modules, with the row's numbers in the order of the row."""
    fan_in, blocks = net.channels[0], []
    for stage, out in enumerate(net.channels):
        for block in range(net.blocks):
            blocks.append(Block(fan_in, out, 2 if stage and not block else 1, net.groups))
            fan_in = out
    module = nn.Sequential(
        nn.Conv2d(net.picture[2], net.channels[0], 3, net.stride, 1, bias=False),
        nn.GroupNorm(net.groups, net.channels[0]),
        nn.ReLU(),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ).double()
    nn.utils.vector_to_parameters(row, module.parameters())
    assert sum(p.numel() for p in module.parameters()) == net.layout.size == len(row)
    return module


def test_each_client_has_its_own_torch_network_with_its_gradients():
    params, x = draw(SMALL, clients=3, batch=5)
    leaf = params.clone().requires_grad_()
    out = SMALL(leaf, x)
    assert out.shape == (3, 5, SMALL.width)
    weight = torch.randn(out.shape, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((out * weight).sum(), leaf)
    for client in range(3):
        module = in_torch(SMALL, params[client])
        expected = module(x[client].reshape(5, 7, 6, 3).permute(0, 3, 1, 2))
        torch.testing.assert_close(out[client], expected)
        (expected * weight[client]).sum().backward()
        slope = torch.cat([p.grad.reshape(-1) for p in module.parameters()])
        torch.testing.assert_close(gradient[client], slope)


@settings(max_examples=10, deadline=None)
@given(
    st.tuples(st.integers(9, 12), st.integers(9, 12), st.sampled_from([1, 3])),
    st.lists(st.sampled_from([2, 4]), min_size=1, max_size=3),
    st.integers(1, 2),
    st.integers(1, 2),
    st.integers(1, 3),
)
def test_any_size_gives_finite_features_of_its_width(picture, channels, blocks, stride, batch):
    net = ResNet("r", picture, tuple(channels), blocks, stride, groups=2)
    out = net(*draw(net, 2, batch))
    assert out.shape == (2, batch, channels[-1]) and out.isfinite().all()


def test_a_client_has_the_same_bits_alone_and_in_a_stack():
    params, x = (value.float() for value in draw(SMALL, clients=4, batch=5))
    together = SMALL(params, x)
    for client in range(4):
        alone = SMALL(params[client : client + 1], x[client : client + 1])
        assert torch.equal(alone[0], together[client])


def test_a_fresh_network_keeps_the_size_of_its_signal():
    net = ResNet("r", (16, 16, 1))
    named = net.init(torch.Generator().manual_seed(0))
    weight = named["r.1.0.0.weight"]
    torch.testing.assert_close(weight.var().item(), 2 / (32 * 9), rtol=0.1, atol=0)
    assert {name: set(v.tolist()) for name, v in named.items() if "stem.s" in name} == {
        "r.stem.scale": {1.0},
        "r.stem.shift": {0.0},
    }


def test_channels_that_do_not_divide_into_groups_are_refused():
    with pytest.raises(ValueError, match="channels in 4 equal groups, got 6"):
        ResNet("r", (8, 8, 1), (4, 6), groups=4)


def test_pictures_of_another_size_are_refused():
    params, x = draw(SMALL, 1, 2)
    with pytest.raises(RuntimeError, match="unflatten"):
        SMALL(params, x[..., :-3])


@pytest.mark.parametrize("picture", [(7, 6, 3), (8, 8, 1)])
def test_the_last_block_follows_the_body(picture):
    net = ResNet("r", picture, channels=(4, 8), blocks=2, groups=4)
    params, x = draw(net, clients=2, batch=3)
    maps = net.last(params, net.body(params, x))
    torch.testing.assert_close(maps.mean((-1, -2)), net(params, x))


@pytest.mark.parametrize("blocks", [1, 2])  # with and without a convolution on the shortcut
def test_a_share_of_the_last_block_is_a_block_of_its_first_channels(blocks):
    net = ResNet("r", (8, 8, 1), channels=(4, 8), blocks=blocks, groups=4)
    params, x = draw(net, clients=1, batch=3)
    body = net.body(params, x)
    module = in_torch(net, params[0])[-3]  # of the blocks the last
    first, norm, _, second, norm2 = module.body
    few = Block(first.in_channels, 4, first.stride[0], 2).double()
    pairs = [(few.body[0], first), (few.body[1], norm), (few.body[3], second), (few.body[4], norm2)]
    if len(module.shortcut) == 0:
        few.shortcut = nn.Sequential()
    pairs += zip(few.shortcut, module.shortcut, strict=True)
    for mine, whole in pairs:
        for name, value in mine.named_parameters():
            own = whole.get_parameter(name).data
            value.data = own[tuple(slice(size) for size in value.shape)]
    expected = torch.relu(few.body(body[0]) + few.shortcut(body[0])[:, :4])
    torch.testing.assert_close(net.last(params, body, 0.5)[0], expected)

"""Views of pictures are what the numbers say, picture by picture."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsyn import streams
from fedsyn.data.augment import NUMBERS, AugmentConfig, augment, draw, hide

STILL = AugmentConfig(crop=1.0, flip=0.0, brightness=0, contrast=0, saturation=0, grey=0, blur=0)
EVERYTHING = AugmentConfig(crop=0.2, flip=0.5, blur=0.5)


def pictures(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(*shape, generator=generator, dtype=torch.float64) - 1


def numbers(*lead, **chosen):
    """All in the middle but those named by their place."""
    values = torch.full((*lead, len(NUMBERS)), 0.5, dtype=torch.float64)
    for name, value in chosen.items():
        values[..., NUMBERS.index(name)] = value
    return values


def only(**strength):
    return STILL.model_copy(update=strength)


def test_nothing_asked_for_changes_nothing():
    x = pictures(2, 3, 8, 8, 3)
    torch.testing.assert_close(augment(x, draw([torch.Generator()] * 2, 3), STILL), x)


def test_a_crop_by_hand():
    x = pictures(1, 8, 6, 1)
    seen = augment(x, numbers(1, area=0.5, ratio=0.9, x=0.3, y=0.8), only(crop=0.2))
    share, stretch = 0.2 + 0.8 * 0.5, math.sqrt((4 / 3) ** 0.8)
    wide, high = math.sqrt(share) * stretch, math.sqrt(share) / stretch
    left, top = 0.3 * (1 - wide), 0.8 * (1 - high)  # of the picture's width and height

    def sample(row, column):
        row, column = min(max(row, 0), 7), min(max(column, 0), 5)
        up, west = int(row), int(column)
        down, east = min(up + 1, 7), min(west + 1, 5)
        a, b = row - up, column - west
        upper = (1 - b) * x[0, up, west, 0] + b * x[0, up, east, 0]
        lower = (1 - b) * x[0, down, west, 0] + b * x[0, down, east, 0]
        return (1 - a) * upper + a * lower

    for i in range(8):
        for j in range(6):
            row, column = (top + high * (i + 0.5) / 8) * 8, (left + wide * (j + 0.5) / 6) * 6
            torch.testing.assert_close(seen[0, i, j, 0], sample(row - 0.5, column - 0.5))


def test_a_mirrored_picture():
    x, some = pictures(2, 5, 4, 3), numbers(2)
    some[:, NUMBERS.index("mirror")] = torch.tensor([0.29, 0.31])
    seen = augment(x, some, only(flip=0.3))
    torch.testing.assert_close(seen, torch.stack([x[0].flip(1), x[1]]))


def test_light_and_contrast_by_hand():
    x = pictures(1, 4, 4, 1)
    value = (x + 1) / 2
    seen = augment(x, numbers(1, light=0.75), only(brightness=0.4))
    torch.testing.assert_close(seen, (value * 1.2).clamp(max=1) * 2 - 1)
    seen = augment(x, numbers(1, contrast=0.25), only(contrast=0.4))
    torch.testing.assert_close(seen, (value.mean() + 0.8 * (value - value.mean())) * 2 - 1)


def test_colours_by_hand():
    x = pictures(1, 4, 4, 3)
    value = (x + 1) / 2
    luma = (value * torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)).sum(-1, keepdim=True)
    seen = augment(x, numbers(1, colour=0.0), only(saturation=0.4))
    torch.testing.assert_close(seen, (luma + 0.6 * (value - luma)) * 2 - 1, atol=1e-6, rtol=0)
    seen = augment(x, numbers(1, grey=0.1), only(grey=0.2))
    torch.testing.assert_close(seen, luma.expand_as(value) * 2 - 1, atol=1e-6, rtol=0)


def test_a_blur_by_hand():
    x = torch.full((1, 5, 5, 1), -1.0, dtype=torch.float64)
    x[0, 2, 2] = 1
    seen = (augment(x, numbers(1, soft=0.2, sigma=0.4), only(blur=0.3)) + 1) / 2
    side = math.exp(-0.5 / (0.1 + 1.9 * 0.4) ** 2)
    taps = torch.tensor([0, side, 1, side, 0], dtype=torch.float64) / (1 + 2 * side)
    torch.testing.assert_close(seen[0, :, :, 0], taps[:, None] * taps)
    flat = torch.full_like(x, 0.4)  # an edge has no dark beyond it
    torch.testing.assert_close(augment(flat, numbers(1, soft=0.2), only(blur=0.3)), flat)


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 9), st.integers(2, 9), st.sampled_from([1, 3]), st.integers(0, 10**6))
def test_a_view_is_a_picture_of_the_same_size(height, width, channels, seed):
    x = pictures(2, 3, height, width, channels, seed=seed)
    seen = augment(x, draw([torch.Generator().manual_seed(seed)] * 2, 3), EVERYTHING)
    assert seen.shape == x.shape and seen.abs().max() <= 1 + 1e-6


def test_a_client_sees_the_same_views_alone_and_in_a_stack():
    x = pictures(4, 6, 8, 8, 3).float()
    generators = [streams.generator(0, "views", 1, client) for client in range(4)]
    together = augment(x, draw(generators, 6), EVERYTHING)
    for client in range(4):
        alone = draw([streams.generator(0, "views", 1, client)], 6)
        assert torch.equal(augment(x[client : client + 1], alone, EVERYTHING)[0], together[client])


def test_a_gradient_reaches_the_picture():
    x = pictures(1, 6, 6, 3).requires_grad_()
    some = draw([torch.Generator().manual_seed(2)])
    assert torch.autograd.gradcheck(lambda x: augment(x, some, only(crop=0.4, blur=1.0)), x)


@pytest.mark.parametrize("shape", [(2, 4, 4, 2), (3, 4, 4, 1)])
def test_what_is_no_picture_is_refused(shape):
    with pytest.raises(ValueError, match=r"expected \[\.\.\., H, W, 1 or 3\] and \[\.\.\., 11\]"):
        augment(torch.zeros(shape), torch.zeros(2, 11), STILL)


def hidden(x, sizes=(4, 2), mixed=3, signs=False, seed=0):
    generators = [streams.generator(seed, "hide", 1, client) for client in range(len(sizes))]
    return hide(x, sizes, generators, mixed, signs)


def test_a_hidden_picture_is_a_mixture_of_its_clients_pictures():
    x = torch.eye(6, dtype=torch.float64).expand(2, 6, 6)
    mixture = hidden(x)
    for client, size in enumerate((4, 2)):
        own = mixture[client, :size]
        torch.testing.assert_close(own.sum(-1), torch.ones(size, dtype=torch.float64))
        assert (own >= 0).all() and not own[:, size:].any()
        assert (own.diagonal() > 0).all() and not torch.equal(own, x[client, :size])
    assert torch.equal(mixture[1, 2:], x[1, 2:])


def test_hidden_signs_keep_sizes():
    x = pictures(2, 4, 4, 4, 1).flatten(2)
    signed = hidden(x, mixed=1, signs=True)
    torch.testing.assert_close(signed.abs(), x.abs())
    share = (signed[0] == -x[0]).double().mean()
    assert 0.2 < share < 0.8
    assert torch.equal(hidden(x, mixed=1), x)


def test_a_client_hides_its_pictures_alike_alone_and_in_a_stack():
    x = pictures(2, 4, 4, 4, 1).flatten(2)
    alone = hidden(x[:1], sizes=(4,), signs=True)
    assert torch.equal(alone[0], hidden(x, signs=True)[0])

"""Linear starts: the closed form against a generalised eigenproblem, and the identity."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import block_diag, eigh
from torch.nn.functional import normalize

from fedsyn.data.moments import pair_moments
from fedsyn.data.preprocessing import add
from fedsyn.models.retrieval import build
from fedsyn.models.settings import ModelConfig
from fedsyn.models.start import LinearStart, Moments, closed_form, identity, scaled

IMAGE, TEXT = 5, 3


def pairs(rows=80, seed=0):
    """Pairs that share two factors."""
    draw = np.random.default_rng(seed)
    shared = draw.normal(size=(rows, 2))
    halves = [
        shared @ draw.normal(size=(2, width)) + 0.5 * draw.normal(size=(rows, width)) + width
        for width in (IMAGE, TEXT)
    ]
    return np.concatenate(halves, 1)


def moments_of(x, *rows):
    rows = rows or (np.arange(len(x)),)
    return Moments.of(add(pair_moments(torch.from_numpy(x), rows)), IMAGE)


def embedded(start, x):
    x = torch.from_numpy(x)
    return (
        x[:, :IMAGE] @ start.image[0] + start.image[1],
        x[:, IMAGE:] @ start.text[0] + start.text[1],
    )


def test_moments_of_clients_are_those_of_all_their_pairs():
    x = pairs()
    found = moments_of(x, np.arange(7, 30), np.array([], dtype=int), np.arange(40, 41))
    held = x[np.r_[7:30, 40]]
    np.testing.assert_allclose(found.mean, held.mean(0), atol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(held.T, bias=True), atol=1e-12)


@pytest.mark.parametrize("ridge", [1e-6, 0.1, 10.0])
def test_the_closed_form_solves_the_generalised_eigenproblem(ridge):
    """[0 C; Cᵀ 0] (a; b) = ρ diag(C̃xx, C̃yy) (a; b), which does not whiten anything."""
    x = pairs()
    cov = np.cov(x.T, bias=True)
    parts = [cov[:IMAGE, :IMAGE], cov[IMAGE:, IMAGE:]]
    damped = [c + ridge * np.trace(c) / len(c) * np.eye(len(c)) for c in parts]
    cross = np.zeros_like(cov)
    cross[:IMAGE, IMAGE:] = cov[:IMAGE, IMAGE:]
    strength, vectors = eigh(cross + cross.T, block_diag(*damped))
    found = closed_form(moments_of(x), 4, ridge, 2)
    for place in range(2):  # the largest come last; each half of a vector has a square of 1/2
        rho, vector = (
            strength[-1 - place],
            vectors[:, -1 - place] * 2**0.5 * strength[-1 - place] ** 0.5,
        )
        a, b = found.image[0][:, place].numpy(), found.text[0][:, place].numpy()
        sign = np.sign(a @ vector[:IMAGE])
        np.testing.assert_allclose(a, sign * vector[:IMAGE], atol=1e-8)
        np.testing.assert_allclose(b, sign * vector[IMAGE:], atol=1e-8)
        assert 0 < rho < 1
    assert not found.image[0][:, 2:].any()


def test_embeddings_of_the_closed_form_are_centred_and_weighed_by_their_correlations():
    x = pairs(4000)
    image, text = embedded(closed_form(moments_of(x), 3, 1e-9, 3), x)
    torch.testing.assert_close(
        image.mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-9, rtol=0
    )
    correlation = image.T @ text / len(x)
    squares = image.square().mean(0)
    torch.testing.assert_close(correlation.diag(), squares.square(), atol=1e-6, rtol=1e-5)
    assert squares[0] > squares[1] > squares[2]


def test_a_rotation_turns_both_embeddings_alike():
    x, turn = pairs(), torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    plain, turned = (closed_form(moments_of(x), 4, 1.0, 3, r) for r in (None, turn))
    for one, other in zip(embedded(plain, x), embedded(turned, x), strict=True):
        torch.testing.assert_close(one @ turn, other)


def test_features_without_variance_give_a_start_without_numbers_that_are_not_finite():
    x = pairs()
    x[:, :IMAGE] = 3.0
    found = scaled(closed_form(moments_of(x), 4, 1.0, 4), moments_of(x), 1.0)
    assert all(part.isfinite().all() for part in (*found.image, *found.text))


def test_the_identity_is_what_features_were_before_they_were_standardised():
    raw = np.random.default_rng(1).normal(3, 4, (50, 2 * IMAGE))
    raw[:, 2] = 7.0  # switched off when standardised, but there before
    offset, deviation = raw.mean(0), raw.std(0)
    scale = np.where(deviation > 0, 1 / np.where(deviation > 0, deviation, 1), 0)
    halves = {"image": slice(None, IMAGE), "text": slice(IMAGE, None)}
    known = {
        f"{name}.{part}": torch.from_numpy(value[own])
        for name, own in halves.items()
        for part, value in (("offset", offset), ("scale", scale))
    }
    image, text = embedded(identity(known), (raw - offset) * scale)
    np.testing.assert_allclose(torch.cat([image, text], 1), raw, atol=1e-12)


@settings(deadline=None, max_examples=20)
@given(st.floats(0.01, 100), st.integers(0, 5))
def test_scaling_gives_the_mean_square_asked_for(square, seed):
    x = pairs(seed=seed)
    found = scaled(closed_form(moments_of(x), 4, 1.0, 3), moments_of(x), square)
    for half in embedded(found, x):
        assert half.square().sum(1).mean() == pytest.approx(square, rel=1e-9)


@pytest.mark.parametrize("hidden", [(), (7,), (6, 4)])
@pytest.mark.parametrize("bits", [0, 4])
def test_a_network_starts_as_the_linear_maps(hidden, bits):
    x = pairs()
    start = closed_form(moments_of(x), 4, 1.0, 3)
    net = build(ModelConfig(hidden=hidden, dim=4, bits=bits), IMAGE, TEXT, {}, linear=True)
    model = net.started(net.init(torch.Generator().manual_seed(0)), start)
    found = net.embed(model[None], torch.from_numpy(x).float()[None])
    for one, other in zip(found, embedded(start, x), strict=True):
        bent = torch.tanh(other) if bits else other
        torch.testing.assert_close(one[0], normalize(bent, dim=-1).float(), atol=1e-5, rtol=1e-4)


def test_no_gradient_reaches_a_frozen_linear_term():
    config = ModelConfig(hidden=(6,), dim=4, linear="frozen")
    net = build(config, IMAGE, TEXT, {"log_scale": torch.zeros(1)}, linear=True)
    start = LinearStart("any", *((torch.randn(d, 4), torch.randn(4)) for d in (IMAGE, TEXT)))
    leaf = net.started(net.init(torch.Generator().manual_seed(0)), start)[None].requires_grad_()
    image, text = net.embed(leaf, torch.from_numpy(pairs()).float()[None])
    (image * text.flip(1)).sum().backward()
    slopes = net.layout.views(leaf.grad)
    assert not slopes["image.linear"].any()
    assert not slopes["text.linear"].any()
    assert slopes["image.1.weight"].any()
    assert slopes["text.1.bias"].any()

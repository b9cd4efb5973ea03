"""CreamFL's losses: rows that pad a batch, and what is not there, take no part."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import mse_loss, normalize

from fedsyn.methods.creamfl import losses as cream
from fedsyn.methods.creamfl.losses import CreamFLOptions

NAMES = ("image", "text")


def unit(*shape, seed):
    draw = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=draw, dtype=torch.float64), dim=-1)


def both(*shape, seed):
    return {name: unit(*shape, seed=seed + k) for k, name in enumerate(NAMES)}


def test_representations_that_cannot_be_told_apart_have_the_logarithm_of_their_number():
    alike = torch.zeros(1, 4, 3)
    alike[..., 0] = 1
    z = {"image": alike}
    server = {"image": alike[0], "text": alike[0].repeat(5, 1)}
    place, valid = torch.arange(4)[None], torch.ones(1, 4, dtype=torch.bool)
    before = {"image": alike}
    for own, expected in (
        (CreamFLOptions(intra=False), math.log(20)),
        (CreamFLOptions(inter=False), math.log(2)),
        (CreamFLOptions(), math.log(20) + math.log(2)),
    ):
        found = cream.regularisers(z, server, before, place, valid, own)
        assert found.tolist() == pytest.approx([expected], rel=1e-6)


def test_the_pull_of_the_clients_mean_is_its_squared_distance():
    east, north = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    z = {"image": torch.stack([east, north, east])[None]}
    means = {"image": torch.stack([north, torch.full((2,), torch.nan), 0.5 * east])}
    place, valid = torch.tensor([[0, 1, 2]]), torch.ones(1, 3, dtype=torch.bool)
    found = cream.distillation(z, means, place, valid)
    assert found.tolist() == pytest.approx([(2 + 0.25) / 2])  # nobody has the second


def test_the_published_weight_of_the_mean_over_entries_is_that_weight_over_their_number():
    z, means = unit(1, 4, 8, seed=0), unit(4, 8, seed=1)
    place, valid = torch.arange(4)[None], torch.ones(1, 4, dtype=torch.bool)
    summed = cream.distillation({"image": z}, {"image": means}, place, valid)
    torch.testing.assert_close(0.3 / 8 * summed, 0.3 * mse_loss(z[0], means)[None])


def test_a_margin_and_classes_at_right_angles():
    weight = torch.eye(3)[None] * 2
    z, label = torch.eye(3)[None, :1], torch.tensor([[0]])
    valid = torch.ones(1, 1, dtype=torch.bool)
    plain, margin, apart = (
        cream.by_label(z, weight, label, valid, *own).item() for own in ((0, 0), (2, 0), (0, 1))
    )
    assert plain == pytest.approx(math.log(math.exp(2) + 2) - 2)
    assert margin == pytest.approx(math.log(3))
    assert apart - plain == pytest.approx(math.log(math.exp(4) + 2) - 4)


def test_rows_without_a_label_teach_nothing():
    z, weight = unit(1, 4, 3, seed=0), unit(1, 5, 3, seed=1)
    label, valid = torch.tensor([[2, -1, 4, -1]]), torch.ones(1, 4, dtype=torch.bool)
    found = cream.by_label(z, weight, label, valid, 4.0, 0.0)
    known = cream.by_label(z[:, [0, 2]], weight, label[:, [0, 2]], valid[:, :2], 4.0, 0.0)
    torch.testing.assert_close(found, known)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5), st.integers(0, 3), st.integers(1, 7), st.booleans(), st.integers(0, 99))
def test_padding_changes_no_loss_and_has_no_gradient(rows, padding, public, nan, seed):
    width = rows + padding
    z = {name: value.requires_grad_() for name, value in both(2, width, 3, seed=seed).items()}
    server, before = both(public, 3, seed=seed + 2), both(2, public, 3, seed=seed + 4)
    means = both(public, 3, seed=seed + 6)
    if nan:
        means["text"][:] = torch.nan
    draw = torch.Generator().manual_seed(seed)
    place = torch.randint(public, (2, width), generator=draw)
    label = torch.randint(3, (2, width), generator=draw)
    valid = (torch.arange(width) < rows).expand(2, -1)
    weight, own = unit(2, 3, 3, seed=seed + 8), CreamFLOptions()

    def losses(z, place, valid, label):
        return torch.cat([
            cream.regularisers(z, server, before, place, valid, own),
            cream.distillation(z, means, place, valid),
            cream.by_label(z["image"], weight, label, valid, 4.0, 0.5),
        ])  # fmt: skip

    whole = losses(z, place, valid, label)
    cut = {name: value[:, :rows] for name, value in z.items()}
    torch.testing.assert_close(
        whole, losses(cut, place[:, :rows], valid[:, :rows], label[:, :rows])
    )
    for gradient in torch.autograd.grad(whole.sum(), list(z.values())):
        assert gradient.isfinite().all() and not gradient[:, rows:].any()

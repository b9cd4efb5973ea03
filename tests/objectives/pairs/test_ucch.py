"""UCCH: contrast with a memory of the client's pairs, and a ranking."""

import math

import numpy as np
import pytest
import torch

from fedsyn.objectives.pairs.ucch import UCCH, UCCHOptions

CONFIG = UCCHOptions(
    contrast=0.7, temperature=0.8, momentum=0.3, negatives=10, margin=0.2, shift=0.5
)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def key(row, hashing):
    return np.sign(row) / math.sqrt(len(row)) if hashing else row


def contrast(h, keys, own, weights):
    """The mean over rows of −log e^own / Σ weighted e, with its own key among the weighted."""
    total = 0.0
    for i, row in enumerate(h):
        z = [row @ k / CONFIG.temperature for k in keys]
        below = sum(w * math.exp(v) for w, v in zip(weights[i], z, strict=True))
        total += -math.log(math.exp(z[own[i]]) / below)
    return total / len(h)


def ranking(image, text):
    n, total = len(image), 0.0
    for s in (image @ text.T, text @ image.T):
        for i in range(n):
            near = [v if v >= s[i, i] - CONFIG.margin else v - CONFIG.shift for v in s[i]]
            total += CONFIG.margin - s[i, i] + math.log(sum(math.exp(v) for v in near))
    return total / n


def first_pass(image, text, hashing):
    keys = [key(row, hashing) for row in unit(image + text)]
    ones, own = np.ones((len(image), len(image))), range(len(image))
    of_modality = [contrast(h, keys, own, ones) for h in (image, text)]
    return CONFIG.contrast * sum(of_modality) + (1 - CONFIG.contrast) * ranking(image, text)


def later_pass(image, text, bank, place, hashing):
    keys = [key(row, hashing) for row in bank]
    weights = np.full((len(image), len(bank)), CONFIG.negatives / len(bank))
    weights[range(len(image)), place] += 1
    of_modality = [contrast(h, keys, place, weights) for h in (image, text)]
    return CONFIG.contrast * sum(of_modality) + (1 - CONFIG.contrast) * ranking(image, text)


def ucch(sizes):
    return UCCH.pairs(CONFIG, sizes)


def fill(entries, seed=3):
    """Random unit rows in place of what earlier steps would have left."""
    rows = np.random.default_rng(seed).normal(size=entries.shape)
    entries.copy_(torch.from_numpy(unit(rows)))


@pytest.mark.parametrize("hashing", [False, True])
def test_the_batch_alone_is_contrasted_with_its_own_codes(stack, each, hashing):
    sizes, _, batch, _ = stack(hashing)
    expected = [first_pass(image, text, hashing) for image, text, _ in each(batch)]
    assert ucch(sizes)({}, batch).tolist() == pytest.approx(expected)


def test_the_keys_of_a_batch_are_constants(stack):
    sizes, _, batch, _ = stack(False)
    loss = UCCH.pairs(UCCHOptions(contrast=1.0), sizes)({}, batch)[0]
    (gradient,) = torch.autograd.grad(loss, batch.image)
    keys = (batch.image + batch.text)[0].detach()
    keys = keys / keys.norm(dim=-1, keepdim=True)
    chances = (batch.image[0].detach() @ keys.T / 0.9).softmax(-1)
    expected = (chances - torch.eye(4)) @ keys / 0.9 / 4
    torch.testing.assert_close(gradient[0], expected.double())


@pytest.mark.parametrize("hashing", [False, True])
def test_in_the_first_pass_the_memory_is_filled_and_not_read(stack, hashing):
    sizes, held, batch, place = stack(hashing, held=(7, 5), batch=(4, 3), steps=(2, 2))
    objective = ucch(sizes)
    memory = objective.remember(held)
    fill(memory.entries)
    for step in (0, 1):
        loss = memory({}, batch, torch.arange(2), place, torch.tensor(step))
        assert torch.equal(loss, objective({}, batch))
        for c, n in enumerate((4, 3)):
            fused = unit((batch.image + batch.text).detach().numpy())[c, :n]
            np.testing.assert_allclose(memory.entries[c, place[c, :n]], fused)


@pytest.mark.parametrize("hashing", [False, True])
def test_later_passes_contrast_with_all_pairs_and_move_their_own(stack, each, hashing):
    sizes, held, batch, place = stack(hashing)
    memory = ucch(sizes).remember(held)
    fill(memory.entries)
    before = memory.entries.clone().numpy()
    loss = memory({}, batch, torch.arange(2), place, torch.tensor(2))
    for c, ((image, text, _), n) in enumerate(zip(each(batch), (7, 5), strict=True)):
        at = place[c, : len(image)].numpy()
        expected = later_pass(image, text, before[c, :n], at, hashing)
        assert loss[c].item() == pytest.approx(expected)
        bank = before[c, :n].copy()
        bank[at] = unit(0.3 * bank[at] + 0.7 * unit(image + text))
        np.testing.assert_allclose(memory.entries[c, :n], bank)


def test_clients_leave_the_first_pass_each_after_its_own_steps(stack, each):
    sizes, held, batch, place = stack(True, steps=(3, 1))
    objective = ucch(sizes)
    memory = objective.remember(held)
    fill(memory.entries)
    bank = memory.entries[1, :5].clone().numpy()
    loss = memory({}, batch, torch.arange(2), place, torch.tensor(1))
    image, text, _ = each(batch)[1]
    assert loss[0] == objective({}, batch)[0]
    assert loss[1].item() == pytest.approx(later_pass(image, text, bank, place[1, :3], True))


def test_clients_find_their_memory_by_position(stack):
    sizes, held, batch, place = stack(True, batch=(4, 4))
    memory, turned = (ucch(sizes).remember(held) for _ in range(2))
    for one in (memory, turned):
        fill(one.entries)
    loss = memory({}, batch, torch.arange(2), place, torch.tensor(2))
    swapped = type(batch)(*(field[[1, 0]] for field in batch))
    again = turned({}, swapped, torch.tensor([1, 0]), place[[1, 0]], torch.tensor(2))
    torch.testing.assert_close(again, loss[[1, 0]])
    torch.testing.assert_close(turned.entries, memory.entries)

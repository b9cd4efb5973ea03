"""DGCPN: codes as similar as the features and their neighbourhoods."""

import math

import numpy as np
import pytest
import torch

from fedsyn.objectives.pairs.base import Sizes
from fedsyn.objectives.pairs.dgcpn import DGCPN, DGCPNOptions

CONFIG = DGCPNOptions(text=0.4, second=0.2, dropped=0.3, scale=0.8, target=1.5)
IMAGE = 4  # features of the fixture's images


def cosine(x, y):
    return x @ y / np.linalg.norm(x) / np.linalg.norm(y)


def targets(pairs):
    """S of all pairs that a client holds, by dense n x n matrices."""
    n = len(pairs)
    a, q = np.empty((n, n)), np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            image = cosine(pairs[i, :IMAGE], pairs[j, :IMAGE])
            text = cosine(pairs[i, IMAGE:], pairs[j, IMAGE:])
            a[i, j] = CONFIG.text * text + (1 - CONFIG.text) * image
    for i in range(n):
        for rank, j in enumerate(np.argsort(a[i])):
            if rank >= math.floor(CONFIG.dropped * n) and j != i:
                q[i, j] = max(a[i, j], 0)
        if q[i].sum():
            q[i] /= q[i].sum()
    return 2 * ((1 - CONFIG.second) * a + CONFIG.second * CONFIG.scale * n * q @ q.T) - 1


def term(image, text, s):
    n, total = len(image), 0.0
    for i in range(n):
        total += (image[i] @ text[i] - CONFIG.target) ** 2 / n
        for j in range(n):
            ii, tt = image[i] @ image[j], text[i] @ text[j]
            it, ti = image[i] @ text[j], image[j] @ text[i]
            if i != j:
                fit = (tt - s[i, j]) ** 2 + (it - s[i, j]) ** 2 + (ii - s[i, j]) ** 2
                total += fit / (n * n - n)
            agree = (it - ii) ** 2 + (it - tt) ** 2 + (ii - tt) ** 2 + (it - ti) ** 2
            total += agree / (n * n)
    return total


def loss_of(image, text, s, hashing):
    if not hashing:
        return term(image, text, s)
    signs = [np.sign(rows) / math.sqrt(rows.shape[1]) for rows in (image, text)]
    return term(image, text, s) + term(image, signs[1], s) + term(signs[0], text, s)


def dgcpn(sizes):
    return DGCPN.pairs(CONFIG, sizes)


@pytest.mark.parametrize("hashing", [False, True])
def test_by_the_batch_alone_the_batch_is_the_graph(stack, each, hashing):
    sizes, _, batch, _ = stack(hashing, held=(9, 5), batch=(6, 4))
    expected = [loss_of(i, t, targets(pairs), hashing) for i, t, pairs in each(batch)]
    assert dgcpn(sizes)({}, batch).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("hashing", [False, True])
def test_neighbours_are_found_among_all_pairs_of_the_client(stack, each, hashing):
    sizes, held, batch, place = stack(hashing, held=(12, 7), batch=(5, 4))
    memory = dgcpn(sizes).remember(held)
    loss = memory({}, batch, torch.arange(2), place, torch.tensor(0))
    for c, ((image, text, _), n) in enumerate(zip(each(batch), (12, 7), strict=True)):
        at = place[c, : len(image)].numpy()
        s = targets(held.pairs[c, :n].numpy())[np.ix_(at, at)]
        assert loss[c].item() == pytest.approx(loss_of(image, text, s, hashing))


def test_clients_find_their_graph_by_position(stack):
    sizes, held, batch, place = stack(True, batch=(4, 4))
    memory = dgcpn(sizes).remember(held)
    loss = memory({}, batch, torch.arange(2), place, torch.tensor(0))
    turned = type(batch)(*(field[[1, 0]] for field in batch))
    again = memory({}, turned, torch.tensor([1, 0]), place[[1, 0]], torch.tensor(0))
    torch.testing.assert_close(again, loss[[1, 0]])


def test_a_pair_without_neighbours_has_no_coherence():
    """Of two opposite pairs neither is a neighbour: S_12 = 2 (1 − b) · (−1) − 1 = −2.6."""
    objective = dgcpn(Sizes(image=2, text=1, code=2, hashing=False))
    rows = objective.rows(torch.tensor([[[1.0, 0.0, 1.0], [-1.0, 0.0, -1.0]]]))
    place, exists = torch.arange(2)[None], torch.ones(1, 2, dtype=torch.bool)
    similarity = objective.similarity(rows, rows, place, exists)
    torch.testing.assert_close(similarity, torch.tensor([[[0.6, -2.6], [-2.6, 0.6]]]))

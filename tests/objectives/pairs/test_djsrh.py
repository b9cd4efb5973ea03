"""DJSRH: similarities of both modalities joined, and similarities of similarities."""

import numpy as np
import pytest

from fedsyn.objectives.pairs.djsrh import DJSRH, DJSRHOptions

CONFIG = DJSRHOptions(image=0.7, second=0.3, scale=1.2, intra=0.25)
IMAGE = 4  # features of the fixture's images


def cosine(x, y):
    return x @ y / np.linalg.norm(x) / np.linalg.norm(y)


def loss_of(image, text, pairs):
    n, total = len(pairs), 0.0
    first = np.empty((n, n))
    for i in range(n):
        for j in range(n):
            of_images = 2 * cosine(pairs[i, :IMAGE], pairs[j, :IMAGE]) - 1
            of_texts = 2 * cosine(pairs[i, IMAGE:], pairs[j, IMAGE:]) - 1
            first[i, j] = CONFIG.image * of_images + (1 - CONFIG.image) * of_texts
    for i in range(n):
        for j in range(n):
            second = sum(first[i, k] * first[j, k] for k in range(n)) / n
            s = CONFIG.scale * ((1 - CONFIG.second) * first[i, j] + CONFIG.second * second)
            total += (image[i] @ text[j] - s) ** 2
            total += CONFIG.intra * (image[i] @ image[j] - s) ** 2
            total += CONFIG.intra * (text[i] @ text[j] - s) ** 2
    return total / n**2


@pytest.mark.parametrize("hashing", [False, True])
def test_the_loss_is_the_papers(stack, each, hashing):
    sizes, _, batch, _ = stack(hashing, held=(7, 6), batch=(5, 3))
    objective = DJSRH.pairs(CONFIG, sizes)
    expected = [loss_of(*rows) for rows in each(batch)]
    assert objective({}, batch).tolist() == pytest.approx(expected)


def test_it_remembers_nothing(stack):
    made = stack(True)
    assert DJSRH.pairs(DJSRHOptions(), made.sizes).remember(made.held) is None

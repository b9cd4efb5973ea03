"""JDSH: joint similarities, the extreme ones stressed."""

import math

import numpy as np
import pytest

from fedsyn.objectives.pairs.jdsh import JDSH, JDSHOptions

CONFIG = JDSHOptions(
    image=0.5, text=0.2, joint=0.3, low=-0.5, high=-0.1, minimum=-0.6, maximum=0.5,
    stress_low=0.3, stress_high=0.4, scale=1.3, intra=0.2,
)  # fmt: skip
IMAGE = 4  # features of the fixture's images


def cosine(x, y):
    return x @ y / np.linalg.norm(x) / np.linalg.norm(y)


def similarity(pairs):
    n = len(pairs)
    of_images, of_texts, s = (np.empty((n, n)) for _ in range(3))
    for i in range(n):
        for j in range(n):
            of_images[i, j] = 2 * cosine(pairs[i, :IMAGE], pairs[j, :IMAGE]) - 1
            of_texts[i, j] = 2 * cosine(pairs[i, IMAGE:], pairs[j, IMAGE:]) - 1
    stressed = {"low": 0, "high": 0, "plain": 0}
    for i in range(n):
        for j in range(n):
            there, back = cosine(of_images[i], of_texts[j]), cosine(of_images[j], of_texts[i])
            v = CONFIG.image * of_images[i, j] + CONFIG.text * of_texts[i, j]
            v += CONFIG.joint * (there + back) / 2
            if v < CONFIG.low:
                stressed["low"] += 1
                v *= 1 + CONFIG.stress_low * math.exp(-(v - CONFIG.minimum))
            elif v > CONFIG.high:
                stressed["high"] += 1
                v *= 1 + CONFIG.stress_high * math.exp(v - CONFIG.maximum)
            else:
                stressed["plain"] += 1
            s[i, j] = CONFIG.scale * v
    return s, stressed


def loss_of(image, text, pairs):
    n, total = len(pairs), 0.0
    s, _ = similarity(pairs)
    for i in range(n):
        total += (1 - image[i] @ text[i]) / n
        for j in range(n):
            within = (image[i] @ image[j] - s[i, j]) ** 2 + (text[i] @ text[j] - s[i, j]) ** 2
            across = (image[i] @ text[j] - s[i, j]) ** 2 + (text[i] @ image[j] - s[i, j]) ** 2
            total += (CONFIG.intra * within + across) / n**2
    return total


@pytest.mark.parametrize("hashing", [False, True])
def test_the_loss_is_the_papers(stack, each, hashing):
    sizes, _, batch, _ = stack(hashing, held=(12, 6), batch=(10, 3))
    rows = each(batch)
    assert all(similarity(rows[0][2])[1].values()), "low, high and plain similarities"
    objective = JDSH.pairs(CONFIG, sizes)
    assert objective({}, batch).tolist() == pytest.approx([loss_of(*client) for client in rows])


def test_it_remembers_nothing(stack):
    made = stack(True)
    assert JDSH.pairs(JDSHOptions(), made.sizes).remember(made.held) is None

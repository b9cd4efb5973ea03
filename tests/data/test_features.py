import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsyn.data import features
from fedsyn.data.features import hashed_counts, hog
from fedsyn.errors import DataError


@pytest.fixture
def pictures():
    return np.random.default_rng(0).integers(0, 256, size=(7, 32, 40), dtype=np.uint8)


def stripes(vertical: bool) -> np.ndarray:
    wave = (np.arange(32) % 8 < 4) * 255
    grid = np.tile(wave, (32, 1))
    return (grid if vertical else grid.T).astype(np.uint8)[None]


def test_any_size_gives_as_many_features(pictures):
    blocks = (features.CELLS - 1) ** 2 * 4 * features.ORIENTATIONS
    assert hog(pictures).shape == (7, blocks) == hog(np.zeros((7, 64, 10), np.uint8)).shape
    assert hog(pictures).dtype == np.float32


def test_chunks_do_not_change_the_result(pictures, monkeypatch):
    whole = hog(pictures)
    monkeypatch.setattr(features, "CHUNK", 2)
    assert np.allclose(hog(pictures), whole, atol=1e-6)


def test_blocks_have_unit_length_and_flat_pictures_none(pictures):
    size = 4 * features.ORIENTATIONS
    assert np.allclose(np.linalg.norm(hog(pictures).reshape(-1, size), axis=1), 1, atol=1e-3)
    assert np.all(hog(np.full((1, 32, 32), 77, np.uint8)) == 0)


def test_orientation_is_told_and_polarity_is_not():
    upright, lying = hog(stripes(True)), hog(stripes(False))
    by_orientation = upright.reshape(-1, features.ORIENTATIONS).sum(axis=0)
    assert by_orientation.argmax() == 0  # the gradient of vertical stripes is horizontal
    assert (upright * lying).sum() < 0.1 * (upright * upright).sum()
    assert np.allclose(hog(255 - stripes(True)), upright, atol=1e-6)


def test_grey_pictures_in_rgb_have_the_same_gradients(pictures):
    grey = hog(pictures)
    coloured = hog(np.repeat(pictures[..., None], 3, axis=-1))
    assert np.allclose(coloured[:, : grey.shape[1]], grey, atol=1e-3)


def test_colour_is_described_where_it_is():
    red = np.zeros((1, 32, 32, 3), np.uint8)
    red[:, :16, :, 0] = 255
    colours = hog(red)[0, -(features.COLOURS**2) * 3 :].reshape(features.COLOURS, -1, 3)
    assert colours[0, :, 0] == pytest.approx(features.COLOUR_WEIGHT, rel=1e-3)
    assert np.all(colours[-1] == 0) and np.all(colours[..., 1:] == 0)


def test_pictures_too_small_are_refused():
    with pytest.raises(DataError, match="8 x 30 pixels are too small"):
        hog(np.zeros((2, 8, 30), np.uint8))


def test_of_no_pictures_there_are_no_descriptors(pictures):
    coloured = np.repeat(pictures[:0, ..., None], 3, axis=-1)
    assert hog(pictures[:0]).shape == (0, 576) and hog(coloured).shape == (0, 624)


def test_counts_are_those_of_words_and_their_grams():
    row = hashed_counts(["abc abc"], 1 << 20)
    # the word, " ab" "abc" "bc ", " abc" "abc ", " abc ": each twice
    assert sorted(row.data) == [2.0] * 7


def test_grams_stay_within_words():
    joint = hashed_counts(["left right"], 1 << 20).toarray()
    assert np.array_equal(joint, hashed_counts(["left", "right"], 1 << 20).toarray().sum(0)[None])


def test_case_and_punctuation_do_not_count():
    one, other = hashed_counts(["Straße, GROSS!", "strasse gross"], 512).toarray()
    assert np.array_equal(one, other)


@given(st.lists(st.text(max_size=20), min_size=1, max_size=5), st.integers(16, 300))
def test_every_text_is_hashed_alone(strings, buckets):
    together = hashed_counts(strings, buckets)
    assert together.shape == (len(strings), buckets)
    for row, string in enumerate(strings):
        assert np.array_equal(
            together.toarray()[row], hashed_counts([string], buckets).toarray()[0]
        )


def test_empty_strings_are_empty_rows():
    assert hashed_counts(["", "  ", "..."], 64).nnz == 0


def test_the_hash_is_the_same_in_every_process():
    assert sorted(hashed_counts(["cat"], 1024).indices.tolist()) == [
        63,
        422,
        473,
        600,
        664,
        732,
        936,
    ]

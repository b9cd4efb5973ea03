import time
import unicodedata

import numpy as np
import pytest

from fedsyn.data.glyphs import FACES, glyphs


@pytest.fixture(scope="module")
def sans():
    return glyphs()


def test_every_named_character_of_the_font_is_a_pair(sans):
    assert 5_500 < len(sans) < 6_000
    assert sans.image.shape[1:] == (32, 32) and sans.image.dtype == np.uint8
    assert sans.text[sans.columns["character"] == "A"] == ["LATIN CAPITAL LETTER A"]


def test_blank_characters_are_dropped(sans):
    assert (sans.image.min(axis=(1, 2)) < 255).all()
    assert " " not in sans.columns["character"]


def test_pictures_are_black_on_white_and_centred(sans):
    ink = 255.0 - sans.image[sans.columns["character"] == "O"][0]
    rows, columns = np.nonzero(ink > 128)
    assert ink[0].max() == 0
    assert abs(columns.mean() - 15.5) < 1.5 and abs(rows.mean() - 15.5) < 4


def test_labels_are_the_sixteen_most_frequent_first_words(sans):
    assert len(sans.label_names) == 16 and sans.label_names[0] == "LATIN"
    for label, name in zip(sans.label[::50], sans.text[::50], strict=True):
        first = name.split()[0]
        assert label == (sans.label_names.index(first) if first in sans.label_names else -1)
    assert (sans.label == -1).any()
    sizes = np.bincount(sans.label[sans.label >= 0])
    assert (np.diff(sizes) <= 0).all()


def test_the_split_has_the_size_asked_for_and_depends_on_its_seed_only(sans):
    assert abs(sans.split.mean() - 0.2) < 0.01
    assert np.array_equal(glyphs().split, sans.split)
    assert not np.array_equal(glyphs(split_seed=1).split, sans.split)


def test_a_character_never_crosses_the_split_in_another_face(sans):
    pairs = glyphs(tuple(FACES))
    tested, trained = (
        set(pairs.columns["character"][side]) for side in (pairs.split, ~pairs.split)
    )
    assert not tested & trained
    assert set(sans.columns["character"][sans.split]) <= tested
    assert set(pairs.columns["face"]) == set(FACES)
    assert len(pairs) > 3 * len(sans)


def test_faces_draw_the_same_names_differently(sans):
    pairs = glyphs(("sans", "serif", "sans"))
    one, other = (pairs.image[pairs.text == unicodedata.name("g")][i] for i in (0, 1))
    assert (pairs.text == unicodedata.name("g")).sum() == 2
    assert not np.array_equal(one, other)
    assert pairs.label_names == sans.label_names


def test_drawing_takes_well_under_two_seconds():
    start = time.process_time()
    glyphs()
    assert time.process_time() - start < 2.0

import io

import numpy as np
import pytest
from PIL import Image

from fedsyn.data.pictures import decode, matching
from fedsyn.errors import DataError


def png(mode: str, colour: object, size: tuple[int, int] = (20, 10)) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, colour).save(stream, "png")
    return stream.getvalue()


def test_pictures_of_any_size_become_squares():
    assert decode([png("L", 9), png("L", 7, (3, 40))], 16).shape == (2, 16, 16)


def test_one_coloured_picture_makes_all_rgb():
    pixels = decode([png("L", 9), png("RGB", (255, 0, 0))], 16)
    assert pixels.shape == (2, 16, 16, 3)
    assert pixels[0, 3, 3].tolist() == [9, 9, 9] and pixels[1, 3, 3].tolist() == [255, 0, 0]


def test_transparency_lies_on_white():
    assert decode([png("RGBA", (0, 0, 0, 0))], 16)[0, 5, 5].tolist() == [255, 255, 255]


def test_paths_are_read(tmp_path):
    (tmp_path / "a.png").write_bytes(png("L", 3))
    assert (decode([tmp_path / "a.png"], 16) == 3).all()


def test_a_missing_picture_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no\.png' \(row 0\) does not exist"):
        decode([tmp_path / "no.png"], 16)


def test_a_damaged_picture_is_named():
    with pytest.raises(DataError, match=r"row 1.*cannot be decoded"):
        decode([png("L", 3), png("L", 3)[:-30]], 16)


def test_new_pictures_are_brought_to_the_size_and_channels_of_the_old():
    grey, coloured = np.full((2, 8, 9), 5, np.uint8), np.full((2, 8, 9, 3), 5, np.uint8)
    assert matching(grey, 16, 12, 3).shape == (2, 16, 12, 3)
    assert np.array_equal(matching(coloured, 8, 9, 1), grey)
    assert np.array_equal(matching(grey, 8, 9, 1), grey)

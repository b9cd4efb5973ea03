import numpy as np
import pytest

from fedsyn.data.pairs import Pairs


@pytest.mark.parametrize(
    ("shape", "picture"),
    [((4, 5, 6), (5, 6, 1)), ((4, 5, 6, 3), (5, 6, 3)), ((4, 9), (0, 0, 0))],
)
def test_the_size_of_pictures_is_that_of_pixels(shape, picture):
    image = np.zeros(shape, dtype=np.uint8 if len(shape) > 2 else np.float32)
    assert Pairs("p", image, np.zeros((4, 2))).picture == picture

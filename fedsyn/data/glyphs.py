"""The embedded data set: characters of DejaVu Sans, drawn, and their official Unicode names.

Nothing is downloaded and nothing is stored: the fonts come with matplotlib and the names with
Python. A character's script or kind (the first word of its name) is its label.
"""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedsyn.data.pairs import Pairs
from fedsyn.streams import numpy_generator

SIDE = 32  # pixels
POINTS = 24  # font size
LABELS = 16  # most frequent first words; every other character is unlabelled
FACES = {
    "sans": "DejaVuSans.ttf",
    "bold": "DejaVuSans-Bold.ttf",
    "oblique": "DejaVuSans-Oblique.ttf",
    "serif": "DejaVuSerif.ttf",
    "mono": "DejaVuSansMono.ttf",
}


def glyphs(
    faces: Sequence[str] = ("sans",), test_fraction: float = 0.2, split_seed: int = 0
) -> Pairs:
    """Draw every named character of each face; about 5,749 pairs in ``sans`` alone.

    The test split is drawn by character, so that a character seen in training in one face is
    never a test pair in another, and the same characters are tested whatever the faces.

    Parameters
    ----------
    faces : names from `FACES`; the face of a pair is in column ``face``.
    test_fraction : share of the characters that are test pairs.
    split_seed : seed of that draw.

    Returns
    -------
    Pairs
        ``image`` uint8 [N, 32, 32], black on white; ``text`` official names; ``label`` int64 [N].
    """
    named = _named_characters("sans")
    label_names = _frequent_first_words(named)
    tested = _test_characters(named, test_fraction, split_seed)
    drawn = [(face, *_draw(face, named)) for face in dict.fromkeys(faces)]
    characters = np.concatenate([kept for _, kept, _ in drawn])
    names = [unicodedata.name(character) for character in characters]
    number = {word: index for index, word in enumerate(label_names)}
    return Pairs(
        name="glyphs",
        image=np.concatenate([pixels for _, _, pixels in drawn]),
        text=np.array(names),
        label=np.array([number.get(_first_word(name), -1) for name in names], dtype=np.int64),
        label_names=label_names,
        split=np.array([character in tested for character in characters]),
        columns={
            "character": characters,
            "face": np.concatenate([np.full(len(kept), face) for face, kept, _ in drawn]),
        },
    )


def _font_path(face: str) -> Path:
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / FACES[face]


def _named_characters(face: str) -> list[str]:
    from matplotlib.ft2font import FT2Font

    points = sorted(FT2Font(str(_font_path(face))).get_charmap())
    return [chr(point) for point in points if unicodedata.name(chr(point), "")]


def _first_word(name: str) -> str:
    return name.split()[0]


def _frequent_first_words(characters: Sequence[str]) -> tuple[str, ...]:
    counts = Counter(_first_word(unicodedata.name(character)) for character in characters)
    ranked = sorted(counts, key=lambda word: (-counts[word], word))  # ties by name, not by order
    return tuple(ranked[:LABELS])


def _test_characters(characters: Sequence[str], fraction: float, seed: int) -> set[str]:
    order = numpy_generator(seed, "split").permutation(len(characters))
    return {characters[index] for index in order[: round(fraction * len(characters))]}


def _draw(face: str, named: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The characters that the face has and that leave ink, and their pixels [n, 32, 32]."""
    from PIL import Image, ImageDraw, ImageFont

    available = set(_named_characters(face))
    characters = [character for character in named if character in available]
    # The basic layout engine is always there; Raqm is optional and would shape some scripts.
    font = ImageFont.truetype(str(_font_path(face)), POINTS, layout_engine=ImageFont.Layout.BASIC)
    pixels = np.empty((len(characters), SIDE, SIDE), dtype=np.uint8)
    centre = (SIDE / 2, SIDE / 2)
    for index, character in enumerate(characters):
        canvas = Image.new("L", (SIDE, SIDE), 255)
        ImageDraw.Draw(canvas).text(centre, character, font=font, fill=0, anchor="mm")
        pixels[index] = np.asarray(canvas)
    inked = (pixels < 255).any(axis=(1, 2))
    return np.array(characters)[inked], pixels[inked]

"""Questions about pictures, with answers that are properties of the picture itself.

A data set of pairs becomes one of triples: a picture, a question, an answer, which is the label.
What is asked about is measured on the picture's own pixels (how many strokes, is it its own mirror
image, ...) or is its label. Of every question, in each wording and on each side of the split, all
answers are equally frequent: who knows the question alone can only guess.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from fedsyn.data.pairs import Pairs
from fedsyn.errors import DataError
from fedsyn.streams import numpy_generator

DARK = 128  # of the darkest channel: pixels below are ink, whatever their colour
CLEARLY = 1.25  # times the other side, a picture is tall or wide
ALIKE, UNLIKE = 0.9, 0.6  # share of the ink in both a picture and its mirror image
HEAVY = 0.56  # share of the ink in one half
LEAST = {"train": 8, "test": 2}  # fewer pictures of an answer are not asked about

NOT_ASKED = ""


@dataclass(frozen=True)
class Question:
    """One thing to ask, in several wordings, and the right answers."""

    wordings: tuple[str, ...]
    answers: np.ndarray  # [N] strings, `NOT_ASKED` where there is no clear answer


def ask(pairs: Pairs, test: np.ndarray, most: int, seed: int) -> Pairs:
    """Triples of the pictures: rows of a picture, a question about it and the answer as label.

    Parameters
    ----------
    pairs : with pixels; its texts are not looked at.
    test : int64 rows of the pictures that are test pictures: their triples are test triples.
    most : pictures at most for each answer to a question, on each side of the split.
    seed : of the draw of pictures and wordings.

    Returns
    -------
    Pairs
        ``image`` the picture, ``text`` the question, ``label`` int64 the answer, ``label_names``
        the answers; column ``picture`` is the row that the picture had.

    Raises
    ------
    DataError
        If the pairs have no pixels, or no question has two answers with enough pictures.
    """
    if not pairs.has_pixels:
        raise DataError(
            f"data.questions are about pictures; {pairs.name} has features "
            f"{list(pairs.image.shape)}"
        )
    tested = np.zeros(len(pairs), dtype=bool)
    tested[test] = True
    stream = numpy_generator(seed, "questions")
    parts = [
        part
        for question in [*_about_shapes(pairs.image), *_about_labels(pairs)]
        for part in _balanced(question, tested, most, stream)
    ]
    if not parts:
        raise DataError(
            f"there is nothing to ask about the pictures of {pairs.name}: no question has two "
            f"answers with {LEAST['train']} training and {LEAST['test']} test pictures each"
        )
    rows = np.concatenate([part.rows for part in parts])
    given = np.concatenate([np.full(len(part.rows), part.answer) for part in parts])
    names = tuple(dict.fromkeys(part.answer for part in parts))
    number = {answer: index for index, answer in enumerate(names)}
    return Pairs(
        name=f"questions about {pairs.name}",
        image=pairs.image[rows],
        text=np.concatenate([part.wording for part in parts]),
        label=np.array([number[answer] for answer in given], dtype=np.int64),
        label_names=names,
        split=tested[rows],
        columns={"picture": rows},
    )


@dataclass(frozen=True)
class _Part:
    """The pictures with one answer to one question."""

    rows: np.ndarray  # [n]
    wording: np.ndarray  # [n] strings
    answer: str


def _balanced(
    question: Question, tested: np.ndarray, most: int, stream: np.random.Generator
) -> Iterator[_Part]:
    """As many pictures for every answer that has enough, in every wording."""
    answers = [answer for answer in np.unique(question.answers) if answer != NOT_ASKED]
    found = {
        (answer, side): stream.permutation(np.flatnonzero((question.answers == answer) & on))
        for answer in answers
        for side, on in (("train", ~tested), ("test", tested))
    }
    enough = [a for a in answers if all(len(found[a, side]) >= LEAST[side] for side in LEAST)]
    if len(enough) < 2:
        return
    for side in LEAST:
        size = min(most, *(len(found[answer, side]) for answer in enough))
        wording = np.resize(np.array(question.wordings), size)
        for answer in enough:
            yield _Part(found[answer, side][:size], wording, str(answer))


# ---- What is asked ---------------------------------------------------------------------------


def _about_labels(pairs: Pairs) -> list[Question]:
    """What the picture shows, where it has one label."""
    if pairs.label is None or pairs.label.ndim == 2:
        return []
    names = np.array([*(name.lower() for name in pairs.label_names), NOT_ASKED])
    shown = names[pairs.label]  # -1 is the last
    kinds = ("what kind is it", "to which group does it belong", "what family is this from")
    questions = [Question(kinds, shown)]
    for name in names[:-1]:
        wordings = (f"is it {name}", f"does it belong to {name}", f"is this one of {name}")
        yes_or_no = np.where(shown == name, "yes", "no")
        questions.append(Question(wordings, np.where(shown == NOT_ASKED, NOT_ASKED, yes_or_no)))
    return questions


def _about_shapes(pixels: np.ndarray) -> list[Question]:
    """What can be seen in drawings on white: pictures with ink on their rim are not asked about."""
    ink = (pixels if pixels.ndim == 3 else pixels.min(axis=-1)) < DARK
    rim = ink[:, [0, -1]].any(axis=(1, 2)) | ink[:, :, [0, -1]].any(axis=(1, 2))
    drawn = np.flatnonzero(ink.any(axis=(1, 2)) & ~rim)
    boxes = [_box(ink[row]) for row in drawn]

    def answered(answer: Callable[[np.ndarray], str]) -> np.ndarray:
        answers = np.full(len(pixels), NOT_ASKED, dtype="<U16")
        answers[drawn] = [answer(box) for box in boxes]
        return answers

    return [Question(wordings, answered(answer)) for wordings, answer in _SHAPES.items()]


def _box(ink: np.ndarray) -> np.ndarray:
    """The part of a drawing that has ink."""
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def strokes(box: np.ndarray) -> str:
    """How many parts there are that do not touch, not even at a corner."""
    from scipy.ndimage import label

    return _counted(label(box, np.ones((3, 3)))[1], ("one", "two", "three"), "many")


def holes(box: np.ndarray) -> str:
    """How many parts of the paper are enclosed by ink."""
    from scipy.ndimage import label

    paper = np.pad(~box, 1, constant_values=True)
    return _counted(label(paper)[1] - 1, ("none", "one"), "many", first=0)


def _counted(number: int, words: tuple[str, ...], more: str, first: int = 1) -> str:
    return words[number - first] if number - first < len(words) else more


def proportions(box: np.ndarray) -> str:
    """Whether it is clearly taller than wide, or wider than tall."""
    height, width = box.shape
    return _either(height / width, "tall", "wide", CLEARLY, 1 / CLEARLY)


def mirrored(box: np.ndarray) -> str:
    """Whether it is its own image in a mirror that stands beside it."""
    return _either(_overlap(box, box[:, ::-1]), "yes", "no", ALIKE, UNLIKE)


def overturned(box: np.ndarray) -> str:
    """Whether it is its own image in a mirror that lies below it."""
    return _either(_overlap(box, box[::-1]), "yes", "no", ALIKE, UNLIKE)


def heavier_half(box: np.ndarray) -> str:
    """Whether more of the ink is in the upper or in the lower half."""
    return _either(_share(box), "above", "below", HEAVY, 1 - HEAVY)


def heavier_side(box: np.ndarray) -> str:
    """Whether more of the ink is in the left or in the right half."""
    return _either(_share(box.T), "left", "right", HEAVY, 1 - HEAVY)


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def _share(box: np.ndarray) -> float:
    """Of the ink, in the first half of the rows; a row in the middle counts half."""
    ink, half = box.sum(axis=1), len(box) // 2
    middle = ink[half] / 2 if len(box) % 2 else 0
    return float((ink[:half].sum() + middle) / ink.sum())


def _either(value: float, high: str, low: str, from_here: float, to_here: float) -> str:
    """One of two answers, or none where it is not clear."""
    return high if value >= from_here else low if value <= to_here else NOT_ASKED


_SHAPES: Mapping[tuple[str, ...], Callable[[np.ndarray], str]] = {
    (
        "how many strokes are there",
        "how many separate pieces is it made of",
        "count the parts that do not touch",
    ): strokes,
    (
        "how many holes does it have",
        "how many areas does it enclose",
        "count the closed loops",
    ): holes,
    (
        "is it tall or wide",
        "which is longer height or width",
        "what are its proportions",
    ): proportions,
    (
        "is it symmetric from left to right",
        "would a mirror beside it leave it unchanged",
        "do both sides look alike",
    ): mirrored,
    (
        "is it symmetric from top to bottom",
        "would turning it over leave it unchanged",
        "do upper and lower half look alike",
    ): overturned,
    (
        "is it heavier above or below",
        "in which half is more ink upper or lower",
        "where is it densest vertically",
    ): heavier_half,
    (
        "is it heavier on the left or right",
        "which side has more ink",
        "where is it densest horizontally",
    ): heavier_side,
}

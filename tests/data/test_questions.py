"""Questions about pictures: right answers, and none that the question gives away."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsyn.data import questions
from fedsyn.data.glyphs import glyphs
from fedsyn.data.local import load_pairs, local_data
from fedsyn.data.pairs import Pairs
from fedsyn.data.questions import ask
from fedsyn.errors import DataError


def drawing(text):
    """``"#."`` as ink, rows apart by spaces."""
    return np.array([[mark == "#" for mark in row] for row in text.split()])


@pytest.fixture(scope="module")
def asked():
    """Triples about the glyphs, and the glyphs."""
    pairs = glyphs()
    return ask(pairs, np.flatnonzero(pairs.split), 40, 0), pairs


@pytest.mark.parametrize(
    ("answer", "picture", "expected"),
    [
        (questions.strokes, "### ..# ###", "one"),
        (questions.strokes, "#.. .#. ..#", "one"),  # corners touch
        (questions.strokes, "#.# #.#", "two"),
        (questions.strokes, "#.# ... #.#", "many"),
        (questions.holes, "### #.# ###", "one"),
        (questions.holes, "##. #.# .##", "one"),  # paper does not leak through corners
        (questions.holes, "##. #.. ###", "none"),
        (questions.holes, "##### #.#.# #####", "many"),
        (questions.proportions, "## ## ##", "tall"),
        (questions.proportions, "### ###", "wide"),
        (questions.proportions, "#### #### #### ####", questions.NOT_ASKED),
        (questions.mirrored, "#.# .#. .#.", "yes"),
        (questions.mirrored, "##. #.. #..", "no"),
        (questions.overturned, "##. #.. ##.", "yes"),
        (questions.overturned, "### ... #..", "no"),
        (questions.heavier_half, "### ### #..", "above"),
        (questions.heavier_half, "#.. ### ###", "below"),
        (questions.heavier_half, "#.. ### ..#", questions.NOT_ASKED),
        (questions.heavier_side, "### ##. ##.", "left"),
        (questions.heavier_side, ".## .## ###", "right"),
    ],
)
def test_a_property_is_what_the_drawing_shows(answer, picture, expected):
    assert answer(drawing(picture)) == expected


def test_answers_are_of_the_picture_that_is_asked_about(asked):
    _, pairs = asked
    triples = ask(pairs, np.flatnonzero(pairs.split), 999, 0)
    known = {"A": "one", "i": "two", "\N{IDENTICAL TO}": "three", "\N{RATIO}": "two"}
    named = pairs.columns["character"][triples.columns["picture"]]
    answers = np.array(triples.label_names)[triples.label]
    counted = 0
    for character, text, answer in zip(named, triples.text, answers, strict=True):
        if character in known and ("strokes" in text or "pieces" in text or "parts" in text):
            assert answer == known[character]
            counted += 1
    assert counted
    assert np.array_equal(triples.image, pairs.image[triples.columns["picture"]])
    kinds = np.isin(triples.text, ["what kind is it", "to which group does it belong"])
    labels = pairs.label[triples.columns["picture"]]
    for label, answer in zip(labels[kinds], answers[kinds], strict=True):
        assert pairs.label_names[label].lower() == answer
    assert kinds.sum() > 100


def test_no_picture_is_on_both_sides_of_the_split(asked):
    triples, pairs = asked
    trained, tested = (
        set(triples.columns["picture"][side]) for side in (~triples.split, triples.split)
    )
    assert not trained & tested
    assert tested <= set(np.flatnonzero(pairs.split))


def test_every_answer_to_a_question_is_as_frequent_in_every_wording(asked):
    triples, _ = asked
    for side in (~triples.split, triples.split):
        for wording in np.unique(triples.text):
            counts = Counter(triples.label[side & (triples.text == wording)])
            assert len(counts) >= 2 and len(set(counts.values())) == 1


def test_the_best_guess_by_the_question_alone_is_a_guess(asked):
    triples, _ = asked
    right = chance = 0.0
    for wording in np.unique(triples.text):
        mine = triples.text == wording
        guess = np.bincount(triples.label[mine & ~triples.split]).argmax()
        answers = triples.label[mine & triples.split]
        right += (answers == guess).sum()
        chance += len(answers) / len(np.unique(answers))
    assert right == pytest.approx(chance)


@pytest.fixture(scope="module")
def few():
    """Thirty rings and thirty bars; a question with two answers is that for their holes alone."""
    ring, bar = np.full((2, 16, 16), 255, dtype=np.uint8)
    ring[3:13, 3:13] = 0
    ring[6:10, 6:10] = 255
    bar[2:14, 7:9] = 0
    return np.stack([ring, bar]).repeat(30, 0)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 40), st.integers(0, 9), st.booleans())
def test_no_more_pictures_an_answer_than_asked_for(few, most, seed, coloured):
    image = few[..., None].repeat(3, -1) if coloured else few
    pairs = Pairs("few", image, np.array(["a text"] * 60))
    triples = ask(pairs, np.arange(0, 60, 3), most, seed)
    assert set(triples.label_names) == {"one", "none"}
    assert max(Counter(zip(triples.label, triples.split, strict=True)).values()) == min(most, 20)


def test_pictures_with_ink_on_their_rim_and_unlabelled_ones_are_not_asked_about(few):
    image = few.copy()
    image[:5, 0] = 0
    label = np.tile([0, 1, -1], 20)
    pairs = Pairs("few", image, np.array(["a text"] * 60), label, ("Ring", "Bar"))
    triples = ask(pairs, np.arange(0, 60, 4), 40, 0)
    asked = {text: triples.columns["picture"][triples.text == text] for text in triples.text}
    assert set(asked["how many holes does it have"]) <= set(range(5, 60))
    assert set(asked["is it bar"]) <= set(np.flatnonzero(label >= 0))


def test_nothing_to_ask_is_said(few):
    with pytest.raises(DataError, match=r"about pictures; few has features \[60, 3\]"):
        ask(Pairs("few", np.ones((60, 3)), np.array(["a text"] * 60)), np.arange(9), 9, 0)
    with pytest.raises(DataError, match="nothing to ask about the pictures of few: no question"):
        ask(Pairs("few", few[:30], np.array(["a text"] * 30)), np.arange(9), 9, 0)


def test_questions_take_the_place_of_texts_where_configured(configure):
    chosen = configure(data={"questions": 9}, partition={"scheme": "iid", "clients": 2})
    held = local_data(chosen)
    assert held.pairs.text.dtype.kind == "U" and "yes" in held.pairs.label_names
    again = load_pairs(chosen)
    assert np.array_equal(again.columns["picture"], held.pairs.columns["picture"])
    assert len(held.test) == held.pairs.split.sum()

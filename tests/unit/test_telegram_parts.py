"""Splitting long texts, and the pace of edits."""

from hypothesis import given
from hypothesis import strategies as st

from bot.telegram.gate import SHORTEST_GAP, edit_gap
from bot.telegram.parts import fitting, preview, split, units

texts = st.text(alphabet="ab😀你。. \n", max_size=200)


@given(texts, st.integers(2, 30))
def test_no_part_is_too_long_or_empty_and_only_white_space_is_lost(text: str, limit: int):
    parts = split(text, limit)
    assert all(part.strip() and units(part) <= limit for part in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())


@given(texts, st.integers(2, 30))
def test_a_preview_fits_and_shows_the_beginning(text: str, limit: int):
    shown = preview(text, limit)
    assert units(shown) <= limit
    assert text.strip().startswith(shown.removesuffix("…"))


@given(texts, st.integers(0, 50))
def test_as_much_as_fits_and_no_more(text: str, limit: int):
    size = fitting(text, limit)
    assert units(text[:size]) <= limit
    assert size == len(text) or units(text[: size + 1]) > limit


def test_a_cut_falls_between_paragraphs_or_sentences_where_it_can():
    assert split("One two.\n\nThree four five", 16) == ["One two.", "Three four five"]
    assert split("一二三四。五六七八", 7) == ["一二三四。", "五六七八"]


def test_an_answer_that_takes_minutes_is_not_edited_hundreds_of_times():
    at, edits = 0.0, 0
    while at < 180:
        at += edit_gap(at)
        edits += 1
    assert edits < 50
    assert edit_gap(0) == SHORTEST_GAP

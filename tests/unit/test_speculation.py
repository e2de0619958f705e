"""Guessing from a sequence's own text."""

from hypothesis import given
from hypothesis import strategies as st

from inference.scheduler import Row
from inference.sequence import Stream
from inference.speculation import NGRAM, REST, TRIAL, Drafting, agreed, drafted
from tests.unit.sequences import sequence

ECHO = [1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3]


def test_what_followed_the_same_words_is_proposed():
    assert Drafting().propose(ECHO, 7) == (4, 5)


def test_right_guesses_grow_and_wrong_ones_rest():
    drafting = Drafting()
    drafting.note(2, 2, 20)
    assert drafting.propose(ECHO, 7) == (4, 5, 6, 7)
    drafting.note(4, 0, len(ECHO))
    assert drafting.propose(ECHO, 7) == ()
    later = ECHO + list(range(100, 100 + REST)) + [1, 2, 3]
    assert len(drafting.propose(later, 7)) == TRIAL


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 7))
def test_a_proposal_is_the_text_after_the_last_occurrence(tokens: list[int], most: int):
    drafting = Drafting()
    for end in range(1, len(tokens)):
        drafting.propose(tokens[:end], most)  # fed piece by piece, as a sequence grows
    proposal = drafting.propose(tokens, most)
    grams = [i for i in range(NGRAM, len(tokens)) if tokens[i - NGRAM : i] == tokens[-NGRAM:]]
    expected = tokens[grams[-1] : grams[-1] + min(TRIAL, most)] if grams and len(tokens) >= NGRAM else []
    assert list(proposal) == expected


@given(st.lists(st.integers(0, 2), max_size=7), st.lists(st.integers(0, 2), max_size=8))
def test_agreed(draft: list[int], drawn: list[int]):
    count = agreed(draft, drawn)
    assert draft[:count] == drawn[:count]
    assert count >= min(len(draft), len(drawn)) or draft[count] != drawn[count]


def row(index: int, tokens: list[int]) -> Row:
    one, stream = sequence(index, tokens, more=100), Stream(index)
    one.done, one.stream, stream.sequence = len(tokens) - 1, stream, one
    return Row(stream, one)


def test_all_rows_of_a_batch_are_drafted_equally_far_or_none_is():
    echo, novel = row(0, ECHO), row(1, [20, 21, 22, 23])
    assert [r.draft for r in drafted((echo,), 2, 7)] == [(4, 5)]
    assert [r.draft for r in drafted((echo, novel), 2, 7)] == [(), ()]
    assert [r.draft for r in drafted((row(0, ECHO), row(1, ECHO)), 2, 7)] == [(4, 5), (4, 5)]
    assert [r.draft for r in drafted((row(0, ECHO), row(1, ECHO)), 1, 7)] == [(), ()]


def test_a_draft_never_goes_beyond_the_end_of_the_answer():
    one = row(0, ECHO)
    one.sequence.limit = len(ECHO) + 2
    assert [r.draft for r in drafted((one,), 1, 7)] == [(4,)]
    one.sequence.limit = len(ECHO) + 1
    assert [r.draft for r in drafted((one,), 1, 7)] == [()]

"""How much prefill a step may hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.pace import ALONE, BUSY, GRAIN, LEAST_ALONE, RUSH, Pace


def pace(prefill: float = 16_000.0, decode: float = 0.015) -> Pace:
    known = Pace()
    known.prefill.note(prefill)
    known.decode.note(decode)
    return known


def seconds(waiting: int, decoding: int, tokens: int = 640, spent: float = 0.0) -> float:
    """`tokens`: a prompt's."""
    budget = pace().budget(waiting=waiting, decoding=decoding, backlog=waiting * tokens, spent=spent)
    return budget / 16_000.0


def test_nobody_is_held_up_where_nobody_decodes() -> None:
    assert seconds(1, 0) == ALONE
    assert seconds(9, 0) == RUSH
    assert pace(prefill=200.0).budget(waiting=1, decoding=0, backlog=0) == LEAST_ALONE


def test_one_who_comes_to_a_crowd_holds_it_up_by_two_steps_at_most() -> None:
    assert abs(seconds(1, 60) - 2 * 0.015) < 1e-9


def test_a_crowd_is_let_in_at_once_and_its_last_beside_the_others() -> None:
    assert seconds(60, 4) == seconds(32, 32) == RUSH
    assert seconds(16, 48) == BUSY
    assert BUSY < seconds(28, 36) < RUSH


def test_many_short_prompts_are_no_crowd() -> None:
    assert seconds(28, 36, tokens=90) == BUSY


def test_time_that_went_to_bringing_caches_is_not_spent_again() -> None:
    assert seconds(1, 60, spent=0.01) == pytest.approx(0.02, abs=1e-3)
    assert pace().budget(waiting=1, decoding=60, backlog=640, spent=1.0) == GRAIN


@given(st.integers(0, 64), st.integers(0, 64), st.floats(20, 30_000), st.floats(0.001, 1))
def test_there_is_always_some(waiting: int, decoding: int, prefill: float, decode: float) -> None:
    given_ = pace(prefill, decode).budget(waiting=waiting, decoding=decoding, backlog=waiting * 640)
    assert given_ >= GRAIN
    assert given_ <= max(LEAST_ALONE, GRAIN, max(RUSH, 2 * decode, 0.024) * prefill + 1)

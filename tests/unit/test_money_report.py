"""Charges added up for people."""

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.money.accounts import Charge, Terms, account
from bot.money.report import Minutes, by_period, by_state, label, line, summary
from bot.money.talks import talks
from storage.money import Answer, Billed
from storage.timeline import Price, Segment

START = datetime(2026, 11, 23, tzinfo=UTC)  # a Monday
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
STATES = ("used", "idle", "starting", "warming", "saving", "stopping", "unwatched", "stopped", "unknown")


def at(hours: float) -> datetime:
    return START + hours * HOUR


def charge(state: str, start: float, end: float, compute_hours: float = 0.0, yuan: float = 0.0) -> Charge:
    """Times in hours."""
    paid = 0.0 if state in ("stopped", "unknown") else end - start
    return Charge("i", state, at(start), at(end), at(start).date(), paid, compute_hours, yuan)


def billed(day: date, yuan: float) -> Billed:
    return Billed("i", day, yuan, "bss", START)


def answer(conversation: str, start: float, end: float) -> Answer:
    """Times in minutes."""
    return Answer(conversation, START + start * MINUTE, START + end * MINUTE)


def test_minutes_are_added_up_by_what_the_instance_did():
    found = line("all", [charge(state, number, number + 1) for number, state in enumerate(STATES)])
    assert found.minutes == Minutes(used=60, idle=60, overhead=240, unwatched=60, stopped=60, unknown=60)
    assert (found.minutes.paid, found.minutes.all, found.hours) == (420, 540, 7)


def test_the_bill_is_compared_with_what_was_estimated_of_the_same_days():
    charges = [charge("used", 0, 1, yuan=5.0), charge("used", 25, 26, yuan=7.0)]
    found = line("both", charges, [billed(START.date(), 5.5)])
    assert (found.yuan, found.billed, found.foreseen, found.difference) == (12.0, 5.5, 5.0, 0.5)
    assert line("none", charges).difference is None


def test_a_price_is_missing_only_where_one_was_needed():
    assert line("", []).priced
    assert not line("", [Charge("i", "used", at(0), at(1), START.date(), 1.0, unpriced_hours=1.0)]).priced


@pytest.mark.parametrize(
    ("period", "labels"),
    [
        ("day", ["2026-11-29", "2026-11-30", "2026-12-01"]),
        ("week", ["2026-W48", "2026-W49"]),
        ("month", ["2026-11", "2026-12"]),
    ],
)
def test_each_period_has_its_line_an_empty_one_too(period, labels):
    charges = [charge("used", 24 * 6, 24 * 6 + 1, yuan=3.0), charge("used", 24 * 9, 24 * 9 + 1, yuan=99.0)]
    found = by_period(charges, [billed(date(2026, 12, 1), 4.0)], period, date(2026, 11, 29), date(2026, 12, 1))
    assert [one.label for one in found] == labels
    assert (sum(one.yuan for one in found), found[-1].billed) == (3.0, 4.0)  # what is later than the last is left out


def test_weeks_of_new_year_are_those_of_the_calendar():
    assert label(date(2027, 1, 1), "week") == "2026-W53"


def test_states_are_told_the_dearest_first():
    charges = [charge("idle", 0, 1, yuan=1.0), charge("used", 1, 2, yuan=2.0), charge("stopped", 2, 20)]
    assert [one.label for one in by_state(charges)] == ["used", "idle", "stopped"]


def test_the_summary_tells_what_was_of_no_use():
    charges = [charge("starting", 0, 0.5), charge("warming", 0.5, 1), charge("used", 1, 3, 14.0, 2.0),
               charge("idle", 3, 4, 7.0, 1.0)]  # fmt: skip
    answers = [answer("a", 60, 61), answer("a", 61, 62), answer("b", 62, 63)]
    found = summary(charges, answers, line("", charges))
    assert (found.wake_minutes, found.idle_compute_hours, found.idle_yuan, found.idle_share) == (60, 7.0, 1.0, 0.25)
    assert (found.replies, found.conversations) == (3, 2)
    assert (found.compute_hours_per_reply, found.yuan_per_reply) == (7.0, 1.0)
    nothing = summary([], [], line("", []))
    assert (nothing.idle_share, nothing.yuan_per_reply, nothing.compute_hours_per_reply) == (None, None, None)


def test_a_conversation_takes_what_its_answers_took():
    charges = [charge("used", 0, 1, 6.0, 12.0), charge("idle", 1, 2, 6.0, 12.0)]
    (found,) = talks(charges, [answer("a", 10, 15), answer("a", 20, 25)])
    assert (found.conversation, found.replies, found.answering) == ("a", 2, 10 * MINUTE)
    assert (found.compute_hours, found.yuan) == pytest.approx((1.0, 2.0))


def test_answers_that_are_written_at_once_share():
    charges = [charge("used", 0, 1, 60.0)]
    found = talks(charges, [answer("a", 0, 20), answer("b", 10, 20), answer("c", 10, 20), answer("d", 50, 70)])
    assert {one.conversation: round(one.compute_hours, 6) for one in found} == {
        "a": pytest.approx(10 + 10 / 3), "b": pytest.approx(10 / 3), "c": pytest.approx(10 / 3), "d": 10.0,
    }  # fmt: skip
    assert [one.conversation for one in found][:2] == ["a", "d"]


def test_what_the_ledger_has_not_seen_costs_nothing():
    (found,) = talks([], [answer("a", 0, 5)])
    assert (found.compute_hours, found.yuan, found.replies) == (0.0, 0.0, 1)
    assert talks([charge("used", 0, 1, 6.0)], []) == ()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 300), st.integers(0, 90)), min_size=1, max_size=12))
def test_all_answers_together_take_what_the_time_took_in_which_one_was_written(parts):
    answers = [answer(name, start, start + length) for name, start, length in parts]
    segments = [Segment("i", "used", START, at(10), 1, Price("A10", 9.0, 6.0))]
    charges = account(segments, [], Terms(), at(10)).charges
    minutes = {minute for _, start, length in parts for minute in range(start, start + length)}
    found = talks(charges, answers)
    assert sum(one.compute_hours for one in found) == pytest.approx(len(minutes) * 6 / 60, abs=1e-6)
    assert sum(one.replies for one in found) == len(answers)
    assert all(one.compute_hours >= -1e-9 for one in found)

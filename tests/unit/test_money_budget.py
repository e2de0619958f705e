"""Which notices of the budgets are due, and until when what is left lasts."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.money.accounts import Account, Terms, account
from bot.money.budget import SHARES, due, left, standings
from bot.money.notice import Amount, Left, Notice
from storage.money import Quota
from storage.timeline import Price, Segment

START = datetime(2026, 11, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
A10 = Price("A10", 10.0, 5.0, "specs")
HOURLY = Amount(10.0, 5.0)
TERMS = Terms(compute_hours=100.0)
SHANGHAI = ZoneInfo("Asia/Shanghai")


def ran(*spans: tuple[float, float], price: Price = A10) -> list[Segment]:
    """Used from so many hours after the month's start on, for so long."""
    return [
        Segment("i", "used", START + start * HOUR, START + (start + hours) * HOUR, number, price)
        for number, (start, hours) in enumerate(spans)
    ]


def standing(segments: list[Segment], now: datetime, terms: Terms = TERMS, quotas: tuple[Quota, ...] = ()) -> Account:
    return account([part for one in segments if (part := one.within(START, now))], quotas, terms, now)


def told(segments: list[Segment], hours: float, raised=frozenset(), terms: Terms = TERMS,
         quotas: tuple[Quota, ...] = ()) -> list[Notice]:  # fmt: skip
    now = START + hours * HOUR
    found = standing(segments, now, terms, quotas)
    return due(found, terms, now, instance="i", hourly=HOURLY, raised=raised)


def keys(notices: list[Notice]) -> list[tuple[str, str]]:
    return [(str(one.kind), one.key) for one in notices]


def test_half_of_the_quota_is_told_once():
    segments = ran((0, 10.5))
    assert told(segments, 9) == []
    (found,) = told(segments, 10)
    assert (found.kind, found.key, found.share, found.budget, found.period) == (
        "budget", "compute-hours:2026-11:50", 0.5, "compute-hours", "2026-11",
    )  # fmt: skip
    assert found.cost == Amount(compute_hours=50.0)
    assert (found.left.compute_hours, found.hourly, found.instance) == (50.0, HOURLY, "i")
    assert found.reason == "50 % of the compute-hours of 2026-11 are spent"
    assert told(segments, 10.5, {("budget", "compute-hours:2026-11:50")}) == []


def test_of_several_thresholds_that_are_reached_at_once_the_highest_is_told():
    segments = ran((0, 19.5))
    assert keys(told(segments, 20)) == [("budget", "compute-hours:2026-11:95")]
    assert told(segments, 20, {("budget", "compute-hours:2026-11:95")}) == []  # the lower ones are covered


def test_a_threshold_that_is_reached_again_after_a_correction_is_not_told_again():
    segments, raised = ran((0, 16)), {("budget", "compute-hours:2026-11:95")}
    assert told(segments, 16, raised) == []


def test_the_first_paid_minute_is_told_when_it_is_over():
    segments = ran((0, 21))
    assert keys(told(segments, 20)) == [("budget", "compute-hours:2026-11:100")]
    found = told(segments, 20 + 1 / 60)
    assert keys(found) == [("budget", "compute-hours:2026-11:100"), ("first_paid", "first-paid:2026-11")]


def test_an_unknown_price_is_paid_all_the_same():
    segments = ran((0, 21), price=Price("A10", None, 5.0))
    assert ("first_paid", "first-paid:2026-11") in keys(told(segments, 21))


def test_what_no_quota_pays_for_is_no_first_paid_minute():
    segments = ran((0, 30), price=Price("home", 2.0))
    assert told(segments, 30) == []


def test_yuan_are_counted_by_the_operators_calendar_month():
    terms = Terms(yuan_per_month=100.0, zone=SHANGHAI)
    at_home = Price("home", 10.0)
    last_day = [Segment("i", "used", START + 29.5 * DAY, START + 30 * DAY, 1, at_home)]
    now = START + 30 * DAY - 8 * HOUR  # midnight in Shanghai, four hours in
    before = account([last_day[0].within(START, now)], [], terms, now - timedelta.resolution)
    assert due(before, terms, now - HOUR, instance="i", hourly=HOURLY, raised=()) == []
    after = account(last_day, [], terms, START + 30 * DAY)
    (found,) = due(after, terms, START + 30 * DAY, instance="i", hourly=HOURLY, raised=())
    assert (found.key, found.cost) == ("yuan:2026-12:80", Amount(yuan=80.0))


def test_the_months_yuan_have_the_disks_in_them():
    terms = Terms(yuan_per_month=48.0, disk_yuan_per_hour=1.0)
    stopped = Segment("i", "stopped", START, START + DAY)
    assert keys(told([stopped], 24, terms=terms)) == [("budget", "yuan:2026-11:50"), ("forecast", "yuan:2026-11")]


def test_the_pace_of_the_last_week_foretells_the_end():
    """Two hours, 10 compute-hours a day: 100 last for ten days."""
    segments = ran(*((24 * day, 2) for day in range(30)))
    (found,) = [one for one in told(segments, 4 * 24) if one.kind == "forecast"]
    assert (found.key, found.budget) == ("compute-hours:2026-11", "compute-hours")
    assert found.deadline == START + 10 * DAY
    assert "2026-11-11" in found.reason
    assert not [
        one for one in told(segments, 4 * 24, {("forecast", "compute-hours:2026-11")}) if one.kind == "forecast"
    ]


@pytest.mark.parametrize(
    ("spans", "hours"),
    [
        ([(0, 2)], 20),  # a day was not seen yet
        ([(24 * day, 0.5) for day in range(30)], 10 * 24),  # enough until the month's end
        ([(0, 12)], 9 * 24),  # a week without use
        ([(0, 20)], 24),  # spent already
    ],
)
def test_nothing_is_foretold_where_it_lasts_or_little_is_known(spans, hours):
    assert not [one for one in told(ran(*spans), hours) if one.kind == "forecast"]


def test_the_pace_is_what_was_wanted_not_what_the_quota_gave():
    """While the quota is spent nothing is taken from it, and that makes the next period no easier."""
    segments = ran(*((24 * day, 4) for day in range(40)))
    now = START + 30 * DAY + 12 * HOUR
    (found,) = [one for one in standings(standing(segments, now), TERMS, now) if one.budget == "compute-hours"]
    assert found.a_day == pytest.approx(20, rel=0.05)


@pytest.mark.parametrize(
    ("days", "key"), [(8, None), (7, "7"), (5, "7"), (3, "3"), (2.5, "3"), (1, "1"), (0.1, "1"), (0, None), (-2, None)]
)
def test_the_trials_end_is_told_in_time(days, key):
    end = START + 20 * DAY
    quotas = (Quota(START, 100.0, 90.0, ends_at=end),)
    found = [one for one in told([], 24 * (20 - days), quotas=quotas) if one.kind == "trial_end"]
    assert [(one.key, one.deadline) for one in found] == ([(f"trial-end:2026-11-21:{key}", end)] if key else [])


def test_a_later_word_on_the_trials_end_covers_an_earlier_one():
    quotas = (Quota(START, 100.0, 90.0, ends_at=START + 20 * DAY),)
    assert told([], 24 * 19, {("trial_end", "trial-end:2026-11-21:1")}, quotas=quotas) == []


def test_after_the_trial_no_quota_is_spent_but_its_first_paid_minute_is_told_once():
    quotas = (Quota(START, 100.0, 90.0, ends_at=START + 2 * DAY),)
    segments = ran((50, 2), (24 * 32, 2))
    first = told(segments, 53, quotas=quotas)
    assert keys(first) == [("first_paid", "first-paid:2026-11-03")]
    assert keys(told(segments, 24 * 33, quotas=quotas)) == keys(first)


def test_what_is_left_lasts_for_so_long_if_it_runs_on():
    now = START + 10 * HOUR
    found = standing(ran((0, 10)), now)
    assert left(found, TERMS, now, HOURLY) == Left(50.0, None, now + 10 * HOUR)


def test_after_the_quota_the_months_yuan_last_on():
    now, terms = START + 10 * HOUR, replace(TERMS, yuan_per_month=30.0)
    assert left(standing(ran((0, 10)), now, terms), terms, now, HOURLY) == Left(50.0, 30.0, now + 13 * HOUR)
    home = Terms(yuan_per_month=130.0)
    paid = standing(ran((0, 10), price=Price("home", 10.0)), now, home)
    assert left(paid, home, now, Amount(10.0)) == Left(None, 30.0, now + 3 * HOUR)


def test_what_is_renewed_before_it_is_spent_lasts_longer():
    now = START + 30 * DAY - 5 * HOUR
    found = standing(ran((0, 10)), now)
    assert left(found, TERMS, now, HOURLY).until == START + 30 * DAY + 20 * HOUR
    assert left(found, TERMS, now, Amount(1.0, 0.01)).until is None  # never
    ending = standing(ran((0, 10)), now, quotas=(Quota(START, 100.0, 100.0, ends_at=START + 30 * DAY),))
    assert left(ending, TERMS, now, HOURLY).until == START + 30 * DAY


def test_nothing_left_or_nothing_known_lasts_until_no_time():
    now = START + 30 * HOUR
    assert left(standing(ran((0, 25)), now), TERMS, now, HOURLY) == Left(0.0, None, None)
    assert left(standing([], now), TERMS, now, HOURLY) == Left()
    assert left(standing(ran((0, 10)), now), TERMS, now, Amount()) == Left(50.0, None, None)
    spent = replace(TERMS, yuan_per_month=1.0)
    assert left(standing(ran((0, 25)), now, spent), spent, now, HOURLY) == Left(0.0, 0.0, None)


SPANS = st.lists(st.tuples(st.floats(0.1, 30), st.floats(0.1, 12)), min_size=1, max_size=25)
LIMIT = st.one_of(st.none(), st.floats(1, 500))
TRIAL = st.one_of(st.none(), st.integers(1, 60))


@settings(deadline=None, max_examples=60)
@given(SPANS, LIMIT, TRIAL, st.integers(1, 30))
def test_over_weeks_no_key_is_told_twice_and_shares_only_rise(spans, yuan_per_month, trial, every):
    terms = Terms(compute_hours=100.0, yuan_per_month=yuan_per_month, zone=SHANGHAI)
    segments, start = [], 0.0
    for pause, hours in spans:
        segments += ran((start + pause, hours))
        start += pause + hours
    quotas = (Quota(START, 100.0, 100.0, ends_at=START + trial * DAY),) if trial else ()
    raised, shares = set(), {}
    for hours in range(0, int(start) + 48, every):
        for one in told(segments, hours, frozenset(raised), terms, quotas):
            assert (one.kind, one.key) not in raised
            raised.add((str(one.kind), one.key))
            if one.kind == "budget":
                assert one.share > shares.get((one.budget, one.period), 0.0)
                shares[one.budget, one.period] = one.share
        now = START + hours * HOUR
        for one in standings(standing(segments, now, terms, quotas), terms, now):
            reached = [share for share in SHARES if one.share >= share]
            assert not reached or shares[one.budget, one.period] >= reached[-1]  # none is missed


@given(st.floats(0, 100), st.floats(0, 1e6), st.one_of(st.none(), st.floats(0, 1e9)), st.floats(0, 1e9))
def test_until_when_it_lasts_is_never_in_the_past(hours, yuan_per_month, compute_rate, yuan_rate):
    terms = replace(TERMS, yuan_per_month=yuan_per_month)
    now = START + 200 * HOUR
    found = left(standing(ran((0, hours)), now, terms), terms, now, Amount(yuan_rate, compute_rate))
    assert found.until is None or now <= found.until

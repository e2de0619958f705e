"""What the instance's time cost: the ledger against a bill that is reckoned minute by minute."""

import math
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta, tzinfo
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.config import Budget
from bot.money.accounts import PAID, Account, Terms, account
from bot.money.days import day_start, local_day, month_later, month_start, next_month
from bot.money.quota import Level, QuotaPeriod, quota_period
from storage.money import Quota
from storage.timeline import Price, Segment

SHANGHAI, BERLIN = ZoneInfo("Asia/Shanghai"), ZoneInfo("Europe/Berlin")
START = datetime(2026, 11, 3, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
A10 = Price("A10", 9.0, 6.0, "specs")
UNPRICED = Price("A10")


def seg(state: str, start: datetime, minutes: float, session: int | None = 1, price: Price = A10) -> Segment:
    return Segment("i", state, start, start + minutes * MINUTE, session, price)


def quota(at: datetime, remaining: float, ends_at: datetime | None = None) -> Quota:
    return Quota(at, 250.0, remaining, ends_at=ends_at)


def totals(found: Account) -> tuple[float, float, float]:
    """Hours, compute-hours, yuan."""
    return (sum(one.hours for one in found.charges), sum(one.compute_hours for one in found.charges),
            sum(one.yuan for one in found.charges))  # fmt: skip


def test_the_quota_pays_first_and_yuan_follow():
    found = account([seg("used", START, 600)], [], Terms(compute_hours=45.0), START + DAY)
    assert totals(found) == pytest.approx((10.0, 45.0, 22.5))
    assert (found.left, found.initial) == (0.0, 45.0)


def test_a_session_is_billed_by_started_minutes_as_a_whole():
    parts = [seg("starting", START, 1.2), seg("used", START + 1.2 * MINUTE, 3.1), seg("idle", START + 4.3 * MINUTE, 2)]
    apart = [seg("used", START + HOUR, 0.1, 2), seg("used", START + 2 * HOUR, 0.1, 3)]
    found = account(parts + apart, [], Terms(), START + DAY)
    assert totals(found)[0] * 60 == pytest.approx(7 + 1 + 1)
    assert sum(one.minutes for one in found.charges) == pytest.approx(6.5)


def test_what_has_no_number_yet_goes_on_with_its_session():
    parts = [seg("used", START, 1.5, 7), seg("idle", START + 1.5 * MINUTE, 0.25, None)]
    assert totals(account(parts, [], Terms(), START + DAY))[0] * 60 == pytest.approx(2)
    restarted = [seg("used", START, 1.5, None), seg("used", START + 9 * MINUTE, 0.25, None)]
    assert totals(account(restarted, [], Terms(), START + DAY))[0] * 60 == pytest.approx(3)


def test_stopped_and_unknown_time_costs_nothing_but_its_disk():
    parts = [seg("stopped", START, 60), seg("unknown", START + HOUR, 60), seg("used", START + 2 * HOUR, 60)]
    found = account(parts, [], Terms(disk_yuan_per_hour=0.1), START + DAY)
    assert [one.hours for one in found.charges if one.hours] == [1.0]
    assert sum(one.disk_yuan for one in found.charges) == pytest.approx(0.3)


def test_a_snapshot_of_the_quota_overrules_what_was_reckoned():
    quotas = [quota(START, 100.0), quota(START + HOUR, 50.0)]
    found = account([seg("used", START, 120)], quotas, Terms(), START + 2 * HOUR)
    assert found.left == pytest.approx(44.0)
    assert [level for level in found.levels if level.at == START + HOUR][-1] == Level(START + HOUR, 50.0)


def test_segments_without_a_price_take_the_settings_and_say_where_there_is_none():
    one = [seg("used", START, 60, price=UNPRICED)]
    paid = account(one, [], Terms(yuan_per_hour=8.0), START + DAY)
    assert (totals(paid), paid.left) == ((1.0, 0.0, 8.0), None)
    unknown = account(one, [], Terms(), START + DAY)
    assert (totals(unknown)[2], unknown.charges[0].unpriced_hours) == (0.0, 1.0)


def test_while_the_free_quota_lasts_nothing_is_charged_at_an_unknown_rate():
    """The list knows yuan, but they are not due, and how much of the quota it takes is not known yet."""
    listed = [seg("used", START, 60, price=Price("A10", 9.0, None, "specs"))]
    found = account(listed, [quota(START, 100.0)], Terms(), START + DAY)
    assert (totals(found), found.charges[0].unpriced_hours) == ((1.0, 0.0, 0.0), 1.0)
    spent = account(listed, [quota(START, 0.0)], Terms(), START + DAY)
    assert totals(spent)[2] == 9.0


def test_without_a_quota_there_are_no_levels():
    found = account([seg("used", START, 60, price=Price("home", 2.0))], [], Terms(), START + DAY)
    assert (found.levels, found.left) == ((), None)
    assert account([], [], Terms(), START).charges == ()


def test_each_month_renews_the_quota_where_the_operator_is():
    """Midnight of the first in Shanghai is 16:00 UTC the day before."""
    start = datetime(2026, 11, 30, 15, tzinfo=UTC)
    found = account([seg("used", start, 120)], [], Terms(compute_hours=4.0, zone=SHANGHAI), start + 2 * HOUR)
    assert totals(found) == pytest.approx((2.0, 8.0, 6.0))
    assert {one.day: one.compute_hours for one in found.charges if one.compute_hours} == {
        date(2026, 11, 30): 4.0, date(2026, 12, 1): 4.0,
    }  # fmt: skip
    assert found.period == QuotaPeriod("2026-12", datetime(2026, 11, 30, 16, tzinfo=UTC),
                                       datetime(2026, 12, 31, 16, tzinfo=UTC))  # fmt: skip


FIRST = datetime(2026, 11, 30, 16, tzinfo=UTC)  # of December, in China


@pytest.mark.parametrize(
    ("before", "after", "left"),
    [
        ((FIRST - HOUR, 5.0), (FIRST + 2 * DAY, 240.0), 250.0),  # seen late: the month's start did it
        ((FIRST - HOUR, 5.0), (FIRST + HOUR, 4.0), 5.0),  # it was not renewed
        ((FIRST - HOUR, 5.0), None, 5.0),  # the next snapshot will tell
        ((FIRST - 6 * DAY, 5.0), None, 250.0),  # nobody has looked for long
        (None, (FIRST + 2 * DAY, 240.0), 250.0),
    ],
)
def test_whether_a_month_renewed_the_quota_is_what_snapshots_say(before, after, left):
    quotas = [quota(*seen) for seen in (before, after) if seen]
    now = max(FIRST + HOUR, quotas[-1].at)
    found = account([seg("used", FIRST + MINUTE, 1)], quotas, Terms(), now)
    assert [level.left for level in found.levels if level.at <= FIRST + MINUTE][-1] == left


@pytest.mark.parametrize("zone", [UTC, BERLIN, SHANGHAI])
def test_the_cloud_renews_its_quota_in_china_wherever_the_operator_is(zone: tzinfo):
    """Nobody looked from the day before until two hours after; it ran for the last hour before and the two after."""
    quotas = [quota(FIRST - DAY, 6.0), quota(FIRST + 2 * HOUR, 238.0)]
    found = account([seg("used", FIRST - HOUR, 180)], quotas, Terms(zone=zone), FIRST + 2 * HOUR)
    assert totals(found) == pytest.approx((3.0, 18.0, 0.0))
    assert found.period.start == FIRST


def test_a_trial_that_has_ended_pays_for_nothing_and_is_not_renewed():
    end = FIRST - DAY
    quotas = [quota(FIRST - 5 * DAY, 200.0, end)]
    parts = [seg("used", end - HOUR, 60, 1), seg("used", end + HOUR, 60, 2), seg("used", FIRST + HOUR, 60, 3)]
    found = account(parts, quotas, Terms(), FIRST + DAY)
    assert [(one.compute_hours, one.yuan) for one in found.charges if one.hours] == [(6, 0), (0, 9), (0, 9)]
    assert (found.left, found.trial_ends_at) == (0.0, end)
    assert found.period == QuotaPeriod("2026-11-30", end, next_month(FIRST, SHANGHAI))


def test_a_quota_that_is_renewed_on_another_day_has_its_own_period():
    quotas = [
        quota(datetime(2026, 11, 15, hour, tzinfo=UTC), left) for hour, left in ((1, 3.0), (2, 250.0), (3, 249.0))
    ]
    now = datetime(2026, 12, 3, tzinfo=UTC)
    start = datetime(2026, 11, 15, 2, tzinfo=UTC)
    assert quota_period(quotas, UTC, now) == QuotaPeriod("2026-11-15", start, datetime(2026, 12, 15, tzinfo=UTC))
    later = datetime(2026, 12, 20, tzinfo=UTC)
    assert quota_period(quotas, UTC, later).label == "2026-12"
    assert quota_period(quotas, UTC, later).start == datetime(2026, 12, 1, tzinfo=UTC)


def test_small_corrections_upwards_are_no_renewal():
    quotas = [quota(START, 100.0), quota(START + HOUR, 101.0)]
    assert quota_period(quotas, UTC, START + DAY).label == "2026-11"


def test_a_wrong_reading_is_forgotten_once_the_next_one_contradicts_it():
    quotas = [quota(START, 200.0), quota(START + HOUR, 0.0), quota(START + 2 * HOUR, 195.0)]
    found = account([seg("used", START, 180)], quotas, Terms(), START + 3 * HOUR)
    assert totals(found) == pytest.approx((3.0, 18.0, 0.0))
    assert found.period.label == "2026-11"
    assert account([seg("used", START, 120)], quotas[:2], Terms(), START + 2 * HOUR).left == 0.0


def test_the_trials_end_ends_its_last_period():
    end = datetime(2026, 11, 20, tzinfo=UTC)
    assert quota_period([quota(START, 9.0, end)], UTC, START + DAY).end == end


@pytest.mark.parametrize(("day", "hours"), [(date(2026, 3, 29), 23), (date(2026, 10, 25), 25), (date(2026, 6, 1), 24)])
def test_days_are_as_long_as_daylight_saving_makes_them(day, hours):
    start = day_start(day, BERLIN)
    found = account([seg("used", start - DAY, 4 * 24 * 60)], [], Terms(zone=BERLIN), start + 3 * DAY)
    assert sum(one.minutes for one in found.charges if one.day == day) == hours * 60
    assert local_day(start, BERLIN) == day


def test_a_day_without_midnight_begins_at_one():
    cairo = ZoneInfo("Africa/Cairo")  # goes on at midnight of a Friday in April
    start = day_start(date(2026, 4, 24), cairo)
    assert start.astimezone(cairo).hour == 1
    assert local_day(start - timedelta.resolution, cairo) == date(2026, 4, 23)


def test_a_month_later_is_the_same_day_or_the_last():
    assert month_later(datetime(2026, 1, 31, 5, tzinfo=UTC), UTC) == datetime(2026, 2, 28, tzinfo=UTC)
    assert month_later(datetime(2026, 12, 15, tzinfo=UTC), UTC) == datetime(2027, 1, 15, tzinfo=UTC)
    assert next_month(datetime(2026, 1, 31, 5, tzinfo=UTC), UTC) == datetime(2026, 2, 1, tzinfo=UTC)


def test_terms_are_the_settings():
    budget = Budget(compute_hours=100.0, yuan_per_hour=3.0, yuan_per_month=50.0)
    assert Terms.of(budget, "Asia/Shanghai") == Terms(100.0, None, 3.0, 50.0, zone=SHANGHAI)
    assert Terms.of(Budget(disk_yuan_per_hour=0.02), "Asia/Shanghai") == Terms(disk_yuan_per_hour=0.02, zone=SHANGHAI)


# A session: stopped before it for so many minutes, then states for so many seconds.
SESSIONS = st.lists(
    st.tuples(
        st.integers(1, 6 * 24 * 60),
        st.lists(st.tuples(st.sampled_from(sorted(PAID)), st.integers(1, 9 * 3600)), min_size=1, max_size=5),
    ),
    min_size=1,
    max_size=12,
)


def lifetime(sessions: list[tuple[int, list[tuple[str, int]]]]) -> list[Segment]:
    found, start = [], START
    for number, (pause, states) in enumerate(sessions, 1):
        found.append(seg("stopped", start, pause, number - 1))
        start = found[-1].ended_at
        for state, seconds in states:
            found.append(seg(state, start, seconds / 60, number))
            start = found[-1].ended_at
    return found


def reference_bill(segments: list[Segment], terms: Terms) -> tuple[float, float]:
    """Compute-hours and yuan, minute by minute, as the price list reads."""
    sessions = defaultdict(list)
    for one in segments:
        if one.state in PAID:
            sessions[one.session].append(one)
    month, left, free, yuan = None, 0.0, 0.0, 0.0
    for parts in sessions.values():
        minute = parts[0].started_at
        while minute < parts[-1].ended_at:
            local = minute.astimezone(terms.zone)
            if (local.year, local.month) != month:
                month, left = (local.year, local.month), terms.compute_hours
            if left >= A10.compute_hours_per_hour / 60:
                left, free = left - A10.compute_hours_per_hour / 60, free + A10.compute_hours_per_hour / 60
            else:
                yuan += A10.yuan_per_hour / 60
            minute += MINUTE
    return free, yuan


ZONES = st.sampled_from([SHANGHAI, BERLIN, UTC])


@settings(deadline=None)
@given(SESSIONS, ZONES, st.sampled_from([0.0, 30.0, 250.0]))
def test_the_ledger_equals_a_bill_minute_by_minute(sessions, zone, compute_hours):
    """Within half a percent, and within the minute in which the quota or a month ends."""
    segments, terms = lifetime(sessions), Terms(compute_hours=compute_hours, zone=zone)
    _, free, yuan = totals(account(segments, [], terms, segments[-1].ended_at))
    months = 2 + (segments[-1].ended_at - START) // (28 * DAY)
    expected_free, expected_yuan = reference_bill(segments, terms)
    assert free == pytest.approx(expected_free, rel=0.005, abs=months * A10.compute_hours_per_hour / 60)
    assert yuan == pytest.approx(expected_yuan, rel=0.005, abs=months * A10.yuan_per_hour / 60)


@given(SESSIONS, ZONES, st.sampled_from([0.0, 30.0, 250.0]))
def test_all_time_is_in_one_charge_of_one_day_and_nothing_is_negative(sessions, zone: tzinfo, compute_hours):
    segments = lifetime(sessions)
    found = account(segments, [], Terms(compute_hours=compute_hours, zone=zone), segments[-1].ended_at)
    clock = [one for one in found.charges if one.end > one.start]
    assert all(before.end == after.start for before, after in pairwise(clock))
    assert (clock[0].start, clock[-1].end) == (segments[0].started_at, segments[-1].ended_at)
    for one in clock:
        assert local_day(one.start, zone) == one.day == local_day(one.end - timedelta.resolution, zone)
    for one in found.charges:
        assert min(one.hours, one.compute_hours, one.yuan, one.unpriced_hours) >= 0
    assert all(level.left >= 0 for level in found.levels)


@given(SESSIONS, ZONES, st.sampled_from([5.0, 30.0, 250.0]))
def test_the_quota_is_never_counted_twice(sessions, zone: tzinfo, compute_hours):
    segments = lifetime(sessions)
    found = account(segments, [], Terms(compute_hours=compute_hours, zone=zone), segments[-1].ended_at)
    taken: dict[datetime, float] = defaultdict(float)
    for one in found.charges:
        taken[month_start(one.start, zone)] += one.compute_hours
        paid = one.compute_hours / A10.compute_hours_per_hour + one.yuan / A10.yuan_per_hour
        assert paid == pytest.approx(one.hours, abs=1e-9)  # each hour once, by one or the other
    assert max(taken.values()) <= compute_hours + 1e-6
    last = month_start(segments[-1].ended_at, zone)
    assert found.left == pytest.approx(compute_hours - taken[last], abs=1e-6)


@given(SESSIONS, st.data())
def test_where_segments_are_cut_makes_no_difference(sessions, data):
    segments = lifetime(sessions)
    cut = []
    for one in segments:
        second = data.draw(st.integers(0, int(one.minutes * 60)))
        middle = one.started_at + timedelta(seconds=second)
        cut += [part for part in (one.within(one.started_at, middle), one.within(middle, one.ended_at)) if part]
    now = segments[-1].ended_at
    whole, parts = (account(some, [], Terms(zone=SHANGHAI), now) for some in (segments, cut))
    assert totals(parts) == pytest.approx(totals(whole))
    assert parts.left == pytest.approx(whole.left)


@given(SESSIONS)
def test_hours_are_the_started_minutes_of_each_session(sessions):
    segments = lifetime(sessions)
    seconds = [sum(length for _, length in states) for _, states in sessions]
    expected = sum(math.ceil(length / 60) for length in seconds)
    assert totals(account(segments, [], Terms(), segments[-1].ended_at))[0] * 60 == pytest.approx(expected)

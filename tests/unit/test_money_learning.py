"""What past gaps teach about when to stop."""

import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from bot.money.learning import Gap, Suggestion, best_limit, suggest

START = datetime(2026, 3, 2, tzinfo=UTC)  # a Monday
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
WAKE = timedelta(minutes=5)
BERLIN = ZoneInfo("Europe/Berlin")


def every_day(hour: int, minutes: list[float], days: int = 28, after: str = "") -> list[Gap]:
    """One gap of each length a day, one hour after the other."""
    return [
        Gap(START + day * DAY + timedelta(hours=hour), length * MINUTE, "requests", after)
        for day in range(days)
        for length in minutes
    ]


def limit(gaps: list[Gap], hour: float, age: float = 0, *, floor: float = 1, ceiling: float = 60,
          wake: timedelta = WAKE, after: str = "") -> float:  # fmt: skip
    """Minutes, on the Monday after."""
    start = START + 28 * DAY + timedelta(hours=hour)
    now, least, most = start + age * MINUTE, floor * MINUTE, ceiling * MINUTE
    found = best_limit(gaps, Gap(start, now - start, after=after), zone=UTC, wake=wake, floor=least, ceiling=most)
    return found.limit / MINUTE


def test_without_history_it_is_the_limit_of_ski_rental():
    found = best_limit([], Gap(START, timedelta()), zone=UTC, wake=WAKE, floor=MINUTE, ceiling=25 * MINUTE)
    assert (found.limit, found.learned, found.evidence) == (WAKE, False, 0)
    assert limit([], 3, wake=2 * MINUTE, floor=5) == 5
    assert limit([], 3, wake=90 * MINUTE, ceiling=25) == 25


def test_where_gaps_are_long_a_stop_pays_at_once():
    assert limit(every_day(22, [600]), 22) == 1


def test_where_pauses_are_short_it_pays_to_wait_them_out():
    assert limit(every_day(10, [4] * 5), 10) >= 4


def test_the_hour_tells_one_from_the_other():
    both = every_day(22, [600]) + every_day(10, [4] * 5)
    assert limit(both, 22) < 3
    assert limit(both, 10) >= 4


def test_so_does_what_it_was_used_for():
    both = every_day(10, [600] * 3, after="gpu") + every_day(10, [4] * 5, after="requests")
    assert limit(both, 10, after="gpu") < limit(both, 10, after="requests")


def test_hours_are_those_of_the_place():
    """Local time is the same before and after the change to daylight saving, UTC is not."""
    gaps = []
    for day in range(28):
        for hour, length in ((9, 4.0), (9, 4.0), (15, 600.0)):
            at = datetime(2026, 3, 1, hour, tzinfo=BERLIN) + day * DAY
            gaps.append(Gap(at.astimezone(UTC), length * MINUTE))
    start = datetime(2026, 3, 30, 9, tzinfo=BERLIN).astimezone(UTC)
    found = best_limit(gaps, Gap(start, timedelta()), zone=BERLIN, wake=WAKE, floor=MINUTE, ceiling=60 * MINUTE)
    assert found.limit >= 4 * MINUTE


def test_a_gap_that_has_outlasted_the_usual_ones_is_ended():
    gaps = every_day(10, [4] * 5 + [600] * 2)
    assert limit(gaps, 10) >= 4
    assert limit(gaps, 10, age=5) == 5


def test_what_is_expected_still_to_come_is_told():
    start = START + 28 * DAY
    found = best_limit(
        every_day(0, [30]), Gap(start, 10 * MINUTE), zone=UTC, wake=WAKE, floor=MINUTE, ceiling=60 * MINUTE
    )
    assert found.remaining == 20 * MINUTE
    assert found.learned


LENGTHS = st.lists(st.floats(0.1, 2000), max_size=60)


@given(LENGTHS, LENGTHS, st.integers(0, 100), st.integers(1, 30), st.integers(0, 60), st.floats(0.5, 60))
def test_it_never_looks_ahead_and_keeps_within_its_bounds(
    past: list[float], future: list[float], age: int, floor: int, more: int, wake: float
):
    start = START + 28 * DAY
    now = start + age * MINUTE
    known = [Gap(start - (number + 1) * timedelta(hours=34), length * MINUTE) for number, length in enumerate(past)]
    later = [Gap(now - length * MINUTE / 2, length * MINUTE) for length in future]
    found = [
        best_limit(
            gaps,
            Gap(start, now - start),
            zone=UTC,
            wake=wake * MINUTE,
            floor=floor * MINUTE,
            ceiling=(floor + more) * MINUTE,
        )
        for gaps in (known, known + later)
    ]
    assert found[0] == found[1]
    assert max(floor, age) * MINUTE <= found[0].limit <= max(floor + more, age) * MINUTE


def test_learned_limits_cost_less_than_any_that_knows_nothing():
    """Half of the pauses are short, and at night all are long."""
    chance = random.Random(1)
    gaps, paid, blind = [], 0.0, 0.0
    for day in range(60):
        for hour in (9, 10, 11, 14, 15, 16, 22):
            length = chance.uniform(7, 12) if hour < 20 and chance.random() < 0.9 else chance.uniform(200, 500)
            start = START + day * DAY + timedelta(hours=hour)
            found = best_limit(
                gaps, Gap(start, timedelta()), zone=UTC, wake=WAKE, floor=2 * MINUTE, ceiling=25 * MINUTE
            )
            for waited, total in ((found.limit / MINUTE, "learned"), (5.0, "blind")):
                cost = length if length <= waited else waited + 5
                paid, blind = (paid + cost, blind) if total == "learned" else (paid, blind + cost)
            gaps.append(Gap(start, length * MINUTE))
    assert paid < 0.97 * blind


def test_a_suggestion_says_what_it_would_have_saved():
    gaps = every_day(10, [400] * 2)
    now = START + 28 * DAY
    found = suggest(gaps, now, present=45 * MINUTE, wake=WAKE, floor=12 * MINUTE, yuan_per_hour=10.0)
    assert found == Suggestion(12 * MINUTE, timedelta(minutes=56 * 33), 308.0, 0, 4)
    assert str(found) == "12 min would have saved 31 h (¥308) in the last 4 weeks, with 0 more wakes"


def test_a_suggestion_weighs_wakes_against_waiting():
    gaps = every_day(10, [20] * 6 + [400])
    now = START + 28 * DAY
    found = suggest(gaps, now, present=30 * MINUTE, wake=WAKE, floor=5 * MINUTE)
    assert found is not None
    assert found.after < 20 * MINUTE
    assert found.more_wakes == 28 * 6
    assert found.yuan is None


def test_nothing_is_suggested_where_nothing_is_to_be_gained():
    assert suggest([], START, present=15 * MINUTE, wake=WAKE, floor=5 * MINUTE) is None
    gaps = every_day(10, [400], days=28)
    assert suggest(gaps, START + 28 * DAY, present=5 * MINUTE, wake=WAKE, floor=5 * MINUTE) is None
    old = suggest(gaps, START + 200 * DAY, present=60 * MINUTE, wake=WAKE, floor=5 * MINUTE)
    assert old is None  # of weeks that are long past

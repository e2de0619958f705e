"""What an hour takes: learned from the quota's movement, and which price is in force."""

import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.money.accounts import Terms
from bot.money.rates import completed, in_force, learned
from storage.money import Quota
from storage.timeline import Price, Segment

START = datetime(2026, 11, 3, tzinfo=UTC)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
A10, V100 = Price("A10"), Price("V100")
LISTED = Price("A10", 9.74, None, "specs", START)


def seg(state: str, start: float, hours: float, price: Price = A10) -> Segment:
    return Segment("i", state, START + start * HOUR, START + (start + hours) * HOUR, 1, price)


def watched(segments: list[Segment], rate: float, *, every: float = 0.5, hours: float = 24, lag: float = 0.0,
            digits: int = 2, first: float = 250.0) -> list[Quota]:  # fmt: skip
    """What DSW would tell of the quota, `lag` hours behind."""

    def ran(until: datetime) -> float:
        parts = [one.within(START, until) for one in segments if one.state not in ("stopped", "unknown")]
        return sum(part.minutes / 60 for part in parts if part)

    count = int(hours / every) + 1
    times = [START + number * every * HOUR for number in range(count)]
    return [Quota(time, 250.0, round(max(first - rate * ran(time - lag * HOUR), 0.0), digits)) for time in times]


def test_the_rate_is_the_movement_over_the_hours_run():
    segments = [seg("used", 1, 3), seg("stopped", 4, 10), seg("idle", 14, 2)]
    found = learned(watched(segments, 6.991), segments, "A10")
    assert found.rate == pytest.approx(6.99, rel=0.005)
    assert found.low == pytest.approx(found.high)
    assert found.hours == pytest.approx(5)


def test_a_renewal_is_no_movement():
    segments = [seg("used", 0, 20)]
    quotas = watched(segments, 7.0)
    renewed = [quota if number < 20 else Quota(quota.at, 250.0, min(quota.remaining + 70, 250.0))
               for number, quota in enumerate(quotas)]  # fmt: skip
    assert learned(renewed, segments, "A10").rate == pytest.approx(7.0, rel=0.01)


def test_once_it_is_spent_it_moves_no_more():
    segments = [seg("used", 0, 20)]
    assert learned(watched(segments, 7.0, first=80.0), segments, "A10").rate == pytest.approx(7.0, rel=0.02)


@pytest.mark.parametrize(
    "segments",
    [
        [],
        [seg("stopped", 0, 24)],
        [seg("used", 1, 0.4)],  # too short
        [seg("unknown", 0, 24)],  # it may have run, or not
        [seg("used", 0, 10, V100)],
    ],
)
def test_too_little_movement_teaches_nothing(segments):
    assert learned(watched(segments, 7.0), segments, "A10") is None
    assert learned([], segments, "A10") is None


def test_a_quota_that_does_not_move_teaches_nothing():
    segments = [seg("used", 0, 10)]
    assert learned(watched(segments, 0.0), segments, "A10") is None


def test_each_spec_has_its_own_rate():
    segments = [seg("used", 0, 5), seg("used", 6, 5, V100)]
    quotas = [*watched([segments[0]], 7.0, hours=5.5), *watched([segments[1]], 12.0, first=215.0)[12:]]
    assert learned(quotas, segments, "A10").rate == pytest.approx(7.0, rel=0.01)
    assert learned(quotas, segments, "V100").rate == pytest.approx(12.0, rel=0.01)


def test_what_is_told_late_is_learned_from_all_the_same():
    segments = [seg("used", start, 2) for start in range(0, 48, 4)]
    assert learned(watched(segments, 7.0, hours=48, lag=0.75), segments, "A10").rate == pytest.approx(7.0, rel=0.05)


def test_a_single_wild_reading_does_no_harm():
    segments = [seg("used", 0, 12)]
    quotas = watched(segments, 7.0)
    quotas[9] = Quota(quotas[9].at, 250.0, quotas[9].remaining - 30)
    assert learned(quotas, segments, "A10").rate == pytest.approx(7.0, rel=0.1)


def test_where_the_movement_says_now_this_now_that_nothing_is_learned():
    """Another instance of the account, say, takes of the quota too."""
    segments = [seg("used", 0, 4), seg("stopped", 4, 4), seg("used", 8, 4)]
    other = [seg("used", 2, 3), seg("used", 9, 1.5)]
    quotas = [Quota(mine.at, 250.0, mine.remaining - 250 + theirs.remaining)
              for mine, theirs in zip(watched(segments, 7.0), watched(other, 20.0), strict=True)]  # fmt: skip
    assert learned(quotas, segments, "A10") is None


@settings(deadline=None)
@given(st.floats(0.5, 30), st.integers(0, 10_000), st.floats(0, 0.5), st.sampled_from([1, 2, 4]))
def test_what_is_learned_is_right_whatever_the_noise(rate, seed, lag, digits):
    chance = random.Random(seed)
    segments, start = [], 0.0
    while start < 60:
        segments.append(seg("used", start, chance.uniform(0.5, 6)))
        start += segments[-1].minutes / 60 + chance.uniform(0.5, 8)
    quotas = watched(segments, rate, hours=72, lag=lag, digits=digits, first=10_000.0)
    found = learned(quotas, segments, "A10")
    if found:
        assert found.rate == pytest.approx(rate, rel=0.1)
    assert found or rate * sum(one.minutes / 60 for one in segments) < 20 or lag > 0.2


def test_settings_win_then_the_list_then_what_was_learned():
    segments = [seg("used", 0, 10)]
    taught = learned(watched(segments, 7.0), segments, "A10")
    assert in_force("A10", Terms(), LISTED, taught) == Price("A10", 9.74, 7.0, "specs", START)
    mine = Terms(yuan_per_hour=1.0, compute_hours_per_hour=2.0)
    assert in_force("A10", mine, LISTED, taught) == Price("A10", 1.0, 2.0, "settings")
    assert in_force("A10", Terms(), None, taught) == Price("A10", None, 7.0, "learned")
    assert in_force("A10", Terms(compute_hours_per_hour=2.0), None, None) == Price("A10", None, 2.0, "settings")
    assert in_force("A10", Terms(compute_hours_per_hour=2.0), LISTED, None).source == "specs"
    assert in_force("A10", Terms(), None, None) == Price("A10")


def test_free_of_charge_is_a_price():
    assert in_force("A10", Terms(yuan_per_hour=0.0), LISTED, None).yuan_per_hour == 0.0


def test_what_was_seen_before_the_rate_was_known_gets_it_afterwards():
    segments = [seg("used", 0, 10), seg("idle", 10, 1, Price("A10", None, 5.0, "settings")), seg("used", 11, 1, V100)]
    found = completed(segments, watched(segments[:1], 7.0, hours=10))
    assert [one.price.compute_hours_per_hour for one in found] == [7.0, 5.0, None]

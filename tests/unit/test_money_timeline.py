"""The instance's time as segments, put right by what DSW tells afterwards."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from storage.timeline import RUNNING, STATES, Lived, Price, Segment, corrected

START = datetime(2026, 11, 1, tzinfo=UTC)
A10 = Price("A10", 9.74, 7.0, "specs", START)
NEWER = Price("A10", 12.0, 7.0, "specs", START + timedelta(days=9))


def at(minute: float) -> datetime:
    return START + timedelta(minutes=minute)


def seen(state: str, start: float, end: float, session: int | None = None, price: Price = A10) -> Segment:
    return Segment("i", state, at(start), at(end), session, price)


def told(session: int, state: str, start: float, end: float | None = None) -> Lived:
    return Lived(session, state, at(start), None if end is None else at(end))


def spans(segments: list[Segment]) -> list[tuple[str, float, float]]:
    return [(one.state, (one.started_at - START).total_seconds() / 60, (one.ended_at - START).total_seconds() / 60)
            for one in segments]  # fmt: skip


def put_right(known: list[Segment], lived: list[Lived], now: float, price: Price = A10) -> list[Segment]:
    return corrected("i", known, lived, price, at(now))


def test_what_was_seen_stays_and_gets_its_session():
    known = [seen("used", 0, 10), seen("idle", 10, 30)]
    found = put_right(known, [told(7, "unwatched", 0)], now=30)
    assert found == [seen("used", 0, 10, 7), seen("idle", 10, 30, 7)]


def test_what_was_missed_is_filled_at_the_present_price():
    known = [seen("used", 0, 10), seen("unknown", 10, 60), seen("used", 60, 70)]
    lived = [told(1, "unwatched", 0, 40), told(2, "starting", 50, 55), told(2, "unwatched", 55)]
    found = put_right(known, lived, now=70, price=NEWER)
    assert spans(found) == [
        ("used", 0, 10), ("unwatched", 10, 40), ("stopped", 40, 50), ("starting", 50, 55), ("unwatched", 55, 60),
        ("used", 60, 70),
    ]  # fmt: skip
    assert [one.price for one in found] == [A10, NEWER, NEWER, NEWER, NEWER, A10]
    assert [one.rebuilt for one in found] == [False, True, True, True, True, False]


def test_a_life_that_nobody_saw_is_rebuilt_whole():
    lived = [told(2, "unwatched", 100), told(1, "unwatched", 10, 60), told(1, "starting", 5, 10)]
    assert spans(put_right([], lived, now=130)) == [
        ("starting", 5, 10), ("unwatched", 10, 60), ("stopped", 60, 100), ("unwatched", 100, 130),
    ]  # fmt: skip


def test_what_contradicts_dsw_gives_way():
    known = [seen("used", 0, 30), seen("stopped", 30, 60)]
    found = put_right(known, [told(1, "unwatched", 0, 20), told(2, "unwatched", 40)], now=60)
    assert spans(found) == [("used", 0, 20), ("stopped", 20, 30), ("stopped", 30, 40), ("unwatched", 40, 60)]
    assert [one.rebuilt for one in found] == [False, True, False, True]


def test_from_the_end_of_the_last_session_on_it_was_stopped_unless_something_else_was_seen():
    """DSW may be behind: that it was used later than its last word is no contradiction."""
    lived = [told(1, "unwatched", 0, 20)]
    assert spans(put_right([seen("used", 0, 10)], lived, now=50)) == [
        ("used", 0, 10), ("unwatched", 10, 20), ("stopped", 20, 50),
    ]  # fmt: skip
    late = put_right([seen("used", 0, 30), seen("unknown", 30, 40)], lived, now=50)
    assert spans(late) == [("used", 0, 20), ("used", 20, 30), ("stopped", 30, 50)]
    assert late[1].session is None


def test_between_two_states_of_a_session_nothing_is_missing():
    lived = [told(1, "starting", 0, 1.9), told(1, "unwatched", 2, 9.9), told(1, "saving", 10, 12)]
    assert spans(put_right([], lived, now=12)) == [("starting", 0, 2), ("unwatched", 2, 10), ("saving", 10, 12)]


def test_what_dsw_does_not_tell_is_unknown():
    found = put_right([seen("idle", 0, 10)], [told(4, "unwatched", 30)], now=40)
    assert spans(found) == [("idle", 0, 10), ("unknown", 10, 30), ("unwatched", 30, 40)]
    assert (found[1].price, found[1].rebuilt, found[1].session) == (Price(), False, None)


def test_the_newest_look_stays_and_one_overtaken_goes():
    look = seen("used", 20, 20)
    lived = [told(1, "unwatched", 0)]
    assert put_right([look], lived, now=20)[-1] == look
    assert spans(put_right([look], lived, now=30)) == [("unwatched", 0, 30)]


def test_nothing_told_changes_nothing():
    known = [seen("used", 0, 10), seen("idle", 15, 20)]
    assert put_right(known, [], now=30) == known
    assert put_right(known, [told(1, "unwatched", 40)], now=30) == known  # its clock is ahead of ours


MINUTES = st.integers(1, 90)
KNOWN = st.lists(st.tuples(st.sampled_from(sorted(STATES)), MINUTES, st.booleans()), max_size=8)
TOLD = st.lists(
    st.tuples(
        st.integers(0, 60),
        st.lists(st.tuples(st.sampled_from(["starting", "unwatched", "saving", "stopping"]), MINUTES), min_size=1,
                 max_size=3),
    ),
    max_size=4,
)  # fmt: skip


def some_known(first: int, parts: list[tuple[str, int, bool]]) -> list[Segment]:
    found, start = [], first
    for state, length, newer in parts:
        found.append(seen(state, start, start + length, price=NEWER if newer else A10))
        start += length
    return found


def some_told(first: int, sessions: list[tuple[int, list[tuple[str, int]]]], still: bool) -> list[Lived]:
    found, start = [], first
    for number, (gap, states) in enumerate(sessions, 1):
        start += gap
        for state, length in states:
            found.append(told(number, state, start, start + length))
            start += length
    if found and still:
        found[-1] = Lived(found[-1].session, found[-1].state, found[-1].started_at, None)
    return found


@given(st.integers(0, 200), KNOWN, st.integers(0, 200), TOLD, st.booleans(), st.integers(0, 600))
def test_segments_neither_overlap_nor_leave_a_gap_and_agree_with_dsw(first, parts, start, sessions, still, more):
    known = some_known(first, parts)
    now = max(more, first + sum(length for _, length, _ in parts))
    lived = some_told(start, sessions, still)
    found = put_right(known, lived, now)
    begun = [one for one in lived if one.started_at < at(now)]
    if begun:
        assert all(before.ended_at == after.started_at for before, after in pairwise(found))
        assert all(one.started_at < one.ended_at for one in found)
        assert found[0].started_at == min([begun[0].started_at, *(one.started_at for one in known[:1])])
        assert found[-1].ended_at == at(now)
        assert sum(one.minutes for one in found) == (at(now) - found[0].started_at) / timedelta(minutes=1)
    for one in begun:
        end = min(one.ended_at or at(now), at(now))
        there = {part.state for segment in found if (part := segment.within(one.started_at, end))}
        assert there <= (RUNNING if one.state in RUNNING else {one.state})


@given(st.integers(0, 200), KNOWN, st.integers(0, 200), TOLD, st.booleans(), st.integers(0, 600))
def test_doing_it_again_changes_nothing(first, parts, start, sessions, still, more):
    known = some_known(first, parts)
    now = max(more, first + sum(length for _, length, _ in parts))
    lived = some_told(start, sessions, still)
    once = put_right(known, lived, now)
    assert put_right(once, lived, now, price=NEWER) == once


@given(KNOWN, TOLD, st.booleans())
def test_what_was_seen_of_running_time_is_never_lost(parts, sessions, still):
    """As long as DSW says that it ran, what it was used for stays to the minute."""
    known, lived = some_known(0, parts), some_told(0, sessions, still)
    now = sum(length for _, length, _ in parts)
    found = put_right(known, lived, now)

    def used(segments: list[Segment], start: datetime, end: datetime) -> float:
        return sum(part.minutes for one in segments if one.state == "used" and (part := one.within(start, end)))

    for one in lived:
        end = min(one.ended_at or at(now), at(now))
        if one.state == "unwatched" and one.started_at < end:
            assert used(found, one.started_at, end) == used(known, one.started_at, end)

"""The ledger of the instance's time in both databases."""

import asyncio
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from storage import inbox, ledger, models, money
from storage.database import Database
from storage.errors import StorageError
from storage.inbox import Incoming
from storage.money import Answer, Billed, Quota
from storage.timeline import Lived, Price, Segment

START = datetime(2026, 11, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
GAP = 5 * MINUTE
A10 = Price("A10", 9.74, 7.0, "specs", START)


def at(minute: float) -> datetime:
    return START + minute * MINUTE


def seen(state: str, since: float, now: float, price: Price = A10, session: int | None = None) -> Segment:
    return Segment("i", state, at(since), at(now), session, price)


async def observe(db: Database, *looks: Segment) -> None:
    for look in looks:
        async with db.write() as session:
            await money.observe(session, look, GAP)


async def rebuild(db: Database, lived: list[Lived], now: float, price: Price = A10) -> int:
    async with db.write() as session:
        return await money.rebuild(session, "i", lived, price, at(now))


async def segments(db: Database, since: float = -1, instance: str | None = "i") -> list[Segment]:
    async with db.read() as session:
        return await money.segments(session, at(since), instance)


async def spans(db: Database) -> list[tuple[str, float, float]]:
    return [(one.state, (one.started_at - START) / MINUTE, (one.ended_at - START) / MINUTE)
            for one in await segments(db)]  # fmt: skip


async def test_looks_grow_one_segment_as_long_as_nothing_changes(db: Database):
    await observe(db, *(seen("used", 0, minute) for minute in (0, 1, 2, 3)))
    (found,) = await segments(db)
    assert found == seen("used", 0, 3)


async def test_a_change_is_where_it_was_and_not_where_it_was_seen(db: Database):
    await observe(db, seen("used", 0, 0), seen("used", 0, 4), seen("idle", 5, 8), seen("idle", 5, 9))
    assert await spans(db) == [("used", 0, 5), ("idle", 5, 9)]


async def test_a_state_that_began_before_the_last_look_counts_from_that(db: Database):
    await observe(db, seen("used", 0, 0), seen("used", 0, 4), seen("idle", 1, 8))
    assert await spans(db) == [("used", 0, 4), ("idle", 4, 8)]


async def test_one_that_begins_just_now_has_no_time_yet(db: Database):
    await observe(db, seen("used", 0, 0), seen("stopped", 4, 4))
    assert await spans(db) == [("used", 0, 4)]
    await observe(db, seen("stopped", 4, 5))
    assert await spans(db) == [("used", 0, 4), ("stopped", 4, 5)]


async def test_what_was_seen_once_only_is_replaced(db: Database):
    await observe(db, seen("used", 0, 0), seen("idle", -9, 1))
    assert await spans(db) == [("idle", 0, 1)]


async def test_another_price_is_another_segment(db: Database):
    dearer = Price("A10", 12.0, 7.0, "specs", at(3))
    looked_up_again = Price("A10", 9.74, 7.0, "specs", at(2))
    await observe(db, seen("used", 0, 0), seen("used", 0, 2, looked_up_again), seen("used", 0, 4, dearer))
    assert [one.price.yuan_per_hour for one in await segments(db)] == [9.74, 12.0]


async def test_what_nobody_saw_is_unknown(db: Database):
    await observe(db, seen("used", 0, 0), seen("used", 0, 1), seen("used", 0, 30), seen("used", 0, 31))
    assert await spans(db) == [("used", 0, 1), ("unknown", 1, 30), ("used", 30, 31)]
    assert (await segments(db))[1].price == Price()


async def test_what_was_seen_once_and_then_not_for_long_is_unknown_from_then_on(db: Database):
    await observe(db, seen("used", 0, 0), seen("used", 0, 30), seen("used", 0, 60), seen("used", 0, 61))
    assert await spans(db) == [("unknown", 0, 30), ("unknown", 30, 60), ("used", 60, 61)]


async def test_a_clock_that_was_ahead_is_set_back(db: Database):
    looks = [seen("used", 0, minute) for minute in (0, 3, 60, 61)]
    await observe(db, *looks, seen("used", 0, 4), seen("used", 0, 5))
    assert await spans(db) == [("used", 0, 3), ("unknown", 3, 4), ("used", 4, 5)]


async def test_a_clock_that_is_a_little_behind_changes_nothing(db: Database):
    await observe(db, seen("used", 0, 0), seen("used", 0, 3), seen("idle", 1, 2))
    assert await spans(db) == [("used", 0, 3)]


async def test_instances_have_ledgers_of_their_own(db: Database):
    other = Segment("j", "used", at(1), at(1), None, A10)
    await observe(db, seen("used", 0, 0), other, seen("used", 0, 2))
    assert [len(await segments(db, instance=name)) for name in ("i", "j", None)] == [1, 1, 2]
    await observe(db, Segment("j", "idle", at(1), at(3), None, A10))
    assert [one.instance for one in await segments(db, instance=None)] == ["i", "j"]


async def test_only_what_ended_later_is_read(db: Database):
    await observe(db, seen("used", 0, 0), seen("idle", 2, 4))
    assert [one.state for one in await segments(db, since=1)] == ["used", "idle"]
    assert [one.state for one in await segments(db, since=2)] == ["idle"]


async def test_downtime_is_filled_from_the_instances_life(db: Database):
    await observe(db, seen("used", 0, 0), seen("used", 0, 3), seen("used", 0, 60), seen("used", 0, 61))
    lived = [Lived(1, "unwatched", at(0), at(20)), Lived(2, "unwatched", at(40), None)]
    assert await rebuild(db, lived, 61) == 5
    assert await spans(db) == [("used", 0, 3), ("unwatched", 3, 20), ("stopped", 20, 40), ("unwatched", 40, 60),
                               ("used", 60, 61)]  # fmt: skip
    assert [one.session for one in await segments(db)] == [1, 1, 1, 2, 2]
    assert await rebuild(db, lived, 61, Price("A10", 99.0)) == 0


async def test_an_instance_that_was_stopped_meanwhile_is_known_to_be(db: Database):
    await observe(db, seen("used", 0, 0), seen("used", 0, 3))
    await rebuild(db, [Lived(1, "unwatched", at(0), at(20))], 60)
    await observe(db, seen("stopped", 20, 60), seen("stopped", 20, 61))
    assert [(state, start, end) for state, start, end in await spans(db)] == [
        ("used", 0, 3), ("unwatched", 3, 20), ("stopped", 20, 60), ("stopped", 60, 61),
    ]  # fmt: skip


async def test_later_looks_go_on_after_a_rebuild(db: Database):
    await observe(db, seen("used", 0, 0), seen("used", 0, 3))
    lived = [Lived(1, "unwatched", at(0), None)]
    await rebuild(db, lived, 3)
    await observe(db, seen("used", 0, 4))
    await rebuild(db, lived, 4)
    assert await segments(db) == [seen("used", 0, 4, session=1)]


async def test_a_rebuild_of_the_newest_time_leaves_what_was_before(db: Database):
    await observe(db, seen("used", 0, 0), seen("idle", 3, 4), seen("used", 4, 8))
    await rebuild(db, [Lived(1, "unwatched", at(6), None)], 8)
    assert await spans(db) == [("used", 0, 3), ("idle", 3, 4), ("used", 4, 6), ("used", 6, 8)]


async def test_nothing_told_changes_nothing(db: Database):
    await observe(db, seen("used", 0, 0), seen("used", 0, 3))
    assert await rebuild(db, [], 60) == 0
    assert await spans(db) == [("used", 0, 3)]


async def test_many_wrong_segments_go_at_once(db: Database, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(money, "BATCH", 2)
    looks = [seen("used" if minute % 2 else "stopped", minute, minute + 1) for minute in range(7)]
    await observe(db, seen("stopped", 0, 0), *looks)
    assert await rebuild(db, [Lived(1, "starting", at(0), None)], 7) == 1
    assert await spans(db) == [("starting", 0, 7)]


async def test_gateways_that_write_at_once_leave_one_ledger(db: Database):
    lived = [Lived(1, "unwatched", at(0), at(20)), Lived(2, "unwatched", at(40), None)]
    await asyncio.gather(
        *(rebuild(db, lived, 60) for _ in range(4)), *(observe(db, seen("used", 60, 60)) for _ in "ab")
    )
    found = [one for one in await segments(db) if one.minutes]
    assert all(before.ended_at == after.started_at for before, after in pairwise(found))


async def test_a_segment_never_ends_before_it_begins(db: Database):
    async def add() -> None:
        async with db.write() as session:
            session.add(money._row(seen("used", 5, 4)))

    with pytest.raises((IntegrityError, StorageError)):
        await add()


STATES = st.sampled_from(["used", "idle", "stopped", "unwatched"])
LOOKS = st.lists(st.tuples(STATES, st.integers(-3, 12), st.integers(0, 15)), max_size=12)


@settings(deadline=None, max_examples=25)
@given(LOOKS)
def test_whatever_is_seen_the_ledger_has_no_gap_and_no_overlap(tmp_path_factory, looks):
    """Steps of the clock too, forwards and backwards."""

    async def work() -> list[Segment]:
        file = tmp_path_factory.mktemp("ledger") / "ledger.db"
        async with Database(f"sqlite+aiosqlite:///{file}") as db:
            async with db._writer.begin() as connection:
                await connection.run_sync(models.Table.metadata.create_all)
            now = 0
            for state, step, back in looks:
                now += step
                await observe(db, seen(state, now - back, now))
            return await segments(db)

    found = asyncio.run(work())
    assert all(before.ended_at == after.started_at for before, after in pairwise(found))
    assert all(one.minutes > 0 for one in found[:-1])  # the last one may have been seen just now


async def test_quotas_are_noted_once_and_read_with_the_one_before(db: Database):
    quotas = [Quota(at(minute), 250.0, 250.0 - minute, ends_at=at(900)) for minute in (0, 10, 20)]
    async with db.write() as session:
        for quota in [*quotas, quotas[1]]:
            await money.note_quota(session, quota)
    async with db.read() as session:
        assert await money.quotas(session, at(10)) == quotas
        assert await money.quotas(session, at(11)) == quotas[1:]
        assert await money.quotas(session, at(99)) == quotas[2:]
        assert await session.scalar(select(func.count()).select_from(models.QuotaSnapshot)) == 3


async def test_a_later_bill_replaces_an_earlier_one(db: Database):
    days = [Billed("i", date(2026, 11, day), 5.0 + day, "bss", at(0)) for day in (1, 2)]
    corrected = Billed("i", date(2026, 11, 2), 9.5, "bss", at(600))
    async with db.write() as session:
        await money.note_billed(session, days)
        await money.note_billed(session, [corrected])
    async with db.read() as session:
        assert await money.billed_days(session, date(2026, 11, 1)) == [days[0], corrected]
        assert await money.billed_days(session, date(2026, 11, 2)) == [corrected]


async def test_answers_are_those_of_their_conversation_or_key(db: Database):
    def used(source: str, start: float, end: float, conversation: int | None = None, key: str | None = None):
        return ledger.Usage(source, "m", 1, 0, 1, "stop", at(start), at(end), conversation, key)

    async with db.write() as session:
        await inbox.accept(session, [Incoming("telegram", "1", "telegram:7", "hi")], at(0))
        mine = await session.scalar(select(models.Conversation.id))
        for usage in (used("telegram", 1, 2, mine), used("openai", 2, 3, key="ci"), used("cli", 5, 4)):
            await ledger.record_usage(session, usage)
    async with db.read() as session:
        assert await money.answers(session, at(0)) == [
            Answer("telegram:7", at(1), at(2)), Answer("openai:ci", at(2), at(3)), Answer("cli", at(4), at(4)),
        ]  # fmt: skip
        assert len(await money.answers(session, at(3))) == 2


async def test_what_operators_were_told_is_found_by_its_kind(db: Database):
    async with db.write() as session:
        for kind, key in (("budget", "a"), ("budget", "b"), ("idle", "a")):
            await ledger.raise_alert(session, kind, key, "…", at(0))
    async with db.read() as session:
        assert await money.raised(session, ["budget", "forecast"]) == {("budget", "a"), ("budget", "b")}
        assert await money.raised(session, []) == frozenset()

"""Whose turn it is to act on the instance, what was decided, and what operators ask; in both databases."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from storage import orders, watches
from storage.database import Database
from storage.errors import ClaimLost
from storage.orders import Order
from storage.watches import Decided, Spell, Turn

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
LEASE = timedelta(seconds=90)
SECOND = timedelta(seconds=1)


async def take(db: Database, owner: str, now: datetime = NOW, instance: str = "i") -> Turn | None:
    async with db.write() as session:
        return await watches.take_turn(session, instance, owner, now, LEASE)


async def decide(db: Database, turn: Turn, memory: str, now: datetime = NOW) -> None:
    async with db.write() as session:
        await watches.decide(session, turn, memory, "because", now)


async def decided(db: Database) -> Decided | None:
    async with db.read() as session:
        return await watches.decided(session, "i")


async def place(db: Database, order: Order, now: datetime = NOW) -> bool:
    async with db.write() as session:
        return await orders.place(session, order, now)


async def waiting(db: Database, instance: str = "i") -> list[Order]:
    async with db.read() as session:
        return list(await orders.waiting(session, instance))


async def test_one_gateway_acts_at_a_time(db: Database):
    assert await take(db, "a") == Turn("i", "a", 1, "")
    assert await take(db, "b") is None
    assert await take(db, "a", NOW + SECOND) == Turn("i", "a", 2, "")
    assert await take(db, "b", NOW + LEASE) is None  # the second turn lasts longer


async def test_a_lease_that_has_run_out_is_anybodys(db: Database):
    await take(db, "a")
    assert await take(db, "b", NOW + LEASE - SECOND) is None
    assert await take(db, "b", NOW + LEASE) == Turn("i", "b", 2, "")
    assert await take(db, "a", NOW + LEASE + SECOND) is None


async def test_of_many_that_ask_at_once_one_gets_the_turn(db: Database):
    found = await asyncio.gather(*(take(db, name) for name in "abcdef"))
    assert sum(turn is not None for turn in found) == 1


async def test_what_one_decided_the_next_remembers(db: Database):
    assert await decided(db) is None
    first = await take(db, "a")
    assert await decided(db) is None
    await decide(db, first, "memory", NOW + SECOND)
    assert await decided(db) == Decided("memory", "because", NOW + SECOND)
    assert (await take(db, "b", NOW + LEASE)).memory == "memory"


async def test_one_that_comes_late_changes_nothing(db: Database):
    late = await take(db, "a")
    turn = await take(db, "b", NOW + LEASE)
    await decide(db, turn, "b's")
    with pytest.raises(ClaimLost):
        await decide(db, late, "a's")
    assert (await decided(db)).memory == "b's"


async def test_a_turn_of_ones_own_that_is_past_counts_no_more(db: Database):
    """A tick that hung must not write over what the next one decided."""
    hung, next_ = await take(db, "a"), await take(db, "a")
    await decide(db, next_, "new")
    with pytest.raises(ClaimLost):
        await decide(db, hung, "old")


async def test_a_turn_may_be_given_up(db: Database):
    await take(db, "a")
    async with db.write() as session:
        await watches.give_up_turn(session, "i", "b")  # not b's
    assert await take(db, "b") is None
    async with db.write() as session:
        await watches.give_up_turn(session, "i", "a")
    assert (await take(db, "b")).fence == 2


async def test_after_giving_up_the_late_one_is_late(db: Database):
    late = await take(db, "a")
    async with db.write() as session:
        await watches.give_up_turn(session, "i", "a")
    await take(db, "b")
    with pytest.raises(ClaimLost):
        await decide(db, late, "a's")


async def test_instances_have_turns_of_their_own(db: Database):
    assert await take(db, "a")
    assert await take(db, "b", instance="j")


async def test_what_a_cancelled_tick_decided_is_kept_whole_or_not_at_all(db: Database):
    """The task is waited for by itself: asyncio.wait_for may swallow a cancellation that meets its end."""
    turn = await take(db, "a")
    task = asyncio.create_task(decide(db, turn, "memory"))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    kept = await decided(db)
    assert kept is None or kept == Decided("memory", "because", NOW)
    await decide(db, turn, "again")
    assert (await decided(db)).memory == "again"


async def test_idle_spells_are_noted_once_and_read_in_order(db: Database):
    spells = [Spell(NOW + hour * 3600 * SECOND, NOW + (hour + 1) * 3600 * SECOND, "gpu", "requests") for hour in (0, 2)]
    async with db.write() as session:
        for spell in (spells[1], spells[0], spells[0]):
            await watches.note_spell(session, "i", spell)
    async with db.read() as session:
        assert await watches.spells(session, "i", NOW) == spells
        assert await watches.spells(session, "i", spells[0].ended_at) == spells[1:]
        assert await watches.spells(session, "j", NOW) == []


STOP = Order("tg:1", "i", "stop", "ann")


async def test_an_order_is_placed_once_however_often_it_is_asked(db: Database):
    assert await place(db, STOP)
    assert not await place(db, replace(STOP, placed_by="bob"))
    assert await waiting(db) == [STOP]


async def test_of_one_press_that_arrives_twice_at_once_one_counts(db: Database):
    assert sorted(await asyncio.gather(*(place(db, STOP) for _ in range(4)))) == [False, False, False, True]


async def test_orders_are_taken_once_in_their_order(db: Database):
    hold = Order("tg:2", "i", "hold", "bob", NOW + LEASE)
    other = Order("tg:3", "j", "wake", "bob")
    for order in (STOP, hold, other):
        await place(db, order)
    assert await waiting(db) == [STOP, hold]
    async with db.write() as session:
        await orders.take(session, [STOP], NOW)
    assert await waiting(db) == [hold]
    assert not await place(db, STOP)  # a link that was used stays used
    assert await waiting(db, "j") == [other]


async def test_taking_nothing_takes_nothing(db: Database):
    await place(db, STOP)
    async with db.write() as session:
        await orders.take(session, [], NOW)
    assert await waiting(db) == [STOP]


@pytest.mark.parametrize("kind", orders.KINDS)
async def test_every_kind_of_order_comes_back_as_it_was(db: Database, kind: orders.Kind):
    order = Order("k", "i", kind, "ann", NOW)
    await place(db, order)
    assert await waiting(db) == [order]


async def test_the_newest_word_on_silence_counts(db: Database):
    async def muted() -> datetime | None:
        async with db.read() as session:
            return await orders.muted_until(session, "i")

    assert await muted() is None
    for number, until in enumerate((NOW + 10 * SECOND, NOW + SECOND)):
        await place(db, Order(f"m{number}", "i", "mute", "ann", until))
    assert await muted() == NOW + SECOND

"""Deliveries: in order within a lane, and no lane waits for another."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from storage import outbox
from storage.database import Database
from storage.errors import UnknownName
from storage.outbox import Delivery, NewDelivery

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LEASE = timedelta(seconds=120)
CHANNELS = ("telegram", "webhook", "callback")
LATER = NOW + timedelta(seconds=5)


async def plan(db: Database, *lanes: str, channel: str = "telegram") -> None:
    async with db.write() as session:
        planned = [NewDelivery(channel, lane, lane, f'"{n}"') for n, lane in enumerate(lanes)]
        await outbox.add(session, planned, NOW)


async def due(db: Database, now: datetime = NOW, limit: int = 32) -> list[Delivery]:
    async with db.write() as session:
        return await outbox.claim_due(session, "a", now, LEASE, channels=CHANNELS, limit=limit)


async def mark(db: Database, how, *args) -> None:
    async with db.write() as session:
        await how(session, *args)


async def test_only_the_head_of_each_lane_is_due(db: Database) -> None:
    await plan(db, "1", "1", "2", "2")
    await plan(db, "1", channel="webhook")
    heads = await due(db)
    assert [(one.channel, one.lane, one.payload) for one in heads] == [
        ("telegram", "1", '"0"'), ("telegram", "2", '"2"'), ("webhook", "1", '"0"'),
    ]  # fmt: skip
    assert {one.state for one in heads} == {"sending"}
    assert [one.attempts for one in heads] == [1, 1, 1]
    assert all(one.public_id.startswith("dlv_") and len(one.public_id) == 28 for one in heads)
    assert await due(db) == []
    await mark(db, outbox.mark_sent, heads[1], "77", NOW)
    assert [one.payload for one in await due(db)] == ['"3"']


async def test_a_limit_takes_the_oldest(db: Database) -> None:
    await plan(db, "1", "2", "3")
    assert [one.lane for one in await due(db, limit=2)] == ["1", "2"]
    assert [one.lane for one in await due(db, limit=2)] == ["3"]


async def test_nothing_is_taken_twice_by_two_gateways(db: Database) -> None:
    await plan(db, *(str(n) for n in range(20)))
    taken = [one for some in await asyncio.gather(*(due(db, limit=8) for _ in range(6))) for one in some]
    taken += await due(db)
    assert len({one.id for one in taken}) == len(taken) == 20


async def test_a_retry_holds_its_lane_until_it_is_due(db: Database) -> None:
    await plan(db, "1", "1", "2")
    first, other = await due(db)
    await mark(db, outbox.mark_retry, first, LATER, "429")
    await mark(db, outbox.mark_sent, other, None, NOW)
    assert await due(db) == []
    (again,) = await due(db, LATER)
    assert (again.id, again.attempts, again.error) == (first.id, 2, "429")


@pytest.mark.parametrize("end", [outbox.mark_uncertain, outbox.mark_dead])
async def test_what_is_given_up_lets_the_lane_go_on_and_can_be_replayed(db: Database, end) -> None:
    await plan(db, "1", "1")
    (first,) = await due(db)
    await mark(db, end, first, "timed out")
    (second,) = await due(db)
    assert second.id > first.id
    await mark(db, outbox.mark_sent, second, None, NOW)
    async with db.read() as session:
        (left,) = await outbox.unfinished(session)
    assert (left.id, left.error) == (first.id, "timed out")
    await mark(db, outbox.replay, first.public_id, LATER)
    (again,) = await due(db, LATER)
    assert (again.id, again.attempts, again.failures) == (first.id, 2, 0)


async def test_only_what_was_given_up_is_replayed(db: Database) -> None:
    await plan(db, "1")
    (first,) = await due(db)
    await mark(db, outbox.mark_sent, first, "1", NOW)
    for unknown in (first.public_id, "dlv_unknown"):
        with pytest.raises(UnknownName, match=unknown):
            await mark(db, outbox.replay, unknown, NOW)


async def test_what_was_being_sent_at_a_crash_is_shown_for_a_decision(db: Database) -> None:
    await plan(db, "1", "2", "3")
    sending = await due(db, limit=2)
    async with db.write() as session:
        assert await outbox.abandoned(session, "other", NOW, channels=CHANNELS) == []
        assert await outbox.abandoned(session, "a", NOW, channels=CHANNELS, held=[one.id for one in sending]) == []
        found = await outbox.abandoned(session, "a", NOW, channels=CHANNELS)
        assert [one.id for one in found] == [one.id for one in sending]
        await outbox.mark_retry(session, found[0], NOW, "stopped")
        await outbox.mark_uncertain(session, found[1], "stopped")
    assert [one.lane for one in await due(db)] == ["1", "3"]


async def test_a_replayed_delivery_waits_for_what_its_lane_is_sending(db: Database) -> None:
    async with db.write() as session:
        await outbox.add(session, [NewDelivery("telegram", "1", "1", str(n)) for n in range(2)], NOW)
    async with db.write() as session:
        (first,) = await outbox.claim_due(session, "a", NOW, LEASE, channels=CHANNELS, limit=10)
        await outbox.mark_uncertain(session, first, "lost")
    async with db.write() as session:
        (second,) = await outbox.claim_due(session, "a", NOW, LEASE, channels=CHANNELS, limit=10)
        await outbox.replay(session, first.public_id, NOW)
        assert await outbox.claim_due(session, "a", NOW, LEASE, channels=CHANNELS, limit=10) == []
        await outbox.mark_sent(session, second, None, NOW)
        assert [d.id for d in await outbox.claim_due(session, "a", NOW, LEASE, channels=CHANNELS, limit=10)] == [
            first.id
        ]


async def test_what_another_gateway_was_sending_is_taken_over_when_its_lease_is_over(db: Database) -> None:
    await plan(db, "1")
    (stale,) = await due(db)
    later = NOW + LEASE
    async with db.write() as session:
        (found,) = await outbox.abandoned(session, "b", later, channels=CHANNELS)
        await outbox.mark_retry(session, found, later, "stopped")
    async with db.write() as session:
        (fresh,) = await outbox.claim_due(session, "b", later, LEASE, channels=CHANNELS, limit=1)
    await mark(db, outbox.mark_dead, stale, "the one that was paused comes back")
    async with db.read() as session:
        assert [(row.state, row.attempts) for row in await outbox.unfinished(session)] == [("sending", fresh.attempts)]


async def test_a_receiver_that_has_enough_is_left_out(db: Database) -> None:
    async with db.write() as session:
        await outbox.add(session, [NewDelivery("callback", n, f"{n}:{i}", "{}") for i in range(3) for n in "ab"], NOW)
    async with db.write() as session:
        claimed = await outbox.claim_due(
            session, "a", NOW, LEASE, channels=CHANNELS, limit=10, full=[("callback", "a")]
        )
    assert [one.lane for one in claimed] == ["b:0", "b:1", "b:2"]


async def test_what_nobody_here_can_send_waits_for_somebody_who_can(db: Database) -> None:
    await plan(db, "1")
    await plan(db, "1", channel="callback")
    async with db.write() as session:
        (taken,) = await outbox.claim_due(session, "a", NOW, LEASE, channels=["callback"], limit=9)
    assert taken.channel == "callback"
    later = NOW + LEASE
    async with db.write() as session:
        assert await outbox.abandoned(session, "b", later, channels=["telegram"]) == []

"""Claims are kept while their turns go on, and drafts of the answers are stored; a claim that is lost ends its turn."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from sqlalchemy import select, text, update

from bot import leases
from bot.clock import now
from bot.leases import LEASE, Leases
from bot.live import NEWS, LiveTurn
from inference.protocol import Chunk, Usage
from storage import inbox
from storage.database import Database
from storage.errors import ClaimLost, DatabaseUnavailable
from storage.inbox import Claim, Incoming
from storage.models import Draft, Inbox


@pytest.fixture
def holding(db: Database) -> Leases:
    return Leases(db, lambda: "model")


async def claimed(db: Database, count: int = 1) -> list[Claim]:
    """Messages of as many conversations, all claimed."""
    async with db.write() as session:
        incoming = [Incoming("webhook:demo", str(n), f"webhook:demo:{n}", "Hello!") for n in range(count)]
        await inbox.accept(session, incoming, now())
    async with db.write() as session:
        return await inbox.claim(session, "me", now(), LEASE, channels=["webhook"], limit=count)


@asynccontextmanager
async def held(holding: Leases, claim: Claim) -> AsyncIterator[LiveTurn]:
    live = LiveTurn(claim.id)
    live.begin(claim, claim.draft)
    async with holding.hold(claim, live):
        yield live


def say(live: LiveTurn, tokens: int, word: str = "x") -> None:
    """The model gives some tokens."""
    live.add(Chunk(1, tuple(range(tokens)), word * tokens))


def due(holding: Leases) -> None:
    """Time goes by."""
    for one in holding._holdings.values():
        one.renewed -= leases.RENEW_EVERY


async def draft(db: Database, claim: Claim) -> tuple[str, int] | None:
    """The stored text, and the number of its tokens."""
    async with db.read() as session:
        row = (await session.execute(select(Draft.text, Draft.tokens).where(Draft.inbox_id == claim.id))).first()
    return row and (row[0], len(row[1]))


async def lease_left(db: Database, claim: Claim) -> timedelta:
    async with db.read() as session:
        return await session.scalar(select(Inbox.lease_until).where(Inbox.id == claim.id)) - now()


async def taken_over(db: Database, claim: Claim) -> None:
    """As by another process, which found the lease run out."""
    async with db.write() as session:
        changes = {"fence": claim.fence + 1, "owner": "other"}
        await session.execute(update(Inbox).where(Inbox.id == claim.id).values(**changes))


async def test_a_lease_is_renewed_when_it_is_due_and_not_before(db: Database, holding: Leases) -> None:
    (claim,) = await claimed(db)
    async with db.write() as session:
        await session.execute(update(Inbox).values(lease_until=now() + timedelta(seconds=1)))
    async with held(holding, claim):
        await holding.tick()
        assert await lease_left(db, claim) < timedelta(seconds=2)
        due(holding)
        await holding.tick()
        assert await lease_left(db, claim) > LEASE - timedelta(seconds=5)


async def test_all_that_is_due_is_one_transaction(
    db: Database, holding: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    transactions = 0
    write = db.write

    def counted():
        nonlocal transactions
        transactions += 1
        return write()

    async with asyncio.TaskGroup() as group:
        over = asyncio.Event()

        async def turn(claim: Claim) -> None:
            async with held(holding, claim) as live:
                say(live, NEWS)
                await over.wait()

        claims = await claimed(db, 20)
        for claim in claims:
            group.create_task(turn(claim), name=f"turn {claim.id}")
        await asyncio.sleep(0.01)
        due(holding)
        monkeypatch.setattr(db, "write", counted)
        await holding.tick()
        await holding.tick()  # nothing is new
        assert transactions == 1
        over.set()
    assert [await draft(db, claim) for claim in claims] == [("x" * NEWS, NEWS)] * 20
    assert holding.held == []


async def test_a_lost_lease_ends_the_turn_with_claim_lost_and_nothing_of_it_is_stored(
    db: Database, holding: Leases
) -> None:
    mine, other = await claimed(db, 2)

    async def turn() -> None:
        async with held(holding, mine) as live:
            say(live, 2 * NEWS)
            await asyncio.sleep(60)

    turning = asyncio.create_task(turn(), name="turn")
    await asyncio.sleep(0.01)
    async with held(holding, other):
        await taken_over(db, mine)
        due(holding)
        await holding.tick()
        async with asyncio.timeout(10):
            with pytest.raises(ClaimLost):
                await turning
        await holding.tick()
    assert await draft(db, mine) is None
    assert await lease_left(db, other) > timedelta(0)


async def test_a_turn_that_runs_out_of_its_own_time_has_not_lost_its_claim(db: Database, holding: Leases) -> None:
    (claim,) = await claimed(db)
    with pytest.raises(TimeoutError):
        async with held(holding, claim):
            raise TimeoutError
    assert holding.held == []


async def test_a_turn_that_is_cancelled_is_not_held_any_more(db: Database, holding: Leases) -> None:
    (claim,) = await claimed(db)
    async with asyncio.timeout(10):
        holds = asyncio.Event()

        async def turn() -> None:
            async with held(holding, claim):
                holds.set()
                await asyncio.sleep(60)

        turning = asyncio.create_task(turn(), name="turn")
        await holds.wait()
        assert holding.held == [claim.id]
        turning.cancel()
        await asyncio.wait({turning})
    assert turning.cancelled()
    assert holding.held == []


async def test_drafts_grow_with_the_answer(db: Database, holding: Leases) -> None:
    (claim,) = await claimed(db)
    async with held(holding, claim) as live:
        say(live, NEWS - 1)
        await holding.tick()
        assert await draft(db, claim) is None  # not worth a transaction
        say(live, 1)
        await holding.tick()
        assert await draft(db, claim) == ("x" * NEWS, NEWS)
        say(live, 10 * NEWS, "y")
        await holding.tick()
        assert await draft(db, claim) == ("x" * NEWS + "y" * 10 * NEWS, 11 * NEWS)


async def test_a_finished_answer_leaves_no_draft_behind_its_end(db: Database, holding: Leases) -> None:
    """What is complete is stored as a reply: a draft of it would be gone on from."""
    (claim,) = await claimed(db)
    async with held(holding, claim) as live:
        say(live, NEWS)
        live.add(Chunk(1, finish="stop", usage=Usage(1, 0, NEWS)))
        await holding.tick()
    assert await draft(db, claim) is None


async def test_a_draft_that_could_not_be_stored_is_stored_later(
    db: Database, holding: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away():
        raise DatabaseUnavailable

    (claim,) = await claimed(db)
    async with held(holding, claim) as live:
        say(live, NEWS)
        due(holding)
        with monkeypatch.context() as patch:
            patch.setattr(db, "write", away)
            with pytest.raises(DatabaseUnavailable):
                await holding.tick()
        await holding.tick()
    assert await draft(db, claim) == ("x" * NEWS, NEWS)


async def test_a_database_that_is_away_ends_nothing(
    db: Database, holding: Leases, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def away():
        raise DatabaseUnavailable

    monkeypatch.setattr(leases, "TICK", 0.01)
    (claim,) = await claimed(db)
    running = asyncio.create_task(holding.run(), name="leases")
    async with asyncio.timeout(20), held(holding, claim) as live:
        say(live, NEWS)
        due(holding)
        with monkeypatch.context() as patch:
            patch.setattr(db, "write", away)
            while "trying again" not in capsys.readouterr().out:
                await asyncio.sleep(0.02)
        while await draft(db, claim) is None:
            await asyncio.sleep(0.02)
        assert holding.held == [claim.id]
    running.cancel()
    await asyncio.wait({running})


@pytest.mark.parametrize("hours", [-24, 24])
async def test_a_clock_that_jumps_ends_nothing(
    db: Database, holding: Leases, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """Back: leases are renewed all the same. Forward: what looks run out is still this process's own."""
    (claim,) = await claimed(db)
    async with held(holding, claim):
        monkeypatch.setattr(leases, "now", lambda: now() + timedelta(hours=hours))
        due(holding)
        await holding.tick()
        await asyncio.sleep(0)
        assert abs(await lease_left(db, claim) - timedelta(hours=hours) - LEASE) < timedelta(seconds=30)
        async with db.write() as session:
            later = now() + timedelta(hours=48)
            assert not await inbox.claim(session, "me", later, LEASE, channels=["webhook"], held=holding.held)


async def test_a_draft_can_be_gone_on_from(db: Database, holding: Leases) -> None:
    (claim,) = await claimed(db)
    async with held(holding, claim) as live:
        say(live, NEWS)
        await holding.tick()
    async with db.write() as session:
        await inbox.release_owned(session, "me")
        (again,) = await inbox.claim(session, "me", now(), LEASE, channels=["webhook"])
    assert (again.fence, again.attempts) == (claim.fence + 1, 0)
    async with held(holding, again) as live:
        assert (live.text, len(live.tokens)) == ("x" * NEWS, NEWS)
        assert not live.grown
        say(live, NEWS, "y")
        await holding.tick()
    assert await draft(db, again) == ("x" * NEWS + "y" * NEWS, 2 * NEWS)
    async with db.read() as session:
        assert await session.scalar(text("SELECT count(*) FROM drafts")) == 1


async def test_a_turn_that_ends_while_leases_are_renewed_ends_nothing_else(
    db: Database, holding: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    (claim,) = await claimed(db)
    renewing = asyncio.Event()

    async def renew(*_: object) -> set[int]:
        renewing.set()
        await asyncio.sleep(0.05)
        return set()

    monkeypatch.setattr(inbox, "renew", renew)

    async def turn() -> None:
        async with held(holding, claim):
            await renewing.wait()

    turning = asyncio.create_task(turn(), name="turn")
    await asyncio.sleep(0.01)
    due(holding)
    await holding.tick()
    await turning
    assert holding.held == []


async def test_a_claim_that_is_lost_ends_its_turn_once_however_long_that_takes(db: Database, holding: Leases) -> None:
    (claim,) = await claimed(db)
    going = asyncio.Event()

    async def turn() -> None:
        async with held(holding, claim):
            try:
                await asyncio.Event().wait()
            finally:
                await going.wait()

    turning = asyncio.create_task(turn(), name="turn")
    await asyncio.sleep(0.01)
    await taken_over(db, claim)
    for _ in range(3):
        due(holding)
        await holding.tick()
        await asyncio.sleep(0.01)
    going.set()
    with pytest.raises(ClaimLost):
        await turning

"""Turns on a real database: whatever fails, each message has one reply in the end, or its reason."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from bot import conversation
from bot.clock import now
from bot.conversation import Persona, Turns
from bot.live import LiveTurn, Outcome
from inference.engine import EngineState
from inference.errors import EngineUnavailable, InvalidRequest, WorkerDied
from inference.protocol import Chunk, ModelInfo, Request, Usage
from storage import inbox
from storage.database import Database
from storage.errors import DatabaseRefused, DatabaseUnavailable
from storage.inbox import Claim, Incoming
from storage.models import Draft, Inbox, Message
from storage.outbox import NewDelivery

WORDS = 30


@dataclass
class ScriptedEngine:
    """An engine whose model says `t0 t1 t2 …`, a word a step; `script` says how a call ends after so many words."""

    state: EngineState = field(default_factory=lambda: EngineState("ready"))
    script: list[tuple[int, Exception | None]] = field(default_factory=list)
    resumed: list[int] = field(default_factory=list)
    paused: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.state.info = ModelInfo("scripted", "for tests", context=1024, slots=4, thinks=False, gpu=False)
        self.paused.set()

    async def changed(self) -> None:
        await asyncio.Event().wait()

    async def generate(
        self, _request: Request, *, resume: tuple[int, ...], patience: float | None, bounded: bool
    ) -> AsyncGenerator[Chunk, None]:
        assert patience is None
        assert not bounded
        self.resumed.append(len(resume))
        until, error = self.script.pop(0) if self.script else (WORDS, None)
        for number in range(len(resume), min(until, WORDS)):
            await self.paused.wait()
            await asyncio.sleep(0)
            yield Chunk(1, (number,), f"t{number} ")
        if error:
            raise error
        if until > WORDS:
            await asyncio.Event().wait()
        yield Chunk(1, (), "", "", "stop", Usage(1, 0, WORDS))


class Silent:
    """A channel that shows nothing and plans one delivery."""

    async def show(self, _live: LiveTurn) -> None:
        pass

    def deliveries(self, claim: Claim, outcome: Outcome) -> list[NewDelivery]:
        return [NewDelivery("callback", "demo", claim.conversation_key, outcome.text)]


WHOLE = " ".join(f"t{number}" for number in range(WORDS))


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.patience.PAUSE", 0.05)
    monkeypatch.setattr("bot.leases.TICK", 0.02)
    monkeypatch.setattr(conversation, "POLL", 0.05)
    monkeypatch.setattr(conversation, "timedelta", lambda seconds: timedelta(seconds=seconds / 100))


def gateway(db: Database, engine: ScriptedEngine, owner: str = "me") -> Turns:
    turns = Turns(db, engine, Persona(), owner=owner)
    turns.channels["webhook"] = Silent()
    return turns


@contextlib.asynccontextmanager
async def at_work(turns: Turns) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(turns.run(), name="turns")
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()


async def accepted(turns: Turns, name: str = "m", room: str = "room") -> int:
    return (await turns.accept(Incoming("webhook:demo", name, f"webhook:demo:{room}", "Hello!"))).id


async def row(db: Database, identifier: int) -> Inbox:
    async with db.read() as session:
        return (await session.scalars(select(Inbox).where(Inbox.id == identifier))).one()


async def until(db: Database, identifier: int, true: Callable[[Inbox], bool]) -> Inbox:
    async with asyncio.timeout(20):
        while not true(found := await row(db, identifier)):
            await asyncio.sleep(0.02)
    return found


async def ended(db: Database, identifier: int) -> Inbox:
    return await until(db, identifier, lambda found: found.state in ("done", "failed"))


async def replies(db: Database) -> list[str]:
    async with db.read() as session:
        return list(await session.scalars(select(Message.content).where(Message.role == "assistant")))


async def drafts(db: Database) -> list[str]:
    async with db.read() as session:
        return list(await session.scalars(select(Draft.text)))


async def test_a_message_is_answered_once(db: Database, engine: ScriptedEngine) -> None:
    turns = gateway(db, engine)
    async with at_work(turns):
        found = await ended(db, await accepted(turns))
    assert (found.state, found.attempts, found.fence) == ("done", 0, 1)
    assert await replies(db) == [WHOLE]
    assert await drafts(db) == []


async def test_a_failed_try_is_repeated_from_the_beginning_and_then_given_up(
    db: Database, engine: ScriptedEngine
) -> None:
    engine.script = [(10, WorkerDied()), (3, WorkerDied()), (WORDS, None)] + [(2, WorkerDied())] * 3
    turns = gateway(db, engine)
    async with at_work(turns):
        first = await ended(db, await accepted(turns, "first"))
        second = await ended(db, await accepted(turns, "second"))
    assert (first.state, first.attempts) == ("done", 2)
    assert (second.state, second.attempts) == ("failed", 2)
    assert str(WorkerDied()) in second.error
    assert engine.resumed == [0] * 6
    assert await replies(db) == [WHOLE]


async def test_a_request_that_can_never_be_served_fails_at_once(db: Database, engine: ScriptedEngine) -> None:
    engine.script = [(0, InvalidRequest("It is too long."))]
    turns = gateway(db, engine)
    async with at_work(turns):
        found = await ended(db, await accepted(turns))
    assert (found.state, found.error, found.fence) == ("failed", "It is too long.", 1)


async def test_a_model_that_is_taken_away_is_waited_for_and_the_answer_goes_on(
    db: Database, engine: ScriptedEngine
) -> None:
    engine.script = [(12, EngineUnavailable("It loads."))]
    turns = gateway(db, engine)
    async with at_work(turns):
        found = await ended(db, await accepted(turns))
    assert (found.state, found.attempts, found.fence) == ("done", 0, 2)
    assert engine.resumed == [0, 12]
    assert await replies(db) == [WHOLE]


async def test_a_stop_notes_what_there_is_and_the_next_process_goes_on_from_there(
    db: Database, engine: ScriptedEngine
) -> None:
    engine.script = [(WORDS + 1, None)]  # it never comes to its end
    turns = gateway(db, engine)
    async with at_work(turns):
        identifier = await accepted(turns)
        with turns.follow(identifier) as live:
            async with asyncio.timeout(10):
                while len(live.tokens) < 20:
                    await live.changed(1)
    found = await row(db, identifier)
    assert (found.state, found.lease_until) == ("queued", None)
    (noted,) = await drafts(db)
    again = gateway(db, engine)
    async with at_work(again):
        await ended(db, identifier)
    assert engine.resumed[1] >= 20
    (reply,) = await replies(db)
    assert reply == WHOLE
    assert reply.startswith(noted.strip())


async def test_a_process_of_the_same_name_goes_on_at_once_where_the_last_one_died(
    db: Database, engine: ScriptedEngine
) -> None:
    """It does not wait for the lease; one of another name does."""
    identifier = await accepted(gateway(db, engine))
    lease = timedelta(seconds=600)
    async with db.write() as session:
        (dead,) = await inbox.claim(session, "me", now(), lease, channels=["webhook"])
        await inbox.checkpoint(session, dead, inbox.Draft("scripted for tests", (0, 1, 2), "t0 t1 t2 ", ""))
    async with at_work(gateway(db, engine, "other")):
        await asyncio.sleep(0.3)
        assert (await row(db, identifier)).fence == dead.fence
    async with at_work(gateway(db, engine)):
        await ended(db, identifier)
    assert engine.resumed == [3]
    assert await replies(db) == [WHOLE]


async def test_who_comes_back_late_does_not_commit_over_its_successor(
    db: Database, engine: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """The one was paused longer than its lease; both come to their end, and one reply is stored."""
    late, other = gateway(db, engine), gateway(db, ScriptedEngine(), "other")
    engine.paused.clear()
    async with at_work(late) as running:
        identifier = await accepted(late)
        await until(db, identifier, lambda found: found.state == "claimed")
        async with db.write() as session:
            await session.execute(update(Inbox).values(lease_until=now() - timedelta(seconds=1)))
        async with at_work(other):
            found = await ended(db, identifier)
        engine.paused.set()
        with late.follow(identifier) as live:
            await live.over(10)
        assert not running.done()
    assert (found.owner, found.fence) == ("other", 2)
    assert await replies(db) == [WHOLE]
    assert (await row(db, identifier)).fence == 2


async def test_a_database_that_is_away_at_the_end_is_waited_for(
    db: Database, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns, finish, away = gateway(db, engine), inbox.finish, 4

    async def flaky(session: AsyncSession, *rest: object) -> None:
        nonlocal away
        away -= 1
        if away > 0:
            raise DatabaseUnavailable
        await finish(session, *rest)

    monkeypatch.setattr(inbox, "finish", flaky)
    async with at_work(turns):
        found = await ended(db, await accepted(turns))
    assert (found.state, found.attempts, found.fence) == ("done", 0, 1)
    assert engine.resumed == [0]  # it was not generated again
    assert await replies(db) == [WHOLE]


@pytest.mark.parametrize("error", [DatabaseRefused("No."), KeyError("a fault of ours")])
async def test_an_end_that_is_refused_for_good_ends_in_the_dead_letter_and_holds_up_nobody(
    db: Database, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    finish = inbox.finish

    async def picky(session: AsyncSession, claim: Claim, *rest: object) -> None:
        if claim.conversation_key.endswith("odd"):
            raise error
        await finish(session, claim, *rest)

    monkeypatch.setattr(inbox, "finish", picky)
    turns = gateway(db, engine)
    async with at_work(turns) as running:
        odd, plain = await accepted(turns, "odd", "odd"), await accepted(turns, "plain")
        found = await ended(db, odd)
        assert (await ended(db, plain)).state == "done"
        assert not running.done()
    assert (found.state, found.attempts) == ("failed", 2)
    assert await replies(db) == [WHOLE]


async def test_a_claim_whose_commit_was_not_confirmed_is_taken_up_again(
    db: Database, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line breaks behind the commit: the row is claimed, and its claimer does not know."""
    claim, broken = inbox.claim, False

    async def unconfirmed(session: AsyncSession, *rest: object, **more: object) -> list[Claim]:
        nonlocal broken
        claims = await claim(session, *rest, **more)
        if claims and not broken:
            broken = True
            await session.execute(update(Inbox).values(lease_until=now() + timedelta(seconds=0.3)))
            await session.commit()
            raise DatabaseUnavailable
        return claims

    monkeypatch.setattr(inbox, "claim", unconfirmed)
    turns = gateway(db, engine)
    async with at_work(turns):
        found = await ended(db, await accepted(turns))
    assert (found.state, found.fence, found.attempts) == ("done", 2, 0)


@pytest.mark.parametrize("minutes", [10, -10])
async def test_a_clock_that_jumps_loses_and_doubles_nothing(
    db: Database, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch, minutes: int
) -> None:
    jumped = False

    def clock():
        return now() + timedelta(minutes=minutes if jumped else 0)

    for module in ("bot.conversation", "bot.leases"):
        monkeypatch.setattr(f"{module}.now", clock)
    turns = gateway(db, engine)
    engine.paused.clear()
    async with at_work(turns):
        first = await accepted(turns, "first", "one")
        await until(db, first, lambda found: found.state == "claimed")
        jumped = True
        second = await accepted(turns, "second", "two")
        await asyncio.sleep(0.2)
        engine.paused.set()
        found = [await ended(db, first), await ended(db, second)]
    assert [(one.state, one.fence, one.attempts) for one in found] == [("done", 1, 0)] * 2
    assert await replies(db) == [WHOLE] * 2

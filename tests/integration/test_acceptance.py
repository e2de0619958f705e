"""Group commit: many messages in one transaction, each caller with an answer of his own, whatever happens."""

import asyncio
from datetime import UTC, datetime

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from storage import acceptance, inbox
from storage.acceptance import Acceptance
from storage.database import Database
from storage.errors import DatabaseUnavailable
from storage.inbox import Accepted, Incoming
from storage.models import Inbox

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def message(name: str, room: str = "room", said: str = "Hello!", body: str = "hash") -> Incoming:
    return Incoming("webhook:demo", name, f"webhook:demo:{room}", said, body)


async def all_of(accepting: Acceptance, *incoming: Incoming) -> list[Accepted]:
    async with asyncio.timeout(20):
        return await asyncio.gather(*(accepting.accept(one, NOW) for one in incoming))


async def stored(db: Database) -> list[str]:
    async with db.read() as session:
        return list(await session.scalars(select(Inbox.external_id).order_by(Inbox.id)))


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many messages each transaction had."""
    sizes: list[int] = []
    plain = inbox.accept

    async def counted(session: AsyncSession, incoming: list[Incoming], now: datetime) -> list[Accepted]:
        sizes.append(len(incoming))
        return await plain(session, incoming, now)

    monkeypatch.setattr(inbox, "accept", counted)
    return sizes


async def test_many_at_once_cost_a_few_transactions(db: Database, commits: list[int]) -> None:
    names = [f"m{number}" for number in range(500)]
    accepted = await all_of(Acceptance(db), *(message(name) for name in names))
    assert all(one.created for one in accepted)
    assert await stored(db) == names
    assert sum(commits) == 500
    assert len(commits) <= 4
    assert max(commits) <= acceptance.GROUP


async def test_rows_have_the_order_in_which_messages_came(db: Database) -> None:
    """Also over groups: a conversation's questions are answered as they were asked."""
    accepting = Acceptance(db)
    tasks = []
    for number in range(60):
        tasks.append(asyncio.create_task(accepting.accept(message(f"m{number}", f"room{number % 3}"), NOW)))
        await asyncio.sleep(0.001 if number % 7 == 0 else 0)
    rows = [(await task).id for task in tasks]
    assert rows == sorted(rows)


async def test_one_alone_waits_for_nobody(db: Database, commits: list[int]) -> None:
    accepting = Acceptance(db)
    for number in range(3):
        await accepting.accept(message(f"m{number}"), NOW)
    assert commits == [1, 1, 1]


async def test_the_same_message_twice_in_a_group_is_one_row(db: Database, commits: list[int]) -> None:
    accepting = Acceptance(db)
    again = await all_of(accepting, message("a"), message("b"), message("a"), message("a", body="other"))
    assert commits == [4]
    assert [one.created for one in again] == [True, True, False, False]
    assert again[0].id == again[2].id == again[3].id
    assert again[3].body_hash == "hash"  # by which the caller sees that it was another
    assert await stored(db) == ["a", "b"]
    (later,) = await all_of(accepting, message("a"))
    assert (later.id, later.created) == (again[0].id, False)


async def test_a_group_that_fails_fails_for_all_and_the_next_goes_on(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepting = Acceptance(db)
    with monkeypatch.context() as patch:
        patch.setattr(AsyncSession, "commit", full)
        async with asyncio.timeout(10):
            told = await asyncio.gather(
                *(accepting.accept(message(f"m{number}"), NOW) for number in range(5)), return_exceptions=True
            )
    assert [type(one) for one in told] == [DatabaseUnavailable] * 5
    assert await stored(db) == []
    assert len(await all_of(accepting, *(message(f"m{number}") for number in range(5)))) == 5
    assert len(await stored(db)) == 5


async def full(_session: AsyncSession) -> None:
    raise DatabaseUnavailable("The disk is full.")


async def test_a_database_that_is_away_fails_all_who_wait_at_once(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one group after the other, each after its own time-out."""
    tries = 0

    def away():
        nonlocal tries
        tries += 1
        raise DatabaseUnavailable

    accepting = Acceptance(db)
    with monkeypatch.context() as patch:
        patch.setattr(db, "write", away)
        async with asyncio.timeout(10):
            told = await asyncio.gather(
                *(accepting.accept(message(f"m{number}"), NOW) for number in range(600)), return_exceptions=True
            )
    assert {type(one) for one in told} == {DatabaseUnavailable}
    assert tries == 1
    await all_of(accepting, message("m"))


async def test_a_message_that_can_not_be_stored_costs_the_others_nothing(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = inbox.accept

    async def picky(session: AsyncSession, incoming: list[Incoming], now: datetime) -> list[Accepted]:
        if any(one.text == "poison" for one in incoming):
            raise KeyError("poison")
        return await plain(session, incoming, now)

    monkeypatch.setattr(inbox, "accept", picky)
    accepting = Acceptance(db)
    async with asyncio.timeout(10):
        told = await asyncio.gather(
            *(accepting.accept(message(f"m{n}", said="poison" if n == 2 else "x"), NOW) for n in range(5)),
            return_exceptions=True,
        )
    assert [type(one).__name__ for one in told] == ["Accepted", "Accepted", "KeyError", "Accepted", "Accepted"]
    assert await stored(db) == ["m0", "m1", "m3", "m4"]


@pytest.mark.parametrize("odd", ["a\0b", "\ud800", "x" * 5000, "\u200b", "Ünï ☃ 🦊"])
async def test_odd_names_are_stored_like_others(db: Database, odd: str) -> None:
    accepting = Acceptance(db)
    first, second = await all_of(accepting, message(odd, odd, odd), message("plain"))
    assert first.created
    assert second.created
    again = await all_of(accepting, message(odd, odd, odd))
    assert (again[0].id, again[0].created) == (first.id, False)


async def test_callers_who_leave_have_their_message_stored_all_the_same(db: Database) -> None:
    accepting = Acceptance(db)
    tasks = [asyncio.create_task(accepting.accept(message(f"m{n}"), NOW)) for n in range(6)]
    await asyncio.sleep(0)
    for task in tasks[:5]:
        task.cancel()
    async with asyncio.timeout(10):
        await tasks[5]
    assert all(task.cancelled() for task in tasks[:5])
    assert sorted(await stored(db)) == [f"m{n}" for n in range(6)]


async def test_what_was_answered_is_on_the_disk(db: Database, db_url: str) -> None:
    """Another connection sees each message as soon as its caller has the answer."""
    accepting = Acceptance(db)
    async with Database(db_url) as other:

        async def accept_and_look(number: int) -> None:
            accepted = await accepting.accept(message(f"m{number}"), NOW)
            async with other.read() as session:
                assert await session.scalar(select(func.count(Inbox.id)).where(Inbox.id == accepted.id)) == 1

        async with asyncio.TaskGroup() as group:
            for number in range(40):
                group.create_task(accept_and_look(number), name=f"caller {number}")
    if db.dialect == "sqlite":
        async with db.write() as session:
            assert (await session.execute(text("PRAGMA synchronous"))).scalar_one() == 2

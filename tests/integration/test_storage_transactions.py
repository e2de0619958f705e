"""What a transaction promises: no update is lost, nothing half-written stays, whoever is cancelled and whenever."""

import asyncio
import random
from datetime import UTC, datetime

import pytest
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from storage.database import Database
from storage.errors import StorageError
from storage.models import Alert, Conversation

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TASKS, ROUNDS = 8, 25


async def count_up(session: AsyncSession) -> None:
    """Reads a number, thinks, and writes the next one. SQLite has no row locks and needs none."""
    seen = await session.scalar(select(Conversation.id).where(Conversation.key == "x").with_for_update())
    await asyncio.sleep(0)
    await session.execute(update(Conversation).where(Conversation.key == "x").values(id=seen + 1))


async def test_no_update_is_lost(db: Database) -> None:
    async with db.write() as session:
        await session.execute(insert(Conversation).values(id=0, key="x", created_at=NOW))

    async def work() -> None:
        for _ in range(ROUNDS):
            async with db.write() as session:
                await count_up(session)

    async with asyncio.TaskGroup() as group:
        for number in range(TASKS):
            group.create_task(work(), name=f"writer {number}")
    async with db.read() as session:
        assert await session.scalar(select(Conversation.id)) == TASKS * ROUNDS


async def test_no_update_is_lost_between_processes(db: Database, db_url: str) -> None:
    """A second `Database` stands for another process: they share no lock in memory."""
    async with db.write() as session:
        await session.execute(insert(Conversation).values(id=0, key="x", created_at=NOW))

    async def work(one: Database) -> None:
        for _ in range(ROUNDS):
            async with one.write() as session:
                await count_up(session)

    async with Database(db_url) as other, asyncio.TaskGroup() as group:
        for one in (db, other):
            group.create_task(work(one), name="writer")
    async with db.read() as session:
        assert await session.scalar(select(Conversation.id)) == 2 * ROUNDS


async def test_the_drivers_own_transactions_lose_updates(tmp_path) -> None:
    """Why `Database` begins transactions itself: two sessions read one value, and both write, with no error."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'plain.db'}")
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE counter (n INTEGER)"))
        await connection.execute(text("INSERT INTO counter VALUES (0)"))
    async with AsyncSession(engine) as first, AsyncSession(engine) as second:
        seen = [await session.scalar(text("SELECT n FROM counter")) for session in (first, second)]
        for session, n in zip((first, second), seen, strict=True):
            await session.execute(text(f"UPDATE counter SET n = {n + 1}"))
            await session.commit()
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT n FROM counter")) == 1
    await engine.dispose()


async def test_an_error_takes_everything_back(db: Database) -> None:
    with pytest.raises(RuntimeError, match="half-way"):  # noqa: PT012 - the transaction is what is tested
        async with db.write() as session:
            await session.execute(insert(Conversation).values(key="x", created_at=NOW))
            raise RuntimeError("half-way")
    async with db.read() as session:
        assert await session.scalar(select(func.count(Conversation.id))) == 0


async def test_readers_do_not_wait_for_the_writer_and_see_only_what_is_committed(db: Database) -> None:
    async with db.write() as writer:
        await writer.execute(insert(Conversation).values(key="x", created_at=NOW))
        async with asyncio.timeout(5), db.read() as reader:
            assert await reader.scalar(select(func.count(Conversation.id))) == 0
    async with db.read() as reader:
        assert await reader.scalar(select(func.count(Conversation.id))) == 1


async def test_what_a_reader_writes_is_not_kept(db: Database) -> None:
    try:
        async with db.read() as session:
            await session.execute(insert(Conversation).values(key="x", created_at=NOW))
    except StorageError:
        assert db.dialect == "sqlite"  # refused at once; on PostgreSQL it is rolled back
    async with db.read() as session:
        assert await session.scalar(select(func.count(Conversation.id))) == 0


async def write_pair(db: Database, number: int) -> None:
    async with db.write() as session:
        for half in ("first", "second"):
            values = {"kind": half, "key": str(number), "text": "", "created_at": NOW}
            await session.execute(insert(Alert).values(**values))
            await asyncio.sleep(0)


async def cancel(task: asyncio.Task[None], times: int) -> None:
    """Cancels a task, and again while it clears up."""
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    await asyncio.wait({task})


@pytest.mark.parametrize("seed", range(3))
async def test_writers_cancelled_at_any_moment_leave_nothing_behind(db: Database, seed: int) -> None:
    chance = random.Random(seed)
    for number in range(40):
        task = asyncio.create_task(write_pair(db, number), name=f"pair {number}")
        await asyncio.sleep(chance.uniform(0, 0.006))
        await cancel(task, chance.randint(1, 12))
        assert task.cancelled() or task.exception() is None
    async with asyncio.timeout(10):
        await write_pair(db, 1000)
    async with db.read() as session:
        rows = select(Alert.kind).where(Alert.kind == "first"), select(Alert.kind).where(Alert.kind == "second")
        first, second = [len((await session.scalars(query)).all()) for query in rows]
    assert first == second >= 1
    assert in_use(db) == 0


def in_use(db: Database) -> int:
    """Connections that nobody gave back."""
    return sum(engine.pool.checkedout() for engine in {db._reader, db._writer})


async def test_cancelled_readers_give_their_connections_back(db: Database) -> None:
    chance = random.Random(5)

    async def read() -> None:
        async with db.read() as session:
            for _ in range(3):
                await session.execute(select(Alert.kind))

    for number in range(40):
        task = asyncio.create_task(read(), name=f"reader {number}")
        await asyncio.sleep(chance.uniform(0, 0.004))
        await cancel(task, chance.randint(1, 12))
    async with asyncio.timeout(10):
        await db.ping()
    assert in_use(db) == 0


async def test_a_commit_that_has_begun_is_finished(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cancellation comes after it, and what was committed stays."""
    began = asyncio.Event()
    commit = AsyncSession.commit

    async def slow_commit(session: AsyncSession) -> None:
        began.set()
        await asyncio.sleep(0.05)
        await commit(session)

    monkeypatch.setattr(AsyncSession, "commit", slow_commit)
    task = asyncio.create_task(write_pair(db, 1), name="pair")
    await began.wait()
    await cancel(task, 3)
    assert task.cancelled()
    async with db.read() as session:
        assert await session.scalar(select(func.count(Alert.id))) == 2


async def test_a_crowd_of_cancelled_writers_does_not_block_the_next(db: Database) -> None:
    chance = random.Random(7)
    tasks = [asyncio.create_task(write_pair(db, number), name=f"pair {number}") for number in range(60)]
    for task in chance.sample(tasks, 40):
        await asyncio.sleep(chance.uniform(0, 0.003))
        task.cancel()
    await asyncio.wait(tasks)
    completed = sum(not task.cancelled() and task.exception() is None for task in tasks)
    async with asyncio.timeout(10), db.write() as session:
        pairs = await session.scalar(select(func.count(Alert.id)))
    assert pairs % 2 == 0
    assert pairs >= 2 * completed

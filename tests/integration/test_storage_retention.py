"""What is old or to be forgotten goes for good, what is unfinished stays, and who writes meanwhile hardly waits."""

import asyncio
import os
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import event, func, select, text
from sqlalchemy.exc import IntegrityError
from typer.testing import CliRunner

from bot import housekeeping
from bot.cli import app
from bot.housekeeping import FORGOTTEN, Housekeeping, delete_snapshots, finish_forgetting, forget_snapshots
from inference.kvstore import KvStore
from storage import inbox, migrations, models, outbox, retention, vacuum
from storage.acceptance import Acceptance
from storage.conversations import close_conversation
from storage.database import Database
from storage.errors import ClaimLost, DatabaseUnavailable, Forgotten, UnknownName
from storage.inbox import Claim, Draft, Incoming, Reply
from storage.models import Conversation, Inbox, Message, Outbox, Usage
from storage.outbox import NewDelivery

NOW = datetime(2026, 6, 1, tzinfo=UTC)
OLD = NOW - timedelta(days=100)
BEFORE = NOW - timedelta(days=90)
LEASE = timedelta(seconds=15)
MARK = "zebra-crossing-"  # is in everything that is to be forgotten


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "PAUSE", 0.0)
    monkeypatch.setattr(vacuum, "PAUSE", 0.0)


def incoming(name: str, key: str, said: str = "a question") -> Incoming:
    return Incoming("telegram", name, key, said)


def reply(at: datetime, said: str = "an answer") -> Reply:
    return Reply(said, f"{said} thought over", "m", "stop", 1, 0, 1, at, at)


async def ask(db: Database, key: str, at: datetime, said: str = "a question") -> int:
    async with db.write() as session:
        (row,) = await inbox.accept(session, [incoming(f"{key}-{time.monotonic_ns()}", key, said)], at)
    return row.id


async def claim(db: Database, at: datetime) -> Claim:
    async with db.write() as session:
        (claimed,) = await inbox.claim(session, "a", at, LEASE, channels=["telegram"])
    return claimed


async def turn(db: Database, key: str, at: datetime, *states: str, said: str = "a question") -> int:
    """A message and its answer, with one delivery for each state."""
    accepted = await ask(db, key, at, said)
    claimed = await claim(db, at)
    deliveries = [NewDelivery("telegram", key, key, said) for _ in states]
    async with db.write() as session:
        await inbox.finish(session, claimed, reply(at, said), deliveries, at)
        sent = (await session.scalars(select(Outbox).where(Outbox.inbox_id == accepted).order_by(Outbox.id))).all()
        for row, state in zip(sent, states, strict=True):
            row.state = state
    return accepted


async def close(db: Database, key: str) -> None:
    async with db.write() as session:
        assert await close_conversation(session, key, OLD)


async def all_of(db: Database, column: object) -> list[object]:
    async with db.read() as session:
        return sorted(await session.scalars(select(column)))


async def counts(db: Database) -> dict[str, int]:
    tables = (Conversation, Inbox, models.Draft, Message, Outbox, Usage)
    async with db.read() as session:
        return {one.__tablename__: await session.scalar(select(func.count()).select_from(one)) for one in tables}


async def test_what_is_older_goes_and_the_ledger_stays(db: Database) -> None:
    await turn(db, "telegram:1", OLD, "sent", "dead", "uncertain")
    await turn(db, "telegram:2", NOW, "sent")
    assert await retention.expire(db, BEFORE) == retention.Deleted(1, 2, 1)
    assert await counts(db) == {
        "conversations": 1, "inbox": 1, "drafts": 0, "messages": 2, "outbox": 1, "usage": 2,
    }  # fmt: skip
    assert await all_of(db, Conversation.key) == ["telegram:2"]
    async with db.read() as session:
        linked = await session.scalars(select(Usage.conversation_id).order_by(Usage.id))
        assert [one is None for one in linked] == [True, False]
    assert not await retention.expire(db, BEFORE)


async def test_nothing_goes_at_the_very_age(db: Database) -> None:
    await turn(db, "telegram:1", BEFORE, "sent")
    assert not await retention.expire(db, BEFORE)
    assert await retention.expire(db, BEFORE + timedelta(microseconds=1))


@pytest.mark.parametrize("state", ["planned", "sending"])
async def test_what_is_still_to_be_sent_stays_with_its_message(db: Database, state: str) -> None:
    kept = await turn(db, "telegram:1", OLD, "sent", state)
    await retention.expire(db, BEFORE)
    assert await all_of(db, Inbox.id) == [kept]
    assert await all_of(db, Outbox.state) == sorted(["sent", state])
    assert await all_of(db, Conversation.key) == ["telegram:1"]


@pytest.mark.parametrize("claimed", [False, True])
async def test_what_waits_for_its_answer_stays_and_gets_one(db: Database, claimed: bool) -> None:
    await turn(db, "telegram:1", OLD, "sent")
    waiting = await ask(db, "telegram:1", OLD)
    held = await claim(db, NOW) if claimed else None
    await retention.expire(db, BEFORE)
    assert await all_of(db, Inbox.id) == [waiting]
    held = held or await claim(db, NOW)
    async with db.write() as session:
        await inbox.finish(session, held, reply(NOW), [], NOW)
    assert await all_of(db, Message.role) == ["assistant", "user"]


async def test_a_dead_letter_goes_once_it_is_old(db: Database) -> None:
    await ask(db, "telegram:1", OLD)
    held = await claim(db, NOW)
    async with db.write() as session:
        await inbox.fail(session, held, "a reason", [], NOW)
    assert not await retention.expire(db, BEFORE)  # given up a moment ago
    await retention.expire(db, NOW + timedelta(seconds=1))
    assert (await counts(db))["inbox"] == (await counts(db))["conversations"] == 0


async def test_of_a_conversation_that_goes_on_only_the_old_part_goes(db: Database) -> None:
    await turn(db, "telegram:1", OLD)
    new = await turn(db, "telegram:1", NOW)
    assert await retention.expire(db, BEFORE) == retention.Deleted(0, 2, 1)
    assert await all_of(db, Inbox.id) == [new]
    async with db.read() as session:
        asked, answer = (await session.scalars(select(Message).order_by(Message.id))).all()
    assert (asked.role, asked.parent_id, answer.parent_id) == ("user", None, asked.id)


async def test_closed_and_unused_conversations_go_when_nothing_is_in_them(db: Database) -> None:
    for key in ("telegram:1", "telegram:2", "telegram:3"):
        await turn(db, key, OLD)
    await close(db, "telegram:1")
    await close(db, "telegram:3")
    await turn(db, "telegram:3", NOW)
    await retention.expire(db, BEFORE)
    assert await all_of(db, Conversation.key) == ["telegram:3"]
    assert await all_of(db, Conversation.closed_at) == [None]


async def test_deliveries_that_belong_to_no_message_go_too(db: Database) -> None:
    async with db.write() as session:
        for state in ("sent", "dead", "uncertain", "planned", "sending"):
            await outbox.add(session, [NewDelivery("telegram", "1", "1", state)], OLD)
        await outbox.add(session, [NewDelivery("telegram", "1", "1", "new")], NOW)
        for row in await session.scalars(select(Outbox)):
            row.state = row.payload if row.payload != "new" else "sent"
    await retention.expire(db, BEFORE)
    assert await all_of(db, Outbox.payload) == ["new", "planned", "sending"]


async def fill(db: Database, rooms: int, each: int, at: datetime, said: str = "a question " * 20) -> None:
    """Many turns as the service leaves them, made quickly. The conversations' messages lie between each other's."""
    chance = random.Random(5)
    async with db.write() as session:
        conversations = [Conversation(key=f"webhook:fill:{n}", created_at=at) for n in range(rooms)]
        session.add_all(conversations)
        await session.flush()
        for number in range(rooms * each):
            room = chance.choice(conversations)
            words = said * chance.randint(1, 8)
            message = Message(conversation_id=room.id, role="assistant", content=words, created_at=at)
            session.add(message)
            if number % 500 == 499:
                await session.flush()
        await session.flush()
        ids = (await session.execute(select(Message.id, Message.conversation_id))).all()
        rows = [Inbox(public_id=f"msg_fill{number}", source="webhook:fill", external_id=str(number),
                      conversation_id=room, text=said, meta="", state="done", reply_id=number, created_at=at,
                      done_at=at, fence=1, attempts=0) for number, room in ids]  # fmt: skip
        session.add_all(rows)
        await session.flush()
        session.add_all(
            Outbox(public_id=f"dlv_fill{row.id}", inbox_id=row.id, channel="callback", destination="fill", lane="fill",
                   payload=said, state="sent", attempts=1, failures=0, next_at=at, created_at=at) for row in rows
        )  # fmt: skip


async def test_no_transaction_changes_more_than_a_batch(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 20)
    await fill(db, 30, 10, OLD)
    changed: list[int] = []

    def note(*seen: Any) -> None:
        cursor, statement = seen[1:3]
        if statement.startswith(("DELETE", "UPDATE")):
            changed[-1] += cursor.rowcount

    engine = db._writer.sync_engine
    event.listen(engine, "begin", lambda _connection: changed.append(0))
    event.listen(engine, "after_cursor_execute", note)
    await retention.expire(db, BEFORE)
    assert (await counts(db))["messages"] == (await counts(db))["conversations"] == 0
    assert sum(changed) == 300 + 300 + 30
    assert max(changed) == 20


async def test_messages_are_accepted_while_old_ones_go(db: Database) -> None:
    await fill(db, 50, 60, OLD)
    acceptance, waits, sweeping = Acceptance(db), list[float](), asyncio.create_task(retention.expire(db, BEFORE))
    while not sweeping.done():
        began = time.perf_counter()
        await acceptance.accept(incoming(str(len(waits)), f"telegram:{len(waits) % 7}"), NOW)
        waits.append(time.perf_counter() - began)
        await asyncio.sleep(0.002)
    deleted = await sweeping
    assert (deleted.conversations, deleted.accepted) == (50, 3000)
    assert (await counts(db))["inbox"] == len(waits) > 20
    assert sorted(waits)[len(waits) // 2] < 0.1
    assert max(waits) < 1.0


async def test_a_conversation_into_which_something_comes_just_then_stays(postgres_db: Database) -> None:
    async with postgres_db.write() as session:
        session.add(Conversation(key="telegram:1", created_at=OLD))
    async with postgres_db.write() as session:
        await inbox.accept(session, [incoming("1", "telegram:1")], NOW)
        sweeping = asyncio.create_task(retention.expire(postgres_db, BEFORE))
        await asyncio.sleep(0.2)
    await sweeping
    left = await counts(postgres_db)
    assert (left["conversations"], left["inbox"]) == (1, 1)


async def plans(db: Database) -> list[str]:
    """How the sweep's own statements find their rows, in a table of some size."""
    seen: list[tuple[str, object]] = []
    event.listen(
        db._reader.sync_engine, "before_cursor_execute",
        lambda _c, _cursor, statement, values, *_rest: seen.append((statement, values)),
    )  # fmt: skip
    await retention.expire(db, OLD - timedelta(days=1))
    found = [one for one in seen if one[0].startswith("SELECT") and "created_at <" in one[0]]
    explain = "EXPLAIN QUERY PLAN " if db.dialect == "sqlite" else "EXPLAIN "
    plans = []
    async with db.read() as session:
        connection = await session.connection()
        for statement, values in found:
            rows = await connection.exec_driver_sql(explain + statement, values)
            plans.append("\n".join(str(row[-1]) for row in rows))
    return plans


async def test_old_rows_are_found_by_indexes(db: Database) -> None:
    await fill(db, 50, 80, NOW)
    async with db.write() as session:
        await session.execute(text("ANALYZE"))
    found = await plans(db)
    assert len(found) == 4
    accepted, alone, messages, _ = found
    assert "ix_inbox_created_at" in accepted
    assert "ix_outbox_alone" in alone or "ix_outbox_inbox_id" in alone
    assert "ix_messages_created_at" in messages


@pytest.mark.parametrize(
    ("key", "gone"),
    [
        ("telegram:1", {"telegram:1"}),
        ("webhook:demo:a", {"webhook:demo:a"}),
        ("webhook:demo:", {"webhook:demo:a", "webhook:demo:b"}),
    ],
)
async def test_forget_takes_one_or_all_that_begin_so(db: Database, key: str, gone: set[str]) -> None:
    everything = {"telegram:1", "telegram:11", "webhook:demo:a", "webhook:demo:b", "webhook:demo2:a", "webhook:Demo:a",
                  "webhook:demo_:a"}  # fmt: skip
    for one in everything:
        await turn(db, one, OLD, "sent")
        await close(db, one)
        await turn(db, one, NOW, "planned")
    async with db.read() as session:
        found = await retention.match(session, key)
    assert (set(found.keys), found.conversations, found.messages) == (gone, 2 * len(gone), 4 * len(gone))
    assert await retention.forget(db, key, NOW) == retention.Deleted(2 * len(gone), 4 * len(gone), 2 * len(gone))
    assert set(await all_of(db, Conversation.key)) == everything - gone
    left = len(everything - gone)
    assert await counts(db) == {
        "conversations": 2 * left, "inbox": 2 * left, "drafts": 0, "messages": 4 * left, "outbox": 2 * left,
        "usage": 2 * len(everything),
    }  # fmt: skip
    async with db.read() as session:
        assert await session.scalar(select(func.count(Usage.conversation_id))) == 2 * left


@pytest.mark.parametrize("key", ["webhook:demo", "webhook:", "telegram:", "telegram:12", "%", ""])
async def test_what_is_not_there_is_named(db: Database, key: str) -> None:
    await turn(db, "webhooks:demo:a", OLD)
    async with db.read() as session:
        with pytest.raises(UnknownName, match="no conversation"):
            await retention.match(session, key)
    assert not await retention.forget(db, key, NOW)
    assert (await counts(db))["messages"] == 2


async def test_an_answer_in_flight_does_not_bring_it_back(db: Database) -> None:
    await turn(db, "telegram:1", OLD)
    await ask(db, "telegram:1", NOW)
    await ask(db, "telegram:1", NOW)
    held = await claim(db, NOW)
    draft = Draft("m", (1, 2), "half", "")
    async with db.write() as session:
        await inbox.checkpoint(session, held, draft)
    assert await retention.forget(db, "telegram:1", NOW) == retention.Deleted(1, 2, 3)
    with pytest.raises((ClaimLost, IntegrityError)):
        async with db.write() as session:
            await inbox.finish(session, held, reply(NOW), [NewDelivery("telegram", "1", "1", "{}")], NOW)
    for end in (
        partial(inbox.fail, reason="x", deliveries=[], now=NOW),
        partial(inbox.retry, not_before=NOW, error="x"),
    ):
        with pytest.raises(ClaimLost):
            async with db.write() as session:
                await end(session, held)
    async with db.read() as session:
        with pytest.raises(Forgotten):
            await inbox.status(session, held.id)
    async with db.write() as session:
        await inbox.checkpoint(session, held, draft)
        await inbox.release(session, held)
    assert await counts(db) == {
        "conversations": 0, "inbox": 0, "drafts": 0, "messages": 0, "outbox": 0, "usage": 1,
    }  # fmt: skip


async def test_what_is_said_while_it_is_forgotten_begins_anew(db: Database) -> None:
    for _ in range(60):
        await turn(db, "telegram:1", OLD)
    forgetting = asyncio.create_task(retention.forget(db, "telegram:1", NOW))
    said = 0
    while not forgetting.done():
        await ask(db, "telegram:1", NOW)
        said += 1
        await asyncio.sleep(0.001)
    assert (await forgetting).messages == 120
    later = await ask(db, "telegram:1", NOW)
    left = await counts(db)
    assert left["messages"] == 0
    assert left["conversations"] == 1
    assert 1 < left["inbox"] <= said + 1
    assert later in await all_of(db, Inbox.id)
    assert (await claim(db, NOW)).conversation_key == "telegram:1"


def remnants(file: Path) -> int:
    return sum(one.read_bytes().count(MARK.encode()) for one in file.parent.glob(f"{file.name}*"))


async def marked(db: Database) -> None:
    """A conversation among others whose rows lie in the same pages, with answers that were drafted before."""
    chance = random.Random(3)
    for number in range(120):
        if number % 3:
            await turn(db, f"telegram:{number % 40}", OLD, "sent", said="other words " * chance.randint(1, 200))
            continue
        said = MARK * chance.randint(1, 200)
        await ask(db, "webhook:demo:a", OLD, said)
        held = await claim(db, OLD)
        for part in (10, 50, 200):
            async with db.write() as session:
                await inbox.checkpoint(session, held, Draft("m", (1,) * part, MARK * part, ""))
        async with db.write() as session:
            await inbox.finish(session, held, reply(OLD, said), [NewDelivery("telegram", "a", "a", said)], OLD)


async def test_the_bytes_are_gone_from_the_files(sqlite_db: Database) -> None:
    await marked(sqlite_db)
    assert remnants(sqlite_db.file) > 1000
    before = await counts(sqlite_db)
    await retention.forget(sqlite_db, "webhook:demo:", NOW)
    assert remnants(sqlite_db.file) == 0
    assert (await counts(sqlite_db))["messages"] == before["messages"] - 2 * 40
    async with sqlite_db.read() as session:
        assert await session.scalar(text("PRAGMA integrity_check")) == "ok"


async def test_what_moving_rows_left_behind_is_gone_too(sqlite_db: Database) -> None:
    """A row that grows moves its neighbours to other pages; SQLite deletes them there, and not where they were."""
    chance = random.Random(0)
    await turn(sqlite_db, "telegram:1", OLD)
    await turn(sqlite_db, "webhook:demo:a", OLD)
    row = """INSERT INTO messages (conversation_id, role, content, created_at)
             SELECT id, 'user', :said, created_at FROM conversations WHERE key = :key"""
    async with sqlite_db.write() as session:
        for _ in range(3000):
            key, word = ("telegram:1", "other-word-----") if chance.randrange(3) else ("webhook:demo:a", MARK)
            await session.execute(text(row), {"key": key, "said": word * chance.randint(1, 10)})
    async with sqlite_db.write() as session:
        for number in chance.sample(range(1, 3000), 600):
            values = {"id": number, "more": "x" * 1500}
            await session.execute(text("UPDATE messages SET reasoning = :more WHERE id = :id"), values)
    await retention.forget(sqlite_db, "webhook:demo:a", NOW)
    assert remnants(sqlite_db.file) == 0


async def test_they_are_gone_while_a_service_has_the_file_open(sqlite_db: Database) -> None:
    await marked(sqlite_db)
    async with Database(f"sqlite+aiosqlite:///{sqlite_db.file}") as other, sqlite_db.read() as reading:
        assert await reading.scalar(select(func.count(Message.id)))
        forgetting = asyncio.create_task(retention.forget(other, "webhook:demo:", NOW))
        await asyncio.sleep(0.3)
        await reading.commit()  # until now it saw what was there before
        await forgetting
        assert remnants(sqlite_db.file) == 0
        await turn(sqlite_db, "telegram:1", NOW)
    assert (await counts(sqlite_db))["messages"]


async def test_what_is_deleted_is_overwritten(sqlite_db: Database) -> None:
    """Also in a service that runs, where a draft goes with every answer; not every library does so by itself."""
    async with sqlite_db.write() as session:
        connection = await session.connection()
        assert (await connection.exec_driver_sql("PRAGMA secure_delete")).scalar_one() == 1


async def test_the_file_shrinks_while_others_write(sqlite_db: Database) -> None:
    await fill(sqlite_db, 20, 150, OLD)
    await vacuum.truncate_log(sqlite_db)
    full = sqlite_db.file.stat().st_size
    await retention.expire(sqlite_db, BEFORE)
    reclaiming = asyncio.create_task(vacuum.reclaim(sqlite_db))
    accepted = 0
    while not reclaiming.done():
        await ask(sqlite_db, "telegram:1", NOW)
        accepted += 1
    assert await reclaiming > 100
    assert accepted > 3
    assert await vacuum.truncate_log(sqlite_db)
    assert sqlite_db.file.stat().st_size < full / 4
    assert sqlite_db.file.with_name("dswbot.db-wal").stat().st_size == 0


async def test_the_log_is_not_waited_for(sqlite_db: Database) -> None:
    await turn(sqlite_db, "telegram:1", NOW)
    async with sqlite_db.read() as reading:
        await reading.scalar(select(func.count(Message.id)))
        await turn(sqlite_db, "telegram:1", NOW)
        began = time.monotonic()
        assert not await vacuum.truncate_log(sqlite_db)
        assert time.monotonic() - began < 2
    assert await vacuum.truncate_log(sqlite_db)


async def test_postgres_needs_none_of_it(postgres_db: Database) -> None:
    assert await vacuum.reclaim(postgres_db) == 0
    assert await vacuum.truncate_log(postgres_db)
    await vacuum.optimize(postgres_db)
    await vacuum.rewrite(postgres_db)


# the loop


def house(db: Database, folder: Path, keep: float | None = 90 * 86400.0) -> Housekeeping:
    return Housekeeping(db, keep=keep, snapshots=folder)


def snapshot(folder: Path, name: str, age: timedelta = timedelta(0)) -> Path:
    file = folder / "f" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"tokens")
    at = time.time() - age.total_seconds()
    os.utime(file, (at, at))
    return file


async def eventually(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not done():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("keep", [90 * 86400.0, None])
async def test_housekeeping_deletes_what_is_older_than_it_is_told(
    db: Database, tmp_path: Path, keep: float | None
) -> None:
    real = datetime.now(UTC)
    await turn(db, "telegram:1", real - timedelta(days=91), "sent")
    await turn(db, "telegram:2", real - timedelta(days=89), "sent")
    old, new = snapshot(tmp_path, "old.kv", timedelta(days=91)), snapshot(tmp_path, "new.kv", timedelta(days=89))
    await house(db, tmp_path, keep).tidy()
    assert (await counts(db))["conversations"] == (2 if keep is None else 1)
    assert old.exists() == (keep is None)
    assert new.exists()


async def test_housekeeping_goes_on_after_a_database_that_was_away_and_ends_at_once(
    sqlite_db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "LOOK_EVERY", 0.01)
    keeping, tidied = house(sqlite_db, tmp_path), list[float]()

    async def tidy() -> None:
        tidied.append(time.monotonic())
        if len(tidied) < 3:
            raise DatabaseUnavailable

    monkeypatch.setattr(keeping, "tidy", tidy)
    task = asyncio.create_task(keeping.run())
    await eventually(lambda: len(tidied) == 3)
    await asyncio.sleep(0.1)
    assert len(tidied) == 3  # the next is due in an hour
    task.cancel()
    began = time.monotonic()
    await asyncio.wait({task})
    assert task.cancelled()
    assert time.monotonic() - began < 0.2


async def test_a_sweep_that_is_cancelled_leaves_the_database_at_work(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(db, 20, 50, OLD)
    monkeypatch.setattr(housekeeping, "LOOK_EVERY", 0.0)
    task = asyncio.create_task(house(db, tmp_path).run())
    while (await counts(db))["inbox"] > 900:
        await asyncio.sleep(0.005)
    task.cancel()
    began = time.monotonic()
    await asyncio.wait({task})
    assert task.cancelled()
    assert time.monotonic() - began < 1
    assert 0 < (await counts(db))["inbox"] <= 900
    await turn(db, "telegram:1", NOW)


# snapshots


def test_a_store_does_without_files_that_vanish(tmp_path: Path) -> None:
    tokens = np.arange(100, dtype=np.int32)
    state = np.arange(4096, dtype=np.uint8)
    store = KvStore(tmp_path, "f", host_bytes=0, disk_bytes=1 << 30)
    try:
        store.put(tokens, state)
        assert store.flush(5)
        found = store.find(tokens)
        assert found.tier == "disk"
        assert delete_snapshots(tmp_path, time.time() + 1) == 1
        assert store.load(found) is None
        assert not store.holds(tokens)
        assert store.disk_used == 0
        store.put(tokens, state)
        assert store.flush(5)
        assert store.load(store.find(tokens)) is not None
    finally:
        store.close()


def test_forgetting_takes_all_snapshots_and_what_comes_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, begun = snapshot(tmp_path, "a.kv"), snapshot(tmp_path, "b.tmp")
    assert forget_snapshots(tmp_path) == 2
    assert not whole.exists()
    assert not begun.exists()
    late = snapshot(tmp_path, "c.kv")
    finish_forgetting(tmp_path)
    assert not late.exists()
    assert (tmp_path / FORGOTTEN).exists()
    monkeypatch.setattr(housekeeping, "SETTLED", 0.0)
    finish_forgetting(tmp_path)
    assert not (tmp_path / FORGOTTEN).exists()
    kept = snapshot(tmp_path, "d.kv")
    finish_forgetting(tmp_path)
    assert kept.exists()


def test_without_snapshots_there_is_nothing_to_forget(tmp_path: Path) -> None:
    assert forget_snapshots(tmp_path / "kv") == 0
    finish_forgetting(tmp_path / "kv")
    assert not (tmp_path / "kv").exists()


# the command


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory with a conversation."""

    async def prepare() -> None:
        async with Database(f"sqlite+aiosqlite:///{tmp_path / 'dswbot.db'}") as db:
            await migrations.upgrade(db)
            await turn(db, "telegram:1", OLD, "sent", said=MARK)
            await turn(db, "telegram:12", OLD, "sent")

    asyncio.run(prepare())
    monkeypatch.setenv("DSWBOT_DATA_DIR", str(tmp_path))
    return tmp_path


def test_the_command_asks_first(data: Path) -> None:
    file = snapshot(data / "kv", "a.kv")
    refused = CliRunner().invoke(app, ["db", "forget", "telegram:1"], input="n\n")
    assert refused.exit_code == 1
    assert "1 conversations" in refused.output
    assert "2 messages" in refused.output
    assert remnants(data / "dswbot.db")
    assert file.exists()
    done = CliRunner().invoke(app, ["db", "forget", "telegram:1"], input="y\n")
    assert done.exit_code == 0
    assert "1 KV snapshots" in done.output
    assert remnants(data / "dswbot.db") == 0
    assert not file.exists()


def test_the_command_takes_yes_for_an_answer(data: Path) -> None:
    assert CliRunner().invoke(app, ["db", "forget", "telegram:1", "--yes"]).exit_code == 0
    again = CliRunner().invoke(app, ["db", "forget", "telegram:1", "--yes"])
    assert again.exit_code == 1
    assert "no conversation" in str(again.exception)
    assert CliRunner().invoke(app, ["db", "forget", "telegram:12", "--yes"]).exit_code == 0

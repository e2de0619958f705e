"""How the database finds what a turn needs: by indexes that hold no more than what is looked for."""

import re
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, text

from bench import big
from bot.clock import now
from storage import conversations, inbox, models, outbox
from storage.database import Database
from storage.inbox import Draft, Incoming, Reply
from storage.outbox import NewDelivery

LEASE = timedelta(seconds=15)
QUEUES = {"ix_inbox_queue", "ix_outbox_due", "ix_outbox_sending", "uq_inbox_one_in_flight"}  # heads or less: few rows


async def a_turn(db: Database) -> None:
    """Every statement of a message's way through the service."""
    key = big.key(7)
    incoming = Incoming("webhook:bench", models.public_id("key"), key, "x")
    async with db.write() as session:
        await inbox.accept(session, [incoming], now())
    async with db.read() as session:
        found = await conversations.open_conversations(session, [key], now())
        await conversations.history(session, found[key])
    async with db.write() as session:
        *_, claim = await inbox.claim(session, "me", now(), LEASE, channels=["webhook"], limit=16)
    async with db.write() as session:
        await inbox.renew(session, [claim], now(), LEASE)
        await inbox.checkpoint(session, claim, Draft("m", (1,), "x", ""))
    async with db.write() as session:
        reply = Reply("x", None, "m", "stop", 1, 0, 1, now(), now())
        await inbox.finish(session, claim, reply, [NewDelivery("callback", "bench", key, "x")], now())
    async with db.read() as session:
        await inbox.status(session, claim.id)
    async with db.write() as session:
        await outbox.abandoned(session, "me", now(), channels=["callback"])
        *_, due = await outbox.claim_due(session, "me", now(), LEASE, channels=["callback"], limit=8)
    async with db.write() as session:
        await outbox.mark_sent(session, due, None, now())


async def explained(db: Database) -> dict[str, list[str]]:
    """The plan of each statement that asks for rows."""
    seen: dict[str, Any] = {}

    def note(_connection: Any, _cursor: Any, statement: str, values: Any, *_rest: Any) -> None:
        if re.match(r"(SELECT|UPDATE|DELETE|INSERT .* SELECT)\b", statement, re.DOTALL):
            seen.setdefault(statement, values[0] if isinstance(values, list) else values)  # of many rows, the first

    engines = {db._reader.sync_engine, db._writer.sync_engine}
    for engine in engines:
        event.listen(engine, "before_cursor_execute", note)
    await a_turn(db)
    for engine in engines:
        event.remove(engine, "before_cursor_execute", note)
    plans = {}
    async with db.read() as session:
        connection = await session.connection()
        if db.dialect == "postgresql":  # conversations are few enough to be read whole: what if they were not?
            await connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        for statement, values in seen.items():
            explain = "EXPLAIN " if db.dialect == "postgresql" else "EXPLAIN QUERY PLAN "
            rows = await connection.exec_driver_sql(explain + statement, values)
            plans[statement] = [str(row[-1]).strip() for row in rows]
    return plans


@pytest.fixture
async def filled(db: Database) -> Database:
    await big.fill(db, 20_000)
    return db


async def test_every_statement_of_a_turn_is_served_by_an_index(filled: Database) -> None:
    plans = await explained(filled)
    assert len(plans) > 15
    for statement, plan in plans.items():
        for line in plan:
            assert "Seq Scan" not in line, (statement, plan)
            if scan := re.match(r"SCAN (?!CONSTANT)(\w+)(?: USING (?:COVERING )?INDEX (\w+))?", line):
                assert scan.group(2) in QUEUES, (statement, plan)


@pytest.mark.parametrize(("table", "index"), [("inbox", "ix_inbox_queue"), ("outbox", "ix_outbox_due")])
async def test_work_is_claimed_by_the_index_of_heads(filled: Database, table: str, index: str) -> None:
    """However many wait behind one."""
    async with filled.write() as session:
        await inbox.accept(session, [big.incoming(1) for _ in range(2000)], now())
        await outbox.add(session, [big.delivery("one")] * 2000, now())
    async with filled.connection() as connection:
        await connection.execute(text("ANALYZE"))
    plans = await explained(filled)
    claims = [plan for statement, plan in plans.items() if re.search(rf"FROM {table}\s+WHERE {table}\.head", statement)]
    assert len(claims) == 1
    assert any(index in line for line in claims[0])

"""What the tables say, read from outside the service."""

import asyncio
import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import asyncpg
from sqlalchemy import make_url

from bench.torture.history import History, InboxRow, MessageRow, OutboxRow

Row = tuple[Any, ...]
AWAY = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)  # a server that is broken just now

INBOX = (
    "SELECT id, public_id, source, external_id, conversation_id, text, state, fence, error, placeholder, reply_id "
    "FROM inbox ORDER BY id"
)
MESSAGES = "SELECT id, conversation_id, parent_id, role, content, created_at FROM messages ORDER BY id"
OUTBOX = (
    "SELECT id, public_id, inbox_id, channel, lane, state, error, external_ref, created_at, payload "
    "FROM outbox ORDER BY id"
)
UNFINISHED = (
    "SELECT (SELECT count(*) FROM inbox WHERE state IN ('queued', 'claimed')), "
    "(SELECT count(*) FROM outbox WHERE state IN ('planned', 'sending'))"
)
# Each gives rows only where something is wrong, whatever moment it is asked at.
ALWAYS_EMPTY = {
    "two messages of a conversation in flight": "SELECT conversation_id FROM inbox WHERE state = 'claimed' "
    "GROUP BY conversation_id HAVING count(*) > 1",
    "a reply to two messages": "SELECT reply_id FROM inbox WHERE reply_id IS NOT NULL "
    "GROUP BY reply_id HAVING count(*) > 1",
    "a message done without a reply": "SELECT public_id FROM inbox WHERE state = 'done' AND reply_id IS NULL "
    "AND text NOT LIKE '/%'",
    "a message with a reply that is not done": "SELECT public_id FROM inbox WHERE state <> 'done' "
    "AND reply_id IS NOT NULL",
    "a finished message with a draft": "SELECT public_id FROM inbox JOIN drafts ON inbox_id = id "
    "WHERE state IN ('done', 'failed')",
    "two answers to one question": "SELECT parent_id FROM messages WHERE role = 'assistant' "
    "GROUP BY parent_id HAVING count(*) > 1",
    "an answer to nothing": "SELECT id FROM messages WHERE role = 'assistant' AND parent_id IS NULL",
    "questions without answers": "SELECT count(*) FROM messages "
    "HAVING sum(CASE role WHEN 'user' THEN 1 ELSE -1 END) <> 0",
    "answers that nobody has accepted a message for": "SELECT count(*) FROM messages WHERE role = 'assistant' "
    "HAVING count(*) <> (SELECT count(*) FROM inbox WHERE reply_id IS NOT NULL)",
    "usage that is no answer's": "SELECT count(*) FROM usage "
    "HAVING count(*) <> (SELECT count(*) FROM messages WHERE role = 'assistant')",
}


async def rows(url: str, *queries: str) -> list[list[Row]]:
    """The results of queries that see one state of the database."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return await asyncio.to_thread(_sqlite_rows, parsed.database or "", queries)
    connection = await asyncpg.connect(parsed.set(drivername="postgresql").render_as_string(hide_password=False))
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            return [[tuple(row) for row in await connection.fetch(query)] for query in queries]
    finally:
        await connection.close()


def _sqlite_rows(file: str, queries: tuple[str, ...]) -> list[list[Row]]:
    with closing(sqlite3.connect(f"file:{file}?mode=rw", uri=True, timeout=10)) as db:
        db.execute("BEGIN")
        return [db.execute(query).fetchall() for query in queries]


async def callbacks_left(url: str) -> bool:
    """Whether there are callbacks to send, which the oldest schema knows nothing of."""
    ((found,),) = await rows(url, "SELECT count(*) FROM outbox WHERE channel = 'callback' AND state <> 'sent'")
    return bool(found[0])


async def unfinished(url: str) -> tuple[int, int]:
    """Messages without an end, and deliveries."""
    ((found,),) = await rows(url, UNFINISHED)
    return int(found[0]), int(found[1])


async def wrong(url: str) -> list[str]:
    """What no moment excuses."""
    found = await rows(url, *ALWAYS_EMPTY.values())
    return [f"{name}: {some[:5]}" for name, some in zip(ALWAYS_EMPTY, found, strict=True) if some]


async def damage(url: str) -> list[str]:
    """What SQLite itself finds wrong with its file."""
    if make_url(url).get_backend_name() != "sqlite":
        return []
    whole, strays = await rows(url, "PRAGMA integrity_check", "PRAGMA foreign_key_check")
    return [f"the database: {row}" for row in [*whole, *strays] if row != ("ok",)]


async def read(url: str, history: History) -> None:
    """Fills in the history's tables."""
    inbox, messages, outbox, drafts = await rows(url, INBOX, MESSAGES, OUTBOX, "SELECT count(*) FROM drafts")
    history.inbox = [InboxRow(*row) for row in inbox]
    history.messages = [MessageRow(*row[:-1], created_at=_seconds(row[-1])) for row in messages]
    history.outbox = [_outbox(row) for row in outbox]
    history.drafts = drafts[0][0]


def _outbox(row: Row) -> OutboxRow:
    *head, created_at, payload = row
    told = json.loads(payload) if head[3] == "telegram" else {}
    return OutboxRow(*head, created_at=_seconds(created_at), text=told.get("text", ""), edit=told.get("edit"))


def _seconds(at: str | datetime) -> float:
    moment = datetime.fromisoformat(at) if isinstance(at, str) else at
    return (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment).timestamp()

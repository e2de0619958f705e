"""What is old, or is to be forgotten, is deleted for good: little by little, so that who writes meanwhile hardly waits.

What waits for its answer, or for being sent, stays. The ledger of what answers took stays too, but not whose they were.
SQLite overwrites what is deleted; copies may be in its log and between its rows, which `forget` cleans out too.
On PostgreSQL the deleted rows are on the disk until autovacuum comes by.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from sqlalchemy import ColumnElement, CursorResult, Delete, Select, Update, delete, exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from storage import inbox, outbox, vacuum
from storage.database import Database
from storage.errors import UnknownName
from storage.models import Conversation, Inbox, Message, Outbox, Usage, among

BATCH = 50  # rows that a transaction changes
PAUSE = 0.02  # seconds between two of them
LOOKED_UP = 1000  # rows that are found at once: whoever reads keeps nobody waiting
TRIES = 25  # to empty SQLite's log of what was deleted, while others read

Aged = type[Inbox] | type[Outbox] | type[Message]
Rows = Aged | type[Usage] | type[Conversation]


@dataclass(frozen=True, slots=True)
class Deleted:
    """How much is gone: conversations, messages of both sides, and what was accepted, with what was sent for it."""

    conversations: int
    messages: int
    accepted: int

    def __bool__(self) -> bool:
        return bool(self.conversations or self.messages or self.accepted)


@dataclass(frozen=True, slots=True)
class Match:
    """What a key or a beginning of keys stands for: the conversations' keys, how many there are, what is in them."""

    keys: tuple[str, ...]
    conversations: int
    messages: int
    unanswered: int


async def expire(db: Database, before: datetime) -> Deleted:
    """Deletes what is older and has come to its end, and conversations that nothing is left of."""
    to_be_sent = exists().where(Outbox.inbox_id == Inbox.id, among(Outbox.state, *outbox.UNFINISHED))
    ended = Inbox.done_at < before, among(Inbox.state, "done", "failed")
    accepted = await _delete_old(db, Inbox, Inbox.created_at < before, *ended, ~to_be_sent)
    alone = Outbox.inbox_id.is_(None), Outbox.state.not_in(outbox.UNFINISHED)
    await _delete_old(db, Outbox, Outbox.created_at < before, *alone)
    messages = await _delete_old(db, Message, Message.created_at < before)
    return Deleted(await _expire_conversations(db, before), messages, accepted)


async def _expire_conversations(db: Database, before: datetime) -> int:
    """A conversation into which a message is being accepted is locked by that, and no longer empty afterwards."""
    empty = (
        ~exists().where(Message.conversation_id == Conversation.id),
        ~exists().where(Inbox.conversation_id == Conversation.id),
    )
    old = select(Conversation.id).where(Conversation.created_at < before).order_by(Conversation.id).limit(LOOKED_UP)
    deleted, last = 0, 0
    while some := await _ids(db, old.where(Conversation.id > last)):
        last = some[-1]
        unused = await _ids(db, select(Conversation.id).where(Conversation.id.in_(some), *empty))
        await _unlink(db, Usage.conversation_id.in_(unused))
        for batch in _batches(unused):
            async with db.write() as session:
                these = Conversation.id.in_(batch)
                await session.execute(select(Conversation.id).where(these).order_by(Conversation.id).with_for_update())
                deleted += await _change(session, delete(Conversation).where(these, *empty))
            await asyncio.sleep(PAUSE)
    return deleted


async def match(session: AsyncSession, key: str) -> Match:
    """What `forget` would delete. Raises UnknownName."""
    keys = (await session.scalars(select(Conversation.key).where(_named(key)).order_by(Conversation.key))).all()
    if not keys:
        raise UnknownName(
            f"There is no conversation {key!r}; a colon at the end names all that begin so, such as 'webhook:demo:'."
        )
    within = select(Conversation.id).where(_named(key))
    messages = select(func.count(Message.id)).where(Message.conversation_id.in_(within))
    waiting = select(func.count(Inbox.id)).where(
        Inbox.conversation_id.in_(within), among(Inbox.state, *inbox.UNFINISHED)
    )
    return Match(
        tuple(dict.fromkeys(keys)), len(keys), await session.scalar(messages) or 0, await session.scalar(waiting) or 0
    )


async def forget(db: Database, key: str, now: datetime) -> Deleted:
    """Deletes the conversations of a key, or of all keys that begin with it where it ends with a colon.

    They are closed first, so that what comes meanwhile begins another. An answer that is being written finds its
    claim gone. Where this is interrupted, doing it again goes on with the rest.
    """
    async with db.write() as session:
        still_open = _named(key), Conversation.closed_at.is_(None)  # and locked: nothing is being accepted into them
        await session.execute(select(Conversation.id).where(*still_open).order_by(Conversation.id).with_for_update())
        await _change(session, update(Conversation).where(*still_open).values(closed_at=now))
    within = select(Conversation.id).where(_named(key), Conversation.closed_at.is_not(None))
    accepted = await _delete_all(db, Inbox, Inbox.conversation_id.in_(within))
    messages = await _delete_all(db, Message, Message.conversation_id.in_(within))
    await _unlink(db, Usage.conversation_id.in_(within))
    conversations = await _delete_all(db, Conversation, Conversation.id.in_(within))
    await mend(db)
    await vacuum.rewrite(db)
    for _ in range(TRIES):
        if await vacuum.truncate_log(db):
            break
        await asyncio.sleep(PAUSE)
    return Deleted(conversations, messages, accepted)


def _named(key: str) -> ColumnElement[bool]:
    """LIKE would take capitals for small letters on SQLite."""
    return func.substr(Conversation.key, 1, len(key)) == key if key.endswith(":") else Conversation.key == key


async def mend(db: Database) -> int:
    """Makes heads of what waited for rows that are deleted; returns how many."""
    delivery = aliased(Outbox)
    before_delivery = exists().where(
        delivery.channel == Outbox.channel, delivery.lane == Outbox.lane, delivery.id < Outbox.id,
        among(delivery.state, *outbox.UNFINISHED),
    )  # fmt: skip
    messages = select(Inbox.id).where(~Inbox.head, among(Inbox.state, *inbox.UNFINISHED), ~inbox.waits_behind())
    deliveries = select(Outbox.id).where(~Outbox.head, among(Outbox.state, *outbox.UNFINISHED), ~before_delivery)
    return await _in_steps(db, messages, lambda ids: _update(Inbox, ids, head=True)) + await _in_steps(
        db, deliveries, lambda ids: _update(Outbox, ids, head=True)
    )


async def _delete_old(db: Database, table: Aged, *old: ColumnElement[bool]) -> int:
    """Deletes rows with what refers to them, the oldest first, where they are still as they were found."""
    found = select(table.id).where(*old).order_by(table.created_at)
    return await _in_steps(db, found, lambda ids: delete(table).where(table.id.in_(ids), *old))


async def _delete_all(db: Database, table: Rows, doomed: ColumnElement[bool]) -> int:
    return await _in_steps(db, select(table.id).where(doomed), lambda ids: delete(table).where(table.id.in_(ids)))


async def _unlink(db: Database, whose: ColumnElement[bool]) -> None:
    """Takes the conversation out of the ledger's rows, which would else be changed at one stroke with its deletion."""
    found = select(Usage.id).where(whose)
    await _in_steps(db, found, lambda ids: _update(Usage, ids, conversation_id=None))


def _update(table: Rows, ids: Sequence[int], **values: Any) -> Update:
    return update(table).where(table.id.in_(ids)).values(**values)


async def _in_steps(db: Database, found: Select[int], change: Callable[[Sequence[int]], Delete | Update]) -> int:
    """Changes what is found, until nothing is."""
    changed = 0
    while ids := await _ids(db, found.limit(LOOKED_UP)):
        for batch in _batches(ids):
            async with db.write() as session:
                changed += await _change(session, change(batch))
            await asyncio.sleep(PAUSE)
    return changed


async def _change(session: AsyncSession, statement: Delete | Update) -> int:
    done = await session.execute(statement, execution_options={"synchronize_session": False})
    return cast("CursorResult[Any]", done).rowcount


async def _ids(db: Database, query: Select[int]) -> Sequence[int]:
    async with db.read() as session:
        return (await session.scalars(query)).all()


def _batches(ids: Sequence[int]) -> list[Sequence[int]]:
    return [ids[start : start + BATCH] for start in range(0, len(ids), BATCH)]

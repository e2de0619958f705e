"""Conversations and what was said in them."""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from storage.models import Conversation, Message
from storage.upsert import insert_all

HISTORY = 400  # messages that are read back at most
EARLY = 128  # of these, among which a long history begins


class Turn(msgspec.Struct, frozen=True):
    """One message as the model is shown it: without its reasoning."""

    role: str
    content: str


async def open_conversations(session: AsyncSession, keys: Sequence[str], now: datetime) -> dict[str, int]:
    """The ids of the keys' open conversations, new ones where there are none. Until the transaction ends, none of
    them is deleted, and none of their messages comes to its end unseen (`FOR KEY SHARE`)."""
    query = select(Conversation).where(Conversation.closed_at.is_(None)).with_for_update(read=True, key_share=True)
    found = {row.key: row.id for row in await session.scalars(query.where(Conversation.key.in_(keys)))}
    if new := [{"key": key, "created_at": now} for key in keys if key not in found]:
        made = await insert_all(session, Conversation, new, Conversation.key, Conversation.id)
        found |= {row.key: row.id for row in made}
    if missing := [key for key in keys if key not in found]:  # another process has just made them
        found |= {row.key: row.id for row in await session.scalars(query.where(Conversation.key.in_(missing)))}
    return found


async def close_conversation(session: AsyncSession, key: str, now: datetime) -> bool:
    """Ends the open conversation of a key, so that the next message begins another. False where none is open."""
    closing = (
        update(Conversation)
        .where(Conversation.key == key, Conversation.closed_at.is_(None))
        .values(closed_at=now)
        .returning(Conversation.id)
    )
    return (await session.execute(closing)).first() is not None


async def history(session: AsyncSession, conversation_id: int) -> list[Turn]:
    """The newest messages of a conversation, the oldest of them first."""
    mine = Message.conversation_id == conversation_id
    newest = select(Message.id, Message.role, Message.content).where(mine).order_by(Message.id.desc()).limit(HISTORY)
    rows = (await session.execute(newest)).all()[::-1]
    begins = next((place for place, row in enumerate(rows[:EARLY]) if _landmark(row.id)), 0)
    turns = [Turn(row.role, row.content) for row in rows[begins if len(rows) == HISTORY else 0 :]]
    return turns[1:] if turns and turns[0].role == "assistant" else turns


def _landmark(message_id: int) -> bool:
    """One in 16, as if drawn: a history that begins at the oldest of them begins there for many turns, whose prompts
    share their beginning. To count the messages of a long conversation would take longer than to read these."""
    return message_id * 2654435761 % 2**32 < 2**28  # Knuth's multiplicative hash


async def last_message_id(session: AsyncSession, conversation_id: int) -> int | None:
    """The message that the next one answers."""
    query = select(Message.id).where(Message.conversation_id == conversation_id).order_by(Message.id.desc()).limit(1)
    return await session.scalar(query)

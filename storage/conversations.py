"""Conversations and what was said in them."""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from storage.models import Conversation, Message
from storage.upsert import insert_all

HISTORY = 400  # messages that are read back at most
STEP = 64  # by so many at a time it moves on, so that the next turns begin with the same ones


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
    total = await session.scalar(select(func.count()).where(mine)) or 0
    skipped = -(min(0, HISTORY - total) // STEP) * STEP
    newest = select(Message.role, Message.content).where(mine).order_by(Message.id.desc()).limit(total - skipped)
    turns = [Turn(role, content) for role, content in (await session.execute(newest)).all()][::-1]
    return turns[1:] if turns and turns[0].role == "assistant" else turns


async def last_message_id(session: AsyncSession, conversation_id: int) -> int | None:
    """The message that the next one answers."""
    query = select(Message.id).where(Message.conversation_id == conversation_id).order_by(Message.id.desc()).limit(1)
    return await session.scalar(query)

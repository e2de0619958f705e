"""Conversations and what was said in them."""

from datetime import datetime

import msgspec
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from storage.models import Conversation, Message
from storage.upsert import insert_new

HISTORY = 400  # messages that are read back at most


class Turn(msgspec.Struct, frozen=True):
    """One message as the model is shown it: without its reasoning."""

    role: str
    content: str


async def open_conversation(session: AsyncSession, key: str, now: datetime) -> Conversation:
    """The open conversation of a key; a new one where there is none."""
    query = select(Conversation).where(Conversation.key == key, Conversation.closed_at.is_(None))
    if found := await session.scalar(query):
        return found
    await insert_new(session, Conversation, key=key, created_at=now)
    return (await session.scalars(query)).one()


async def close_conversation(session: AsyncSession, key: str, now: datetime) -> bool:
    """Ends the open conversation of a key, so that the next message begins another. False where none is open."""
    closing = (
        update(Conversation)
        .where(Conversation.key == key, Conversation.closed_at.is_(None))
        .values(closed_at=now)
        .returning(Conversation.id)
    )
    return (await session.execute(closing)).first() is not None


async def history(session: AsyncSession, conversation_id: int, limit: int = HISTORY) -> list[Turn]:
    """The newest messages of a conversation, the oldest of them first."""
    newest = (
        select(Message.role, Message.content)
        .where(Message.conversation_id == conversation_id)
        .order_by(Message.id.desc())
        .limit(limit)
    )
    turns = [Turn(role, content) for role, content in (await session.execute(newest)).all()][::-1]
    return turns[1:] if turns and turns[0].role == "assistant" else turns


async def last_message_id(session: AsyncSession, conversation_id: int) -> int | None:
    """The message that the next one answers."""
    query = select(Message.id).where(Message.conversation_id == conversation_id).order_by(Message.id.desc()).limit(1)
    return await session.scalar(query)

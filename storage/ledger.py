"""What was used, and what the operators were told."""

from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from storage import models
from storage.models import Alert, Inbox
from storage.upsert import insert_new


@dataclass(frozen=True, slots=True)
class Usage:
    """What one answer took, in tokens."""

    source: str
    model: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    finish_reason: str
    started_at: datetime
    finished_at: datetime
    conversation_id: int | None = None
    key_name: str | None = None


async def record_usage(session: AsyncSession, usage: Usage) -> None:
    session.add(models.Usage(**asdict(usage)))
    await session.flush()


async def last_activity(session: AsyncSession) -> datetime | None:
    """When a message last came or an answer last ended."""
    times = [await session.scalar(select(func.max(column))) for column in (Inbox.created_at, models.Usage.finished_at)]
    return max((time for time in times if time), default=None)


async def raise_alert(session: AsyncSession, kind: str, key: str, text: str, now: datetime) -> bool:
    """Notes an alert; False where this one was raised before."""
    return await insert_new(session, Alert, kind=kind, key=key, text=text, created_at=now)

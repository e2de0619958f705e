"""Who may talk to the bot on Telegram, as the operator said by command."""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from storage.models import TelegramUser


async def set_telegram_user(session: AsyncSession, user_id: int, *, allowed: bool, now: datetime) -> None:
    await session.merge(TelegramUser(user_id=user_id, allowed=allowed, updated_at=now))


async def telegram_user(session: AsyncSession, user_id: int) -> bool | None:
    """Whether the user was let in; None where nothing was said about them."""
    row = await session.get(TelegramUser, user_id)
    return row.allowed if row else None

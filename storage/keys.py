"""API keys."""

import hashlib
import secrets
from datetime import datetime

import msgspec
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from storage.errors import DuplicateName, UnknownName
from storage.models import ApiKey
from storage.upsert import insert_new


class KeyInfo(msgspec.Struct, frozen=True):
    """A key without its secret. `client_id`: it speaks for that webhook client only."""

    name: str
    prefix: str
    scope: str
    client_id: int | None
    revoked_at: datetime | None


def _info(row: ApiKey) -> KeyInfo:
    return KeyInfo(row.name, row.prefix, row.scope, row.client_id, row.revoked_at)


def _digest(plaintext: str) -> str:
    return hashlib.sha256(plaintext.encode("utf-8", "replace")).hexdigest()


async def create_key(
    session: AsyncSession, name: str, scope: str, *, now: datetime, client_id: int | None = None
) -> str:
    """Makes a key and returns it; only its hash is kept. Raises DuplicateName."""
    plaintext = f"dsw_{secrets.token_urlsafe(32)}"
    made = await insert_new(
        session, ApiKey,
        name=name, prefix=plaintext[:8], sha256=_digest(plaintext), scope=scope, client_id=client_id, created_at=now,
    )  # fmt: skip
    if not made:
        raise DuplicateName(f"There is a key {name!r} already: choose another name (a revoked key keeps its name).")
    return plaintext


async def authenticate(session: AsyncSession, plaintext: str) -> KeyInfo | None:
    """The valid key of this text."""
    query = select(ApiKey).where(ApiKey.sha256 == _digest(plaintext), ApiKey.revoked_at.is_(None))
    row = await session.scalar(query)
    return _info(row) if row else None


async def list_keys(session: AsyncSession) -> list[KeyInfo]:
    return [_info(row) for row in await session.scalars(select(ApiKey).order_by(ApiKey.id))]


async def revoke_key(session: AsyncSession, name: str, now: datetime) -> None:
    """Ends a key. Raises UnknownName."""
    ending = (
        update(ApiKey)
        .where(ApiKey.name == name, ApiKey.revoked_at.is_(None))
        .values(revoked_at=now)
        .returning(ApiKey.id)
    )
    if (await session.execute(ending)).first() is None:
        raise UnknownName(f"There is no valid key {name!r}; `dswbot key list` shows them.")

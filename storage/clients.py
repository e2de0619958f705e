"""Webhook clients: programs that post messages, each with a key and a secret of its own."""

import base64
import re
import secrets
from datetime import datetime

import msgspec
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from storage.errors import DuplicateName, InvalidName, UnknownName
from storage.keys import create_key
from storage.models import ApiKey, Client
from storage.upsert import insert_new

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")  # part of an address, and of conversation keys


class NewClient(msgspec.Struct, frozen=True):
    """What the operator hands over: shown once."""

    name: str
    key: str
    secret: str


class ClientInfo(msgspec.Struct, frozen=True):
    id: int
    name: str
    callback_url: str | None
    disabled: bool


class Endpoint(msgspec.Struct, frozen=True):
    """Where a client is told of replies, and what signs that."""

    url: str
    secret: str
    disabled: bool


def _info(row: Client) -> ClientInfo:
    return ClientInfo(row.id, row.name, row.callback_url, row.disabled_at is not None)


def _new_secret() -> str:
    """As Standard Webhooks writes them: https://www.standardwebhooks.com"""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


async def create_client(session: AsyncSession, name: str, callback_url: str | None, now: datetime) -> NewClient:
    """Makes a client with its key. Raises DuplicateName, InvalidName."""
    if not NAME.fullmatch(name):
        raise InvalidName
    made = await insert_new(session, Client, name=name, secret=_new_secret(), callback_url=callback_url, created_at=now)
    if not made:
        raise DuplicateName(f"There is a client {name!r} already: `dswbot client rotate {name}` gives it a new key.")
    return await _hand_over(session, await _row(session, name), now)


async def rotate(session: AsyncSession, name: str, now: datetime) -> NewClient:
    """A new key and secret; the old ones end at once. Raises UnknownName."""
    row = await _row(session, name)
    row.secret = _new_secret()
    await session.execute(delete(ApiKey).where(ApiKey.client_id == row.id))
    return await _hand_over(session, row, now)


async def _hand_over(session: AsyncSession, row: Client, now: datetime) -> NewClient:
    key = await create_key(session, f"client:{row.name}", "webhook", now=now, client_id=row.id)
    return NewClient(row.name, key, row.secret)


async def _row(session: AsyncSession, name: str) -> Client:
    row = await session.scalar(select(Client).where(Client.name == name))
    if row is None:
        raise UnknownName(f"There is no client {name!r}; `dswbot client list` shows them.")
    return row


async def set_disabled(session: AsyncSession, name: str, *, disabled: bool, now: datetime) -> None:
    """Raises UnknownName."""
    (await _row(session, name)).disabled_at = now if disabled else None


async def list_clients(session: AsyncSession) -> list[ClientInfo]:
    return [_info(row) for row in await session.scalars(select(Client).order_by(Client.id))]


async def by_name(session: AsyncSession, name: str) -> ClientInfo | None:
    row = await session.scalar(select(Client).where(Client.name == name))
    return _info(row) if row else None


async def endpoint(session: AsyncSession, name: str) -> Endpoint | None:
    """None where the client has no callback URL, or is gone."""
    row = await session.scalar(select(Client).where(Client.name == name, Client.callback_url.is_not(None)))
    return Endpoint(row.callback_url, row.secret, row.disabled_at is not None) if row and row.callback_url else None

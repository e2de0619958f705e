"""Events for programs: what happens to the instance and its budget, posted to webhook clients as callbacks are."""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from bot.errors import ConfigError
from bot.web.callbacks import CHANNEL
from storage import clients
from storage.outbox import NewDelivery


class Event(msgspec.Struct, frozen=True):
    """What is posted. `type` as `instance.idle`; `data` is a JSON object already encoded."""

    type: str
    timestamp: datetime
    data: msgspec.Raw


class ClientsMissing(ConfigError):
    """alerts.webhook_clients names clients that can't be told anything."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(
            f"alerts.webhook_clients: there is no client {' or '.join(names)} with a callback URL: "
            f"`dswbot client new {names[0]} --callback-url URL` makes one."
        )


def planned_event(client: str, event: Event) -> NewDelivery:
    """In a lane of its own, so that it waits for no conversation's callbacks."""
    return NewDelivery(CHANNEL, client, f"events:{client}", msgspec.json.encode(event).decode())


async def missing_clients(session: AsyncSession, names: Sequence[str]) -> list[str]:
    """Those that do not exist, or have no callback URL. One that is disabled is there: its events wait."""
    return [name for name in names if await clients.endpoint(session, name) is None]

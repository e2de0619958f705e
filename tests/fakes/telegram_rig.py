"""A bot at work on the fake Telegram: adapter, outbox and database are the real ones; with a model or without."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import select

from bot.clock import now
from bot.config import Telegram
from bot.conversation import Persona, Turns
from bot.delivery import Deliveries
from bot.errors import TelegramRefused
from bot.telegram.adapter import TelegramAdapter
from bot.telegram.operator import Operator
from bot.telegram.send import Payload, planned
from inference.engine import Engine
from inference.protocol import EngineConfig
from storage import migrations, outbox
from storage.database import Database
from tests.fakes.telegram import FakeTelegram

TOKEN = "123:abc"  # the fake's


@dataclass
class Rig:
    telegram: FakeTelegram
    db: Database
    settings: Telegram
    turns: Turns
    deliveries: Deliveries
    adapter: TelegramAdapter
    polling: asyncio.Task[None]

    async def plan(self, *payloads: Payload) -> None:
        """Leaves these to the outbox."""
        async with self.db.write() as session:
            await outbox.add(session, [planned(payload) for payload in payloads], now())
        self.deliveries.wake()

    async def column(self, column: object) -> list:
        async with self.db.read() as session:
            return list(await session.scalars(select(column).order_by(column.class_.id)))

    async def until(self, column: object, *values: object, timeout: float = 20) -> None:
        """Waits until the column holds these values."""
        for _ in range(int(timeout / 0.02)):
            if (found := await self.column(column)) == list(values):
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"{column}: {found}, not {list(values)}\n{self.telegram.transcript(7)}")


Start = Callable[..., contextlib.AbstractAsyncContextManager[Rig]]


@contextlib.asynccontextmanager
async def bot_at_work(
    telegram: FakeTelegram, folder: Path, engine: Engine | None = None, *, max_tokens: int = 30,
    operator: Callable[[Database], Operator] | None = None, url: str = "", **settings: object,
) -> AsyncIterator[Rig]:  # fmt: skip
    """A bot on the folder's database, or that at `url`; the end of the block is a crash. Without an engine, messages
    stay queued."""
    section = Telegram(
        **{"token": TOKEN, "admins": (7,), "base_url": telegram.base_url, "base_file_url": telegram.base_file_url}
        | settings
    )
    async with Database(url or f"sqlite+aiosqlite:///{folder}/bot.db") as db:
        await migrations.upgrade(db)
        model = engine or Engine(EngineConfig("none", "", "", context=1024, slots=1))  # the latter is never started
        turns = Turns(db, model, Persona(max_tokens=max_tokens), owner="test", concurrency=2)
        deliveries = Deliveries(db, owner="test")
        made = operator(db) if operator else None
        async with TelegramAdapter(section, db, turns, deliveries, demo=True, operator=made) as adapter:
            loops = [adapter.run(), deliveries.run(), *([turns.run()] if engine else [])]
            tasks = [asyncio.create_task(loop) for loop in loops]
            try:
                yield Rig(telegram, db, section, turns, deliveries, adapter, tasks[0])
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError, TelegramRefused):
            task.result()


def said(telegram: FakeTelegram, chat: int = 7) -> list[str]:
    """What the bot has said in a chat."""
    return [message.text for message in telegram.chat(chat) if message.sender == "bot"]


def methods(telegram: FakeTelegram) -> list[str]:
    """The calls that the bot has made."""
    return [call.method for call in telegram.calls]


async def polling(telegram: FakeTelegram) -> None:
    """Waits for a poll that waits."""
    await telegram.wait_for(
        lambda: ("getUpdates", "pending") in {(call.method, call.outcome) for call in telegram.calls}
    )


def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shortens the pauses that are the bot's own; those that Telegram asks for stay."""
    monkeypatch.setattr("bot.delivery.POLL", 0.05)
    monkeypatch.setattr("bot.delivery.RETRY_SECONDS", (0.05,) * 10)
    monkeypatch.setattr("bot.telegram.gate.SHORTEST_GAP", 0.1)
    monkeypatch.setattr("bot.telegram.adapter.FIRST_PAUSE", 0.05)
    monkeypatch.setattr("bot.telegram.adapter.LONGEST_PAUSE", 0.1)

"""Events reach webhook clients signed, in lanes of their own."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec
import pytest
from aiohttp import web

from bot.clock import now
from bot.delivery import Deliveries
from bot.money.event import event
from bot.money.notice import Amount, Left, Notice
from bot.web.callbacks import CHANNEL, opened_callbacks
from bot.web.events import ClientsMissing, Event, missing_clients, planned_event
from storage import clients, outbox
from storage.database import Database
from storage.outbox import NewDelivery
from tests.fakes.callback_receiver import verify

AT = datetime(2026, 11, 24, 18, 14, tzinfo=UTC)
NOTICE = Notice(
    kind="warned", key="idle:dsw-1:7:warned", instance="dsw-1", epoch=7, at=AT, reason="idle", cost=Amount(4.2),
    left=Left(12.3), deadline=AT,
)  # fmt: skip


def posted(notice: Notice = NOTICE) -> Event:
    told = event(notice)
    return Event(told.type, told.timestamp, told.data)


@dataclass
class Hooks:
    """Two clients' addresses: `/stuck` hangs where it is told of a conversation, `/` checks the signature."""

    url: str = ""
    secret: str = ""
    bodies: list[dict] = field(default_factory=list)
    stuck: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        named = (request.headers[f"webhook-{name}"] for name in ("id", "timestamp", "signature"))
        verify(self.secret, *named, raw)
        assert request.content_type == "application/json"
        body = json.loads(raw)
        if body["type"].startswith("reply."):
            self.stuck.set()
            await asyncio.sleep(30)
        self.bodies.append(body)
        return web.Response()


@pytest.fixture
async def hooks() -> AsyncIterator[Hooks]:
    one = Hooks()
    app = web.Application()
    app.router.add_post("/", one.serve)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    one.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    yield one
    await runner.cleanup()


async def test_an_event_is_posted_signed_and_waits_for_no_conversation(sqlite_db: Database, hooks: Hooks) -> None:
    reply = NewDelivery(CHANNEL, "demo", "webhook:demo:room", '{"type":"reply.completed"}')
    async with sqlite_db.write() as session:
        hooks.secret = (await clients.create_client(session, "demo", hooks.url, now())).secret
        await outbox.add(session, [reply], now())
    deliveries = Deliveries(sqlite_db, owner="test")
    async with opened_callbacks(sqlite_db, ["127.0.0.1"]) as sender:
        deliveries.senders[CHANNEL] = sender
        running = asyncio.create_task(deliveries.run())
        async with asyncio.timeout(10):
            await hooks.stuck.wait()
            async with sqlite_db.write() as session:
                await outbox.add(session, [planned_event("demo", posted())], now())
            deliveries.wake()
            while not hooks.bodies:
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.wait([running])
    assert hooks.bodies == [{
        "type": "instance.warned", "timestamp": "2026-11-24T18:14:00Z",
        "data": {
            "id": "idle:dsw-1:7:warned", "instance": "dsw-1", "epoch": 7, "reason": "idle", "stoppable": False,
            "cost": {"yuan": 4.2, "compute_hours": None},
            "left": {"compute_hours": 12.3, "yuan": None, "until": None}, "deadline": "2026-11-24T18:14:00Z",
        },
    }]  # fmt: skip


def test_events_of_one_client_keep_their_order() -> None:
    one, other = planned_event("demo", posted()), planned_event("other", posted())
    assert (one.channel, one.destination, one.lane) == (CHANNEL, "demo", "events:demo")
    assert one.lane != other.lane
    assert msgspec.json.decode(one.payload, type=Event).timestamp == AT


async def test_clients_that_can_t_be_told_are_named(db: Database) -> None:
    async with db.write() as session:
        await clients.create_client(session, "told", "https://example.com/", now())
        await clients.create_client(session, "off", "https://example.com/", now())
        await clients.create_client(session, "silent", None, now())
        await clients.set_disabled(session, "off", disabled=True, now=now())
    async with db.read() as session:
        missing = await missing_clients(session, ["told", "nobody", "off", "silent"])
    assert missing == ["nobody", "silent"]
    assert str(ClientsMissing(missing)) == (
        "alerts.webhook_clients: there is no client nobody or silent with a callback URL: "
        "`dswbot client new nobody --callback-url URL` makes one."
    )

"""Telegram when calls fail, come twice or meet a limit. No model answers here."""

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
import structlog
import telegram as ptb
from sqlalchemy import select

from bot.clock import now
from bot.config import Telegram
from bot.conversation import Persona, Turns
from bot.delivery import Deliveries
from bot.live import LiveTurn, Outcome
from bot.telegram.adapter import OTHER_POLLER, TelegramAdapter
from bot.telegram.intake import Intake
from bot.telegram.send import Payload, planned
from inference.engine import Engine
from inference.protocol import Chunk, EngineConfig, Usage
from storage import inbox, outbox, people
from storage.database import Database
from storage.errors import DatabaseUnavailable
from storage.inbox import Claim, Incoming
from storage.models import Conversation, Inbox, Outbox
from storage.outbox import NewDelivery
from tests.fakes.telegram import FakeTelegram, Fault

TOKEN = "123:abc"
ENGINE = EngineConfig("none", "", "", context=1024, slots=1)  # never started
NUMBERS = itertools.count(1000)


@pytest.fixture
async def telegram() -> AsyncIterator[FakeTelegram]:
    async with FakeTelegram(TOKEN) as fake:
        fake.open_chat(7)
        yield fake
        assert fake.violations == []


@dataclass
class Rig:
    """A bot that polls and sends, and whose turns are the test's to play."""

    db: Database
    turns: Turns
    deliveries: Deliveries
    settings: Telegram
    adapter: TelegramAdapter

    async def plan(self, *deliveries: NewDelivery) -> None:
        async with self.db.write() as session:
            await outbox.add(session, deliveries, now())
        self.deliveries.wake()

    async def column(self, column: object) -> list:
        async with self.db.read() as session:
            return list(await session.scalars(select(column).order_by(column.class_.id)))

    async def until(self, column: object, values: list) -> None:
        """Waits until the column holds these values."""
        async with asyncio.timeout(15):
            while (found := await self.column(column)) != values:
                await asyncio.sleep(0.02)
        assert found == values

    async def claimed(self, text: str = "Hi") -> Claim:
        """A message of chat 7 whose turn has begun."""
        meta = '{"chat_id":7,"language":"en"}'
        await self.turns.accept(Incoming("telegram", f"123:{next(NUMBERS)}", "telegram:7", text, meta=meta))
        async with self.db.write() as session:
            claim = await inbox.claim(session, "test", now(), timedelta(minutes=1))
        assert claim
        return claim


@pytest.fixture
async def start(telegram: FakeTelegram, sqlite_db: Database) -> AsyncIterator[Callable[..., Awaitable[Rig]]]:
    tasks: list[asyncio.Task] = []
    async with AsyncExitStack() as stack:

        async def start(**changes: object) -> Rig:
            settings = Telegram(
                **{"token": TOKEN, "admins": (7,), "base_url": telegram.base_url,
                   "base_file_url": telegram.base_file_url, **changes}
            )  # fmt: skip
            turns = Turns(sqlite_db, Engine(ENGINE), Persona(), owner="test", concurrency=1)
            deliveries = Deliveries(sqlite_db)
            adapter = TelegramAdapter(settings, sqlite_db, turns, deliveries, demo=False)
            await stack.enter_async_context(adapter)
            tasks.extend(asyncio.create_task(loop()) for loop in (adapter.run, deliveries.run))
            return Rig(sqlite_db, turns, deliveries, settings, adapter)

        yield start
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            assert task.cancelled() or task.exception() is None


def said(telegram: FakeTelegram, chat: int = 7) -> list[str]:
    return [message.text for message in telegram.chat(chat) if message.sender == "bot"]


def update(number: int, **message: object) -> ptb.Update:
    """An update as Telegram writes it."""
    ann = {"id": 7, "is_bot": False, "first_name": "Ann", "language_code": "en"}
    whole = {"message_id": number, "date": 1, "chat": {"id": 7, "type": "private"}, "from": ann, **message}
    return ptb.Update.de_json({"update_id": number, "message": whole})


async def test_an_update_that_comes_again_changes_nothing(telegram: FakeTelegram, start: Callable):
    rig = await start()
    intake = Intake(rig.settings, rig.db, rig.turns, rig.deliveries, demo=False)
    for _ in range(2):
        await intake.store(update(1, text="Hello!"))
        await intake.store(update(2, text="/new"))
        await intake.store(update(3, text="Hello again!"))
    assert await rig.column(Inbox.external_id) == ["123:1", "123:2", "123:3"]
    assert await rig.column(Inbox.state) == ["queued", "done", "queued"]
    assert [closed is None for closed in await rig.column(Conversation.closed_at)] == [False, True]
    await rig.until(Outbox.state, ["sent"])
    assert len(said(telegram)) == 1


async def test_what_can_not_be_stored_is_not_confirmed(
    telegram: FakeTelegram, start: Callable, monkeypatch: pytest.MonkeyPatch
):
    rig = await start()
    accept, failed = rig.turns.accept, []

    async def failing(incoming: Incoming) -> object:
        if len(failed) < 1:
            failed.append(list(telegram.pending))
            raise DatabaseUnavailable
        return await accept(incoming)

    monkeypatch.setattr(rig.turns, "accept", failing)
    number = telegram.user_sends("Hello!")
    await telegram.wait_for(lambda: not rig.adapter.state.ok and failed)
    assert [waiting.update_id for waiting in telegram.pending] == [number]
    await rig.until(Inbox.external_id, [f"123:{number}"])
    await telegram.wait_for(lambda: not telegram.pending)


async def test_a_lost_answer_of_the_poll_loses_no_message(telegram: FakeTelegram, start: Callable):
    telegram.fail_next("getUpdates", Fault.DROP_AFTER)
    telegram.user_sends("/help")
    rig = await start()
    await rig.until(Outbox.state, ["sent"])
    assert len(said(telegram)) == 1


async def test_another_process_with_the_same_token_is_named(telegram: FakeTelegram, start: Callable):
    rig = await start()
    await telegram.wait_for(lambda: any(call.method == "getUpdates" for call in telegram.calls))
    async with ptb.Bot(TOKEN, base_url=telegram.base_url) as other:
        poll = asyncio.create_task(other.get_updates(timeout=20))
        await telegram.wait_for(lambda: rig.adapter.state.reason == OTHER_POLLER)
        assert not rig.adapter.state.ok
        with pytest.raises(ptb.error.Conflict):  # ours tries again, and that ends theirs
            await poll
    telegram.user_sends("/help")
    await rig.until(Outbox.state, ["sent"])
    assert rig.adapter.state.ok
    telegram.violations.clear()  # two pollers are the point of this test


async def test_a_connection_that_stays_silent_is_made_anew(
    telegram: FakeTelegram, start: Callable, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("bot.telegram.adapter.STALE", 0.0)
    telegram.fail_next("getUpdates", Fault.DROP_BEFORE)
    rig = await start()
    telegram.user_sends("/help")
    await rig.until(Outbox.state, ["sent"])


async def test_the_token_is_in_no_log(
    telegram: FakeTelegram, start: Callable, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    for name in ("httpx", "httpcore"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.NOTSET)
    for method in ("getMe", "setMyCommands", "getUpdates"):
        telegram.fail_next(method, Fault.DROP_BEFORE)
    telegram.fail_next("sendMessage", Fault.SERVER_ERROR)
    with structlog.testing.capture_logs() as events, caplog.at_level(logging.INFO):
        rig = await start()
        telegram.user_sends("/help")
        await rig.until(Outbox.state, ["uncertain"])
    assert len(events) >= 3
    assert TOKEN not in caplog.text
    assert TOKEN not in str(events)


async def test_a_denied_user_is_refused_even_if_the_file_allows_them_but_an_admin_never(
    telegram: FakeTelegram, start: Callable
):
    rig = await start(allowed=(8,))
    async with rig.db.write() as session:
        for user in (7, 8):
            await people.set_telegram_user(session, user, allowed=False, now=now())
    for user in (7, 8):
        telegram.user_sends("Hello!", user_id=user)
    await rig.until(Inbox.state, ["queued", "done"])
    await rig.until(Outbox.state, ["sent"])
    assert "dswbot telegram allow 8" in said(telegram, 8)[0]


async def test_the_configured_language_comes_before_the_users(telegram: FakeTelegram, start: Callable):
    rig = await start(language="zh")
    telegram.user_sends("/stop", language_code="en")
    await rig.until(Outbox.state, ["sent"])
    assert said(telegram) == ["没有正在进行的回答。"]


async def test_pictures_are_declined_and_edits_and_groups_are_left_alone(telegram: FakeTelegram, start: Callable):
    rig = await start()
    intake = Intake(rig.settings, rig.db, rig.turns, rig.deliveries, demo=False)
    size = {"file_id": "f", "file_unique_id": "u", "width": 1, "height": 1}
    await intake.store(update(1, photo=[size], caption="What is this?"))
    await intake.store(update(2, text="Hi all", chat={"id": -5, "type": "group", "title": "Us"}))
    edited = update(3, text="Hello!").message
    await intake.store(ptb.Update(3, edited_message=edited))
    await rig.until(Outbox.state, ["sent"])
    assert said(telegram) == ["I can read text only."]
    assert await rig.column(Inbox.external_id) == ["123:1"]


async def test_a_long_answer_takes_the_live_messages_place_and_goes_on(telegram: FakeTelegram, start: Callable):
    rig = await start()
    await rig.plan(planned(Payload(7, "…")))
    await rig.until(Outbox.state, ["sent"])
    claim = replace(await rig.claimed(), placeholder=str(telegram.chat(7)[-1].id))
    text = "\n\n".join(f"{number}: " + "a fox, " * 20 for number in range(60))
    assert 8192 < len(text) < 3 * 4096
    outcome = Outcome(text, "", "stop", Usage(0, 0, 0), now(), now())
    await rig.plan(*rig.turns.channels["telegram"].deliveries(claim, outcome))
    await rig.until(Outbox.state, ["sent"] * 4)
    parts = telegram.chat(7)
    assert [part.edits for part in parts] == [1, 0, 0]
    assert " ".join(" ".join(said(telegram)).split()) == " ".join(text.split())


async def test_a_pause_in_the_live_view_holds_the_answer_back_too(telegram: FakeTelegram, start: Callable):
    rig = await start()
    channel, live = rig.turns.channels["telegram"], LiveTurn(0)
    claim = await rig.claimed()
    live.message_id = claim.id
    live.begin(claim)
    shown = asyncio.create_task(channel.show(live))
    telegram.fail_next("editMessageText", Fault.RETRY_AFTER(2))
    live.add(Chunk(1, text="One"))
    await telegram.wait_for(lambda: telegram.calls[-1].method == "editMessageText")
    frozen = telegram.calls[-1].time
    live.add(Chunk(1, text=" and two."))
    live.complete()
    await shown
    outcome = Outcome(live.text, "", "stop", Usage(0, 0, 0), now(), now())
    await rig.plan(*channel.deliveries(replace(claim, placeholder=live.placeholder), outcome))
    await rig.until(Outbox.state, ["sent"])
    assert said(telegram) == ["One and two."]
    assert telegram.calls[-1].time - frozen >= 2
    assert await rig.column(Inbox.placeholder) == [live.placeholder]


async def test_thinking_is_announced_and_not_shown(telegram: FakeTelegram, start: Callable):
    rig = await start()
    channel, live = rig.turns.channels["telegram"], LiveTurn(0)
    live.begin(await rig.claimed())
    shown = asyncio.create_task(channel.show(live))
    live.add(Chunk(1, reasoning="The user wants a fox."))
    await telegram.wait_for(lambda: said(telegram) == ["Thinking…"])
    live.complete()
    await shown


async def test_somebody_who_has_blocked_the_bot_spoils_no_turn(telegram: FakeTelegram, start: Callable):
    rig = await start()
    telegram.block(7)
    live = LiveTurn(0)
    live.begin(await rig.claimed())
    await rig.turns.channels["telegram"].show(live)
    assert live.placeholder is None


@pytest.mark.parametrize("fault", [Fault.DROP_BEFORE, Fault.SERVER_ERROR])
async def test_an_edit_that_fails_is_made_again_and_a_send_is_not(
    telegram: FakeTelegram, start: Callable, fault: Fault
):
    rig = await start()
    await rig.plan(planned(Payload(7, "…")))
    await rig.until(Outbox.state, ["sent"])
    for method in ("editMessageText", "sendMessage"):
        telegram.fail_next(method, fault)
    await rig.plan(planned(Payload(7, "edited", telegram.chat(7)[-1].id)), planned(Payload(7, "sent")))
    await rig.until(Outbox.state, ["sent", "sent", "uncertain"])
    assert said(telegram) == ["edited"]

"""Telegram and the network at their worst: each message is answered once, and nothing is blindly sent twice."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
import telegram
from sqlalchemy import select

from bot.clock import now
from bot.config import Telegram
from bot.conversation import Persona, Turns
from bot.delivery import Deliveries
from bot.errors import ConfigError, TelegramRefused
from bot.telegram import adapter as adapter_module
from bot.telegram.adapter import OTHER_POLLER, TelegramAdapter
from bot.telegram.send import Payload, planned
from inference.engine import Engine
from inference.protocol import EngineConfig
from storage import inbox, migrations, outbox, people
from storage.database import Database
from storage.errors import StorageError
from storage.models import Inbox, Message, Outbox
from tests.fakes.telegram import FakeTelegram, Fault
from tests.fakes.telegram_rules import Formatted
from tests.fakes.telegram_types import Update

pytestmark = pytest.mark.asyncio(loop_scope="module")

STORY = "Tell me a long story about a fox."
TOKEN = "123:abc"  # the fake's


@dataclass
class Running:
    """A bot at work on a database that outlives it."""

    db: Database
    adapter: TelegramAdapter
    polling: asyncio.Task

    async def column(self, column: object) -> list:
        async with self.db.read() as session:
            return list(await session.scalars(select(column).order_by(column.class_.id)))

    async def plan(self, *payloads: Payload) -> None:
        async with self.db.write() as session:
            await outbox.add(session, [planned(payload) for payload in payloads], now())

    async def until(self, column: object, *values: object) -> None:
        """Waits until a column's values are these."""
        for _ in range(600):
            if (found := await self.column(column)) == list(values):
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"{column}: {found}, not {list(values)}")


Start = Callable[..., contextlib.AbstractAsyncContextManager[Running]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(embedded_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Engine]:
    cache = tmp_path_factory.mktemp("engine")
    async with Engine(EngineConfig("embedded", str(embedded_gguf), str(cache), context=1024, slots=2)) as running:
        await running.settled()
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def tg() -> AsyncIterator[FakeTelegram]:
    async with FakeTelegram() as fake:
        yield fake
        assert fake.violations == []


@pytest.fixture
def start(tg: FakeTelegram, engine: Engine, tmp_path: Path) -> Start:
    """Starts a bot, each time on the same database; the end of the block is a crash: no goodbye."""

    @contextlib.asynccontextmanager
    async def start(*, answering: bool = True, max_tokens: int = 30, **settings: object) -> AsyncIterator[Running]:
        section = Telegram(**{"base_url": tg.base_url, "token": TOKEN, "admins": (7,), **settings})
        async with Database(f"sqlite+aiosqlite:///{tmp_path}/bot.db") as db:
            await migrations.upgrade(db)
            async with db.write() as session:
                await inbox.release_all(session)
            turns = Turns(db, engine, Persona(max_tokens=max_tokens), owner="test", concurrency=2)
            deliveries = Deliveries(db)
            async with TelegramAdapter(section, db, turns, deliveries, demo=True) as adapter:
                loops = [adapter.run(), *([turns.run(), deliveries.run()] if answering else [])]
                tasks = [asyncio.create_task(loop) for loop in loops]
                try:
                    yield Running(db, adapter, tasks[0])
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.wait(tasks)

    return start


def said(tg: FakeTelegram, chat: int = 7) -> list[str]:
    return [message.text for message in tg.chat(chat) if message.sender == "bot"]


def count(tg: FakeTelegram, method: str) -> int:
    return sum(call.method == method for call in tg.calls)


async def polling(tg: FakeTelegram) -> None:
    await tg.wait_for(lambda: any(call.method == "getUpdates" and call.outcome == "pending" for call in tg.calls))


# What comes in.


async def test_an_update_that_is_delivered_again_is_answered_once(tg: FakeTelegram, start: Start):
    async with start(answering=False) as bot:
        await polling(tg)
        tg.fail_next("getUpdates", Fault.DROP_BEFORE, times=5)  # so that it is never confirmed
        tg.user_sends("Hello!")
        await bot.until(Inbox.state, "queued")
    assert len(tg.pending) == 1
    tg._server.faults.clear()
    async with start() as bot:
        await bot.until(Outbox.state, "sent")
        await tg.wait_for(lambda: not tg.pending)
        assert await bot.column(Inbox.state) == ["done"]
    assert len(said(tg)) == 1


async def test_a_batch_that_the_database_refuses_in_the_middle_comes_again(
    tg: FakeTelegram, start: Start, monkeypatch: pytest.MonkeyPatch
):
    for text in ("One", "Two"):
        tg.user_sends(text)
    accept, calls = Turns.accept, []

    async def accept_but_once(self: Turns, incoming: inbox.Incoming) -> inbox.Accepted:
        calls.append(incoming.text)
        if len(calls) == 2:
            raise StorageError
        return await accept(self, incoming)

    monkeypatch.setattr(Turns, "accept", accept_but_once)
    async with start() as bot:
        await bot.until(Outbox.state, "sent", "sent")
        assert calls == ["One", "Two", "One", "Two"]
        assert await bot.column(Inbox.text) == ["One", "Two"]
    assert len(said(tg)) == 2


async def test_a_command_that_is_delivered_again_is_carried_out_once(tg: FakeTelegram, start: Start):
    async with start() as bot:
        await polling(tg)
        tg.fail_next("getUpdates", Fault.DROP_BEFORE, times=2)
        tg.user_sends("/help")
        await bot.until(Outbox.state, "sent")
    tg._server.faults.clear()
    async with start() as bot:
        await tg.wait_for(lambda: not tg.pending)
        assert await bot.column(Outbox.state) == ["sent"]
    assert len(said(tg)) == 1


async def test_an_update_that_nobody_understands_does_not_hold_up_the_next(tg: FakeTelegram, start: Start):
    queue = tg._account.updates
    queue.pending.append(Update(queue._next_id, {"message_id": 1}))
    queue._next_id += 1
    tg.user_sends("/help")
    async with start():
        await tg.wait_for(lambda: len(said(tg)) == 1, timeout=2)


async def test_another_poller_is_named_and_polling_goes_on(tg: FakeTelegram, start: Start):
    async with start() as bot, telegram.Bot(TOKEN, base_url=tg.base_url) as other:
        await polling(tg)
        await other.get_updates(timeout=1)
        await tg.wait_for(lambda: bot.adapter.state.reason == OTHER_POLLER)
        assert not bot.adapter.state.ok
        tg.user_sends("/help")
        await tg.wait_for(lambda: len(said(tg)) == 1)
        assert bot.adapter.state.ok
    assert tg.violations == ["getUpdates while another getUpdates was waiting"]
    tg.violations.clear()


async def test_a_webhook_that_is_still_set_is_removed_or_named(tg: FakeTelegram, start: Start):
    async with telegram.Bot(TOKEN, base_url=tg.base_url) as other:
        await other.set_webhook("https://example.org/hook")
    tg.user_sends("/help")
    async with start() as bot:
        await tg.wait_for(lambda: said(tg) or "webhook" in bot.adapter.state.reason, timeout=2)


async def test_a_flood_limit_on_polling_is_obeyed(tg: FakeTelegram, start: Start):
    tg.fail_next("getUpdates", Fault.RETRY_AFTER(1))
    tg.user_sends("/help")
    async with start():
        await tg.wait_for(lambda: len(said(tg)) == 1)


# How it is.


async def test_it_is_ready_as_soon_as_it_polls_although_nobody_writes(tg: FakeTelegram, start: Start):
    async with start() as bot:
        await polling(tg)
        await tg.wait_for(lambda: bot.adapter.state.ok, timeout=2)


async def test_a_network_that_is_away_fails_nothing(start: Start):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        async with start(base_url=f"http://127.0.0.1:{nobody.getsockname()[1]}/bot") as bot:
            while not bot.adapter.state.reason:
                await asyncio.sleep(0.05)
            assert not bot.adapter.state.ok
            assert not bot.polling.done()


async def test_a_stale_connection_is_made_anew(tg: FakeTelegram, start: Start, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(adapter_module, "STALE", 0.0)
    tg.fail_next("getUpdates", Fault.SERVER_ERROR)
    async with start() as bot:
        before = bot.adapter._polls._client
        tg.user_sends("/help")
        await tg.wait_for(lambda: len(said(tg)) == 1)
        assert bot.adapter._polls._client is not before
        assert before.is_closed


async def test_everything_goes_through_the_proxy(tg: FakeTelegram, start: Start):
    proxy = tg.base_url.removesuffix("/bot")  # the fake also answers calls that are addressed to somebody else
    async with start(base_url="http://telegram.invalid/bot", proxy=proxy) as bot:
        tg.user_sends("Hello!")
        await bot.until(Outbox.state, "sent")
    methods = {call.method for call in tg.calls}
    assert methods >= {"getMe", "getUpdates", "sendMessage", "editMessageText"}


async def test_a_proxy_that_is_none_is_refused_by_name(start: Start):
    with pytest.raises(ConfigError, match=r"telegram\.proxy"):
        async with start(proxy="10.0.0.1:8080"):
            pass


async def test_the_token_is_never_logged(
    tg: FakeTelegram, start: Start, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
):
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    caplog.set_level(logging.INFO)
    tg.fail_next("getMe", Fault.SERVER_ERROR)
    tg.fail_next("getUpdates", Fault.DROP_BEFORE)
    tg.fail_next("sendMessage", Fault.DROP_AFTER)
    tg.user_sends("/help")
    async with start() as bot:
        await bot.until(Outbox.state, "uncertain")
    async with start(token="123:wrong") as bot:
        with pytest.raises(TelegramRefused) as refused:
            await asyncio.wait_for(asyncio.shield(bot.polling), 10)
    output = caplog.text + "".join(capfd.readouterr()) + repr(refused.value) + repr(refused.value.__context__)
    assert "connected to Telegram" in output
    assert TOKEN not in output
    assert "123:wrong" not in output.replace("The token `123:wrong`", "")


# Who is let in.


async def test_a_denial_wins_over_the_configuration_but_not_over_an_admin(tg: FakeTelegram, start: Start):
    async with start(allowed=(8,)) as bot:
        async with bot.db.write() as session:
            for user in (7, 8):
                await people.set_telegram_user(session, user, allowed=False, now=now())
        tg.user_sends("/help", user_id=8, language_code="zh-hans")
        tg.user_sends("/help", user_id=7)
        await tg.wait_for(lambda: said(tg, 7) and said(tg, 8))
        assert "dswbot telegram allow 8" in said(tg, 8)[0]
        assert "不认识你" in said(tg, 8)[0]
        assert "/new" in said(tg, 7)[0]
        assert set(await bot.column(Inbox.state)) == {"done"}


async def test_the_configured_language_wins_over_the_users(tg: FakeTelegram, start: Start):
    async with start(language="zh"):
        tg.user_sends("/stop", language_code="en")
        await tg.wait_for(lambda: said(tg) == ["没有正在进行的回答。"])


# What goes out.


async def test_a_chinese_user_who_says_stop_is_answered_in_chinese(tg: FakeTelegram, start: Start):
    async with start(max_tokens=900) as bot:
        tg.user_sends(STORY, language_code="zh-hans")
        await tg.wait_for(lambda: tg.chat(7)[-1].edits, timeout=20)
        tg.user_sends("/stop", language_code="zh-hans")
        await bot.until(Outbox.state, "sent", "sent")
    answer, confirmation = said(tg)
    assert answer.endswith("（已停止）")
    assert confirmation == "已停止。"


@pytest.mark.parametrize("fault", [Fault.DROP_BEFORE, Fault.DROP_AFTER, Fault.SERVER_ERROR], ids=lambda f: f.name)
async def test_an_answer_comes_although_its_live_view_could_not_begin(tg: FakeTelegram, start: Start, fault: Fault):
    tg.fail_next("sendMessage", fault)
    async with start() as bot:
        tg.user_sends(STORY)
        await bot.until(Outbox.state, "sent")
        _, answer = await bot.column(Message.content)
    assert [text for text in said(tg) if text != "…"] == [f"{answer}\n\n(The answer reached its greatest length here.)"]


@pytest.mark.parametrize("fault", [Fault.RETRY_AFTER(2), Fault.HANG(30)], ids=lambda f: f.name)
async def test_a_live_view_in_trouble_neither_loses_nor_long_delays_the_answer(
    tg: FakeTelegram, start: Start, fault: Fault
):
    tg.fail_next("editMessageText", fault)
    async with start(max_tokens=900) as bot:
        tg.user_sends(STORY)
        await tg.wait_for(lambda: any(call.fault == fault for call in tg.calls), timeout=20)
        tg.user_sends("/stop")
        await bot.until(Outbox.state, "sent", "sent")
        _, answer = await bot.column(Message.content)
    assert f"{answer}\n\n(stopped)" in said(tg)
    assert len(said(tg)) == 2


async def test_the_final_edit_waits_out_a_pause(tg: FakeTelegram, start: Start):
    tg.open_chat(7)
    async with start() as bot:
        await bot.plan(Payload(7, "…"))
        await bot.until(Outbox.state, "sent")
        tg.fail_next("editMessageText", Fault.RETRY_AFTER(1))
        await bot.plan(Payload(7, "The answer.", edit=tg.chat(7)[-1].id), Payload(7, "Its second part."))
        await bot.until(Outbox.state, "sent", "sent", "sent")
    assert said(tg) == ["The answer.", "Its second part."]


async def test_a_final_edit_that_is_lost_on_the_way_is_repeated_and_a_send_is_not(tg: FakeTelegram, start: Start):
    """From here nobody can tell a request that was lost from an answer that was."""
    tg.open_chat(7)
    async with start() as bot:
        await bot.plan(Payload(7, "…"))
        await bot.until(Outbox.state, "sent")
        tg.fail_next("editMessageText", Fault.DROP_BEFORE)
        tg.fail_next("sendMessage", Fault.DROP_BEFORE)
        await bot.plan(Payload(7, "The answer.", edit=tg.chat(7)[-1].id), Payload(7, "Lost."), Payload(7, "More."))
        await bot.until(Outbox.state, "sent", "sent", "uncertain", "sent")
    assert said(tg) == ["The answer.", "More."]


async def test_a_chat_that_must_wait_holds_up_no_other(tg: FakeTelegram, start: Start):
    tg.open_chat(7)
    tg.open_chat(8)
    tg.fail_next("sendMessage", Fault.RETRY_AFTER(3))
    async with start() as bot:
        await bot.plan(Payload(7, "late"))
        await tg.wait_for(lambda: count(tg, "sendMessage") == 1)
        await bot.plan(Payload(8, "at once"))
        await tg.wait_for(lambda: said(tg, 8) == ["at once"], timeout=2)
        assert said(tg) == []
        await tg.wait_for(lambda: said(tg) == ["late"], timeout=8)


async def test_a_crash_while_sending_repeats_an_edit_but_no_send(tg: FakeTelegram, start: Start):
    placed = tg._account.post(tg.open_chat(7), tg._account.me, Formatted("…")).message_id
    tg.open_chat(8)
    for method in ("editMessageText", "sendMessage"):
        tg.fail_next(method, Fault.HANG(30))
    async with start() as bot:
        await bot.plan(Payload(7, "The answer.", edit=placed), Payload(8, "elsewhere"))
        await tg.wait_for(lambda: said(tg) == ["The answer."] and said(tg, 8))
        assert await bot.column(Outbox.state) == ["sending", "sending"]
    async with start() as bot:
        await bot.until(Outbox.state, "sent", "uncertain")
    assert said(tg) == ["The answer."]
    assert said(tg, 8) == ["elsewhere"]
    assert tg.violations == [f"edit of message {placed} in chat 7 changes nothing"]  # the price of not knowing
    tg.violations.clear()


async def test_the_operators_are_told_through_the_outbox(tg: FakeTelegram, start: Start):
    for admin in (7, 8):
        tg.open_chat(admin)
    async with start(admins=(7, 8)) as bot:
        async with bot.db.write() as session:
            await outbox.add(session, bot.adapter.announce("The GPU is idle."), now())
        await tg.wait_for(lambda: said(tg, 7) == said(tg, 8) == ["The GPU is idle."])

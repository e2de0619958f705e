"""The bot with a model, against a strict Telegram: what people see."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio

from inference.engine import Engine
from inference.protocol import EngineConfig
from storage.models import Inbox, Message, Outbox
from tests.fakes.telegram import FakeTelegram, Fault
from tests.fakes.telegram_rig import Rig, bot_at_work, polling, said, without_pauses

pytestmark = pytest.mark.asyncio(loop_scope="module")

Start = Callable[..., AbstractAsyncContextManager[Rig]]

STORY = "Tell me a long story about a fox."


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
def start(tg: FakeTelegram, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    without_pauses(monkeypatch)
    return partial(bot_at_work, tg, tmp_path, engine=engine)


async def test_a_message_is_answered_by_one_message_that_grows(tg: FakeTelegram, start: Start):
    async with start(max_tokens=200) as bot:
        tg.user_sends(STORY)
        await bot.until(Outbox.state, "sent")
        asked, answered = await bot.column(Message.content)
    (reply,) = [message for message in tg.chat(7) if message.sender == "bot"]
    assert asked == STORY
    assert reply.text.startswith(answered[:300])
    assert reply.edits >= 2


async def test_new_begins_a_conversation_that_knows_nothing_of_the_last(tg: FakeTelegram, start: Start):
    async with start(max_tokens=8) as bot:
        for count, text in enumerate(("Hello!", "/new", "Hello!"), 1):
            tg.user_sends(text)
            await bot.until(Outbox.state, *["sent"] * count)
        sizes = [size for size in await bot.column(Message.prompt_tokens) if size]
    assert len(sizes) == 2
    assert sizes[0] == sizes[1]


async def test_stop_ends_the_answer_and_keeps_what_was_said(tg: FakeTelegram, start: Start):
    async with start(max_tokens=900) as bot:
        tg.user_sends(STORY, language_code="zh-hans")
        await tg.wait_for(lambda: tg.chat(7)[-1].edits, timeout=20)
        tg.user_sends("/stop", language_code="zh-hans")
        await bot.until(Outbox.state, "sent", "sent")
        _, answered = await bot.column(Message.content)
        assert (await bot.column(Message.finish_reason))[1] == "cancelled"
    assert answered
    assert said(tg) == [f"{answered}\n\n（已停止）", "已停止。"]


async def test_what_was_accepted_before_a_crash_is_answered_once_after_it(tg: FakeTelegram, start: Start):
    async with start(engine=None) as bot:
        await polling(tg)
        tg.fail_next("getUpdates", Fault.DROP_BEFORE, times=100)  # so that the message is never confirmed
        tg.user_sends("Hello!")
        await bot.until(Inbox.state, "queued")
    assert len(tg.pending) == 1
    tg._server.faults.clear()
    async with start() as bot:
        await bot.until(Outbox.state, "sent")
        await tg.wait_for(lambda: not tg.pending)
        assert await bot.column(Inbox.state) == ["done"]
    assert len(said(tg)) == 1


async def test_a_crash_in_mid_answer_goes_on_in_the_same_message(tg: FakeTelegram, start: Start):
    async with start(max_tokens=600):
        tg.user_sends(STORY)
        # longer than 20 tokens can be: what comes after the crash never equals what is shown already
        await tg.wait_for(lambda: tg.chat(7)[-1].edits and len(said(tg)[-1]) > 400, timeout=20)
    async with start(max_tokens=20) as bot:
        await bot.until(Outbox.state, "sent")
        assert len(await bot.column(Message.id)) == 2
    assert len(said(tg)) == 1


async def test_an_answer_comes_although_its_live_view_could_not_begin(tg: FakeTelegram, start: Start):
    tg.fail_next("sendMessage", Fault.DROP_AFTER)
    async with start() as bot:
        tg.user_sends(STORY)
        await bot.until(Outbox.state, "sent")
        _, answer = await bot.column(Message.content)
    assert said(tg) == ["…", f"{answer}\n\n(The answer reached its greatest length here.)"]


async def test_a_live_view_that_hangs_neither_loses_nor_long_delays_the_answer(
    tg: FakeTelegram, start: Start, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("bot.conversation.SHOW_GRACE", 0.3)
    tg.fail_next("editMessageText", Fault.HANG(30))
    async with start(max_tokens=900) as bot:
        tg.user_sends(STORY)
        await tg.wait_for(lambda: any(call.fault == Fault.HANG(30) for call in tg.calls), timeout=20)
        tg.user_sends("/stop")
        await bot.until(Outbox.state, "sent", "sent", timeout=5)
        _, answer = await bot.column(Message.content)
    assert sorted(said(tg)) == sorted([f"{answer}\n\n(stopped)", "Stopped."])

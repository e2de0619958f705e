"""The bot against a strict Telegram: what people see, and what happens when calls fail."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy import select

from bot.clock import now
from bot.config import Telegram
from bot.conversation import Persona, Turns
from bot.delivery import Deliveries
from bot.errors import TelegramRefused
from bot.telegram.adapter import TelegramAdapter
from bot.telegram.send import Payload, planned
from inference.engine import Engine
from inference.protocol import EngineConfig
from storage import inbox, migrations, outbox, people
from storage.database import Database
from storage.models import Inbox, Message, Outbox
from tests.fakes.telegram import FakeTelegram, Fault

STORY = "Tell me a long story about a fox."


@dataclass
class Bot:
    """A running bot and its parts; `stop` ends it as a crash would, without any goodbye."""

    db: Database
    turns: Turns
    adapter: TelegramAdapter
    tasks: list[asyncio.Task]
    stack: AsyncExitStack

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)
        await self.stack.aclose()

    async def column(self, column: object) -> list:
        async with self.db.read() as session:
            return list(await session.scalars(select(column).order_by(column.class_.id)))


@pytest.fixture
async def telegram() -> AsyncIterator[FakeTelegram]:
    async with FakeTelegram() as fake:
        yield fake
        assert fake.violations == []


@pytest.fixture
async def engine(embedded_gguf: Path, tmp_path: Path) -> AsyncIterator[Engine]:
    config = EngineConfig("embedded", str(embedded_gguf), str(tmp_path), context=1024, slots=2)
    async with Engine(config) as running:
        await running.settled()
        yield running


@pytest.fixture
async def start(telegram: FakeTelegram, engine: Engine, tmp_path: Path) -> AsyncIterator[Callable]:
    """Starts a bot on the same database each time."""
    bots: list[Bot] = []

    async def start(*, answering: bool = True, max_tokens: int = 60, **settings: object) -> Bot:
        section = Telegram(
            base_url=telegram.base_url, base_file_url=telegram.base_file_url,
            **{"token": "123:abc", "admins": (7,), **settings},
        )  # fmt: skip
        stack = AsyncExitStack()
        db = await stack.enter_async_context(Database(f"sqlite+aiosqlite:///{tmp_path}/bot.db"))
        await migrations.upgrade(db)
        async with db.write() as session:
            await inbox.release_all(session)
        turns = Turns(db, engine, Persona(max_tokens=max_tokens), owner="test", concurrency=2)
        deliveries = Deliveries(db)
        adapter = await stack.enter_async_context(TelegramAdapter(section, db, turns, deliveries, demo=True))
        loops = [adapter.run, *([turns.run, deliveries.run] if answering else [])]
        bot = Bot(db, turns, adapter, [asyncio.create_task(loop()) for loop in loops], stack)
        bots.append(bot)
        return bot

    yield start
    for bot in bots:
        if not all(task.done() for task in bot.tasks):
            await bot.stop()


def said(telegram: FakeTelegram, chat: int = 7) -> list[str]:
    return [message.text for message in telegram.chat(chat) if message.sender == "bot"]


async def finished(telegram: FakeTelegram, bot: Bot, count: int) -> None:
    """Waits until so many deliveries are over."""
    for _ in range(1200):
        states = await bot.column(Outbox.state)
        if len(states) >= count and not {"planned", "sending"} & set(states):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"deliveries: {states}\n{telegram.transcript(7)}\n{telegram.calls[-5:]}")


async def test_a_message_is_answered_by_one_message_that_grows(telegram: FakeTelegram, start: Callable):
    bot = await start(max_tokens=200)
    telegram.user_sends(STORY)
    await finished(telegram, bot, 1)
    (reply,) = [message for message in telegram.chat(7) if message.sender == "bot"]
    asked, answered = await bot.column(Message.content)
    assert asked == STORY
    assert reply.text.startswith(answered[:300])
    assert reply.edits >= 2
    edits = [call.time for call in telegram.calls if call.method == "editMessageText"]
    live = edits[:-1]  # the last may be the delivery's, which does not wait
    assert all(b - a > 1.0 for a, b in pairwise(live))


async def test_commands_and_texts_come_in_the_users_language(telegram: FakeTelegram, start: Callable):
    bot = await start(allowed=(8,))
    for text in ("/start", "/help@dswbot_bot", "/stop", "/dance"):
        telegram.user_sends(text)
    telegram.user_sends("/help", user_id=8, language_code="zh-hans", name="Li")
    await finished(telegram, bot, 5)
    hello, help_, stop, unknown = said(telegram)
    assert "Hello" in hello
    assert "dswbot model pull qwen3-4b" in hello
    assert "/new" in help_
    assert stop == "There is nothing to stop."
    assert "/help" in unknown
    assert "开始新对话" in said(telegram, 8)[0]


async def test_new_begins_a_conversation_that_knows_nothing_of_the_last(telegram: FakeTelegram, start: Callable):
    bot = await start(max_tokens=8)
    for count, text in enumerate(("Hello!", "/new", "Hello!"), 1):
        telegram.user_sends(text)
        await finished(telegram, bot, count)
    sizes = [size for size in await bot.column(Message.prompt_tokens) if size]
    assert len(sizes) == 2
    assert sizes[0] == sizes[1]


async def test_stop_ends_the_answer_and_keeps_what_was_said(telegram: FakeTelegram, start: Callable):
    bot = await start(max_tokens=900)
    telegram.user_sends(STORY)
    await telegram.wait_for(lambda: telegram.chat(7)[-1].edits >= 1, timeout=20)
    telegram.user_sends("/stop")
    await finished(telegram, bot, 2)
    assert "(stopped)" in said(telegram)[0]
    assert said(telegram)[1] == "Stopped."
    assert (await bot.column(Message.finish_reason))[1] == "cancelled"


async def test_a_stranger_is_told_the_way_in_once_and_let_in_by_the_operator(telegram: FakeTelegram, start: Callable):
    bot = await start(max_tokens=8)
    for _ in range(3):
        telegram.user_sends("Hi", user_id=99)
    await finished(telegram, bot, 1)
    assert len(said(telegram, 99)) == 1
    assert "dswbot telegram allow 99" in said(telegram, 99)[0]
    assert await bot.column(Message.id) == []
    async with bot.db.write() as session:
        await people.set_telegram_user(session, 99, allowed=True, now=now())
    telegram.user_sends("Hi", user_id=99)
    await finished(telegram, bot, 2)
    assert len(await bot.column(Message.id)) == 2


async def test_groups_and_pictures_are_no_questions(telegram: FakeTelegram, start: Callable):
    bot = await start(max_tokens=8)
    telegram.user_sends("Hi all", user_id=7, chat_id=-5, chat_type="group")
    telegram.user_sends("/help")
    await finished(telegram, bot, 1)
    assert said(telegram, -5) == []


async def test_what_was_accepted_before_a_crash_is_answered_once_after_it(telegram: FakeTelegram, start: Callable):
    bot = await start(answering=False)
    telegram.user_sends(STORY)
    for _ in range(100):
        if await bot.column(Inbox.state) == ["queued"]:
            break
        await asyncio.sleep(0.05)
    await bot.stop()
    again = await start(max_tokens=20)
    await finished(telegram, again, 1)
    await asyncio.sleep(0.3)
    assert len(said(telegram)) == 1
    assert await again.column(Inbox.state) == ["done"]


async def test_a_crash_in_mid_answer_goes_on_in_the_same_message(telegram: FakeTelegram, start: Callable):
    bot = await start(max_tokens=600)
    telegram.user_sends(STORY)
    await telegram.wait_for(lambda: telegram.chat(7)[-1].edits >= 1, timeout=20)
    await bot.stop()
    again = await start(max_tokens=20)
    await finished(telegram, again, 1)
    assert len(said(telegram)) == 1
    assert len(await again.column(Message.id)) == 2


async def test_a_long_answer_comes_in_parts_and_in_order(telegram: FakeTelegram, start: Callable):
    bot = await start()
    telegram.open_chat(7)
    async with bot.db.write() as session:
        await outbox.add(session, [planned(Payload(7, f"part {n}")) for n in range(5)], now())
    await finished(telegram, bot, 5)
    assert said(telegram) == [f"part {n}" for n in range(5)]


async def plan(bot: Bot, telegram: FakeTelegram, *payloads: Payload) -> None:
    telegram.open_chat(7)
    async with bot.db.write() as session:
        await outbox.add(session, [planned(payload) for payload in payloads], now())
    await finished(telegram, bot, len(payloads))


async def test_a_pause_that_telegram_asks_for_is_kept(telegram: FakeTelegram, start: Callable):
    bot = await start()
    telegram.fail_next("sendMessage", Fault.RETRY_AFTER(1))
    await plan(bot, telegram, Payload(7, "one"), Payload(7, "two"))
    assert said(telegram) == ["one", "two"]


async def test_a_send_that_may_have_arrived_is_not_repeated(telegram: FakeTelegram, start: Callable):
    bot = await start()
    telegram.fail_next("sendMessage", Fault.DROP_AFTER)
    await plan(bot, telegram, Payload(7, "once"), Payload(7, "next"))
    assert said(telegram) == ["once", "next"]
    assert await bot.column(Outbox.state) == ["uncertain", "sent"]


async def test_an_edit_is_repeated_and_not_modified_is_success(telegram: FakeTelegram, start: Callable):
    bot = await start()
    await plan(bot, telegram, Payload(7, "draft"))
    message = telegram.chat(7)[-1].id
    telegram.fail_next("editMessageText", Fault.DROP_AFTER)
    async with bot.db.write() as session:
        await outbox.add(session, [planned(Payload(7, "final", edit=message))], now())
    await finished(telegram, bot, 2)
    assert said(telegram) == ["final"]
    assert await bot.column(Outbox.state) == ["sent", "sent"]
    telegram.violations.clear()  # the repeated edit is the point of this test


async def test_a_message_that_is_gone_is_sent_anew_and_a_block_is_final(telegram: FakeTelegram, start: Callable):
    bot = await start()
    await plan(bot, telegram, Payload(7, "here", edit=4711))
    assert said(telegram) == ["here"]
    telegram.block(7)
    async with bot.db.write() as session:
        await outbox.add(session, [planned(Payload(7, "gone"))], now())
    await finished(telegram, bot, 2)
    assert (await bot.column(Outbox.state))[-1] == "dead"


async def test_a_wrong_token_ends_the_service_with_its_one_line(telegram: FakeTelegram, start: Callable):
    bot = await start(token="123:wrong")
    with pytest.raises(TelegramRefused, match="BotFather"):
        await asyncio.wait_for(asyncio.shield(bot.tasks[0]), 10)


async def test_without_a_network_it_keeps_trying(telegram: FakeTelegram, start: Callable):
    telegram.fail_next("getMe", Fault.DROP_BEFORE, times=1)
    bot = await start()
    telegram.user_sends("/help")
    await finished(telegram, bot, 1)
    assert bot.adapter.state.ok

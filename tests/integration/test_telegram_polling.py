"""What comes in, who is let in, and how the bot says that it is; no model answers here."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator

import pytest
import telegram
from telegram.error import Conflict

from bot.clock import now
from bot.conversation import Turns
from bot.errors import ProxyInvalid, TelegramRefused
from bot.telegram.adapter import OTHER_POLLER
from bot.telegram.desk import Desk
from bot.telegram.intake import Intake
from bot.telegram.send import Payload
from storage import inbox, people
from storage.errors import DatabaseUnavailable
from storage.models import Conversation, Inbox, Outbox
from tests.fakes.telegram import FakeTelegram, Fault
from tests.fakes.telegram_rig import TOKEN, Rig, Start, methods, polling, said
from tests.fakes.telegram_types import Update

IMPOSTORS = [
    Fault.IMPOSTOR(status, body)
    for status, body in (
        (200, b"{}"),
        (200, b"[]"),
        (200, b"<html>Log in to this network</html>"),
        (200, b'{"ok":true}'),
        (200, b'{"ok":true,"result":{}}'),
        (200, b'{"ok":true,"result":[{}]}'),
        (200, b'{"ok":true,"result":["update"]}'),
        (404, b"<html>Not here</html>"),
        (502, b"[]"),
    )
]


@pytest.fixture
async def tg() -> AsyncIterator[FakeTelegram]:
    async with FakeTelegram(TOKEN) as fake:
        yield fake
        assert fake.violations == []


def intake_of(bot: Rig) -> Intake:
    """Another intake on the same database, as after a restart."""
    desk = Desk(bot.adapter._bot, bot.settings, bot.db, bot.deliveries, None)
    return Intake(bot.settings, bot.db, bot.turns, bot.deliveries, desk, demo=False)


def update(number: int, **message: object) -> telegram.Update:
    """An update as Telegram writes it."""
    ann = {"id": 7, "is_bot": False, "first_name": "Ann", "language_code": "en"}
    whole = {"message_id": number, "date": 1, "chat": {"id": 7, "type": "private"}, "from": ann, **message}
    return telegram.Update.de_json({"update_id": number, "message": whole})


PHOTO = {"photo": [{"file_id": "f", "file_unique_id": "u", "width": 1, "height": 1}]}


# What comes in.


async def test_commands_and_texts_come_in_the_users_language(tg: FakeTelegram, start: Start):
    for text in ("/start", "/help@dswbot_bot", "/stop", "/dance"):
        tg.user_sends(text)
    tg.user_sends("/help", user_id=8, language_code="zh-hans", name="Li")
    async with start(allowed=(8,)) as bot:
        await bot.until(Outbox.state, *["sent"] * 5)
    hello, help_, stop, unknown = said(tg)
    assert "Hello" in hello
    assert "dswbot model pull qwen3-4b" in hello
    assert "/new" in help_
    assert stop == "There is nothing to stop."
    assert "/help" in unknown
    assert "开始新对话" in said(tg, 8)[0]


async def test_pictures_are_declined_and_edits_and_groups_are_left_alone(tg: FakeTelegram, start: Start):
    tg.open_chat(7)
    async with start() as bot:
        tg.user_sends("Hi all", chat_id=-5, chat_type="group")
        intake = intake_of(bot)
        await intake.store(update(1, **PHOTO, caption="What is this?"))
        await intake.store(telegram.Update(2, edited_message=update(2, text="Hello!").message))
        await bot.until(Outbox.state, "sent")
        await tg.wait_for(lambda: not tg.pending)
        assert said(tg) == ["I can read text only."]
        assert said(tg, -5) == []
        assert await bot.column(Inbox.external_id) == ["123:1"]


async def test_an_album_is_declined_once(tg: FakeTelegram, start: Start):
    tg.open_chat(7)
    async with start() as bot:
        for number, album in ((1, "a"), (2, "a"), (3, "a"), (4, "b")):
            await intake_of(bot).store(update(number, **PHOTO, media_group_id=album))
        await bot.until(Outbox.state, "sent", "sent")
    assert said(tg) == ["I can read text only."] * 2


async def test_an_update_that_comes_again_changes_nothing(tg: FakeTelegram, start: Start):
    tg.open_chat(7)
    async with start() as bot:
        for _ in range(2):
            await intake_of(bot).store(update(1, text="Hello!"))
            await intake_of(bot).store(update(2, text="/new"))
            await intake_of(bot).store(update(3, text="Hello again!"))
        assert await bot.column(Inbox.external_id) == ["123:1", "123:2", "123:3"]
        assert await bot.column(Inbox.state) == ["queued", "done", "queued"]
        assert [closed is None for closed in await bot.column(Conversation.closed_at)] == [False, True]
        await bot.until(Outbox.state, "sent")
    assert len(said(tg)) == 1


async def test_a_batch_goes_on_from_the_message_that_the_database_refused(
    tg: FakeTelegram, start: Start, monkeypatch: pytest.MonkeyPatch
):
    numbers = [tg.user_sends(text) for text in ("One", "Two", "Three")]
    accept, calls = Turns.accept, []

    async def refused_once(self: Turns, incoming: inbox.Incoming) -> inbox.Accepted:
        calls.append(incoming.text)
        if len(calls) == 2:
            raise DatabaseUnavailable("The disk is full.")
        return await accept(self, incoming)

    monkeypatch.setattr(Turns, "accept", refused_once)
    async with start() as bot:
        await tg.wait_for(lambda: bot.adapter.state.reason == "The disk is full.")
        assert numbers[1] in {waiting.update_id for waiting in tg.pending}
        await bot.until(Inbox.text, "One", "Two", "Three")
        await tg.wait_for(lambda: not tg.pending)
    assert calls == ["One", "Two", "Two", "Three"]


async def test_a_stop_that_is_delivered_again_after_a_restart_stops_nothing(
    tg: FakeTelegram, start: Start, monkeypatch: pytest.MonkeyPatch
):
    stopped = []
    monkeypatch.setattr(Turns, "stop", lambda _turns, key: stopped.append(key) or True)
    async with start() as bot:
        await polling(tg)
        tg.fail_next("getUpdates", Fault.DROP_BEFORE, times=100)  # so that it is never confirmed
        tg.user_sends("/stop")
        await bot.until(Outbox.state, "sent")
    assert len(tg.pending) == 1
    tg._server.faults.clear()
    async with start() as bot:
        await tg.wait_for(lambda: not tg.pending)
        assert await bot.column(Outbox.state) == ["sent"]
    assert stopped == ["telegram:7"]
    assert said(tg) == ["Stopped."]


async def test_a_stop_whose_reply_can_not_be_stored_stops_once(
    tg: FakeTelegram, start: Start, monkeypatch: pytest.MonkeyPatch
):
    stopped, record, refusals = [], inbox.record, [DatabaseUnavailable("The disk is full.")]
    monkeypatch.setattr(Turns, "stop", lambda _turns, key: stopped.append(key) or len(stopped) == 1)

    async def refused_once(*arguments: object) -> bool:
        if refusals:
            raise refusals.pop()
        return await record(*arguments)

    monkeypatch.setattr(inbox, "record", refused_once)
    async with start() as bot:
        tg.user_sends("/stop")
        await bot.until(Outbox.state, "sent")
        tg.user_sends("/stop")
        await bot.until(Outbox.state, "sent", "sent")
    assert stopped == ["telegram:7"] * 2
    assert said(tg) == ["Stopped.", "There is nothing to stop."]


async def test_an_update_that_nobody_understands_does_not_hold_up_the_next(tg: FakeTelegram, start: Start):
    queue = tg._account.updates
    queue.pending.append(Update(queue._next_id, {"message_id": 1}))
    queue._next_id += 1
    tg.user_sends("/help")
    async with start():
        await tg.wait_for(lambda: len(said(tg)) == 1)
        await tg.wait_for(lambda: not tg.pending)


# Who is let in.


async def test_a_stranger_is_told_the_way_in_once_and_let_in_by_the_operator(tg: FakeTelegram, start: Start):
    for _ in range(3):
        tg.user_sends("Hi", user_id=99)
    async with start() as bot:
        await bot.until(Outbox.state, "sent")
        await tg.wait_for(lambda: not tg.pending)
        assert len(said(tg, 99)) == 1
        assert "dswbot telegram allow 99" in said(tg, 99)[0]
        async with bot.db.write() as session:
            await people.set_telegram_user(session, 99, allowed=True, now=now())
        tg.user_sends("Hi", user_id=99)
        await bot.until(Inbox.state, "done", "queued")


async def test_a_denial_wins_over_the_configuration_but_not_over_an_admin(tg: FakeTelegram, start: Start):
    async with start(allowed=(8,)) as bot:
        async with bot.db.write() as session:
            for user in (7, 8):
                await people.set_telegram_user(session, user, allowed=False, now=now())
        tg.user_sends("Hello!", user_id=8, language_code="zh-hans")
        tg.user_sends("Hello!", user_id=7)
        await bot.until(Inbox.state, "done", "queued")
        await bot.until(Outbox.state, "sent")
    assert "dswbot telegram allow 8" in said(tg, 8)[0]
    assert "不认识你" in said(tg, 8)[0]


async def test_the_configured_language_wins_over_the_users(tg: FakeTelegram, start: Start):
    tg.user_sends("/stop", language_code="en")
    async with start(language="zh"):
        await tg.wait_for(lambda: said(tg) == ["没有正在进行的回答。"])


# When polling fails.


@pytest.mark.parametrize("method", ["getMe", "getUpdates"])
@pytest.mark.parametrize("fault", [Fault.DROP_BEFORE, Fault.DROP_AFTER, Fault.SERVER_ERROR], ids=lambda f: f.name)
async def test_a_call_that_fails_loses_no_message(tg: FakeTelegram, start: Start, method: str, fault: Fault):
    tg.fail_next(method, fault)
    tg.user_sends("/help")
    async with start() as bot:
        await bot.until(Outbox.state, "sent")
        await tg.wait_for(lambda: bot.adapter.state.ok and not tg.pending)
    assert len(said(tg)) == 1


async def test_whatever_a_proxy_says_in_telegrams_place_is_a_failure_of_the_network(tg: FakeTelegram, start: Start):
    for method in ("getMe", "getUpdates"):
        for impostor in IMPOSTORS:
            tg.fail_next(method, impostor)
    tg.user_sends("/help")
    async with start() as bot:
        await tg.wait_for(lambda: "in Telegram's place" in bot.adapter.state.reason)
        await bot.until(Outbox.state, "sent")
        assert bot.adapter.state.ok
    for method in ("getMe", "getUpdates"):
        outcomes = [call.outcome for call in tg.calls if call.method == method]
        assert outcomes[: len(IMPOSTORS) + 1] == ["nothing"] * len(IMPOSTORS) + ["ok"]


async def test_that_the_network_is_back_shows_at_once_although_nobody_writes(tg: FakeTelegram, start: Start):
    async with start() as bot:
        assert bot.adapter.state.age is None
        await polling(tg)
        await tg.wait_for(lambda: bot.adapter.state.ok, timeout=2)
        tg.fail_next("getUpdates", Fault.SERVER_ERROR, times=2)
        tg.user_sends("/help")  # ends the poll that waits; the next two fail
        failed = await tg.wait_for(lambda: not bot.adapter.state.ok and bot.adapter.state)
        assert 0 <= failed.age < 5
        await tg.wait_for(lambda: bot.adapter.state.ok, timeout=2)
        assert bot.adapter.state.age < failed.age
        await tg.wait_for(lambda: tg.calls[-1].outcome == "pending")
    assert [call.params["timeout"] for call in tg.calls if call.method == "getUpdates"][-4:] == ["25", "0", "0", "25"]


async def test_a_network_that_is_away_fails_nothing(start: Start):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        async with start(base_url=f"http://127.0.0.1:{nobody.getsockname()[1]}/bot") as bot:
            while not bot.adapter.state.reason:
                await asyncio.sleep(0.01)
            assert not bot.adapter.state.ok
            assert not bot.polling.done()


async def test_another_process_with_the_same_token_is_named(tg: FakeTelegram, start: Start):
    async with start() as bot, telegram.Bot(TOKEN, base_url=tg.base_url) as other:
        await polling(tg)
        poll = asyncio.create_task(other.get_updates(timeout=20))
        await tg.wait_for(lambda: bot.adapter.state.reason == OTHER_POLLER)
        assert not bot.adapter.state.ok
        with pytest.raises(Conflict):  # ours tries again, and that ends theirs
            await poll
        assert not bot.adapter.state.ok, "a poll that waits will show whether they are gone"
        tg.user_sends("/help")
        await bot.until(Outbox.state, "sent")
        assert bot.adapter.state.ok
    tg.violations.clear()  # two pollers are the point of this test


async def test_a_webhook_that_is_still_set_is_removed(tg: FakeTelegram, start: Start):
    async with telegram.Bot(TOKEN, base_url=tg.base_url) as other:
        await other.set_webhook("https://example.org/hook")
    tg.user_sends("/help")
    async with start():
        await tg.wait_for(lambda: said(tg))


async def test_a_flood_limit_on_polling_is_obeyed(tg: FakeTelegram, start: Start):
    tg.fail_next("getUpdates", Fault.RETRY_AFTER(1))
    tg.user_sends("/help")
    async with start():
        await tg.wait_for(lambda: len(said(tg)) == 1)  # a poll before the second is over would be a violation


async def test_a_stale_connection_is_made_anew(tg: FakeTelegram, start: Start, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bot.telegram.adapter.STALE", 0.0)
    tg.fail_next("getUpdates", Fault.SERVER_ERROR)
    async with start() as bot:
        polls = bot.adapter._connection._polls
        before = polls._client
        tg.user_sends("/help")
        await tg.wait_for(lambda: len(said(tg)) == 1)
        assert polls._client is not before
        assert before.is_closed


# The proxy, and the token.


async def test_everything_goes_through_the_proxy(tg: FakeTelegram, start: Start):
    proxy = tg.base_url.removesuffix("/bot")  # the fake also answers calls that are addressed to somebody else
    tg.user_sends("/help")
    async with start(base_url="http://telegram.invalid/bot", proxy=proxy) as bot:
        await tg.wait_for(lambda: said(tg))
        await bot.plan(Payload(7, "changed", edit=tg.chat(7)[-1].id))
        await bot.until(Outbox.state, "sent", "sent")
    assert set(methods(tg)) >= {"getMe", "getUpdates", "sendMessage", "editMessageText"}


@pytest.mark.parametrize("proxy", ["10.0.0.1:8080", "http://h:x", "http://[::1", "socks4://h:1", "http://\x01"])
async def test_a_proxy_that_is_none_is_refused_by_name(start: Start, proxy: str):
    with pytest.raises(ProxyInvalid, match=r"^telegram\.proxy .*$"):
        async with start(proxy=proxy):
            pass


async def test_the_token_is_never_logged(
    tg: FakeTelegram, start: Start, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    for name in ("httpx", "httpcore", "telegram"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.NOTSET)
    caplog.set_level(logging.DEBUG)
    page = f"<html>{tg.base_url}{TOKEN}/getUpdates is blocked</html>".encode()
    for method in ("getMe", "getUpdates"):
        tg.fail_next(method, Fault.IMPOSTOR(200, page))
        tg.fail_next(method, Fault.IMPOSTOR(403, page))
    tg.fail_next("getMe", Fault.SERVER_ERROR)
    tg.fail_next("getUpdates", Fault.DROP_BEFORE)
    tg.fail_next("sendMessage", Fault.DROP_AFTER)
    tg.user_sends("/help")
    async with start() as bot:
        await bot.until(Outbox.state, "uncertain")
    async with start(token="123:wrong") as bot:
        with pytest.raises(TelegramRefused, match="BotFather") as refused:
            await asyncio.wait_for(asyncio.shield(bot.polling), 10)
    output = caplog.text + "".join(capfd.readouterr()) + repr(refused.value) + repr(refused.value.__context__)
    assert "connected to Telegram" in output
    assert TOKEN not in output
    assert "123:wrong" not in output

"""Operators in Telegram: notices with buttons, presses and their orders, commands and pictures, each once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from functools import partial
from zoneinfo import ZoneInfo

import msgspec
import pytest
from structlog.testing import capture_logs

from bot.clock import now
from bot.money.notice import Kind, Notice
from bot.money.operator import CostAnswer, Operator
from bot.money.situation import Memory, Reminder, Rules, State
from bot.telegram.send import Button, Payload
from storage import orders, outbox, watches
from storage.database import Database
from storage.errors import DatabaseUnavailable
from storage.models import Alert, Inbox, Order, Outbox
from tests.fakes.telegram import FakeTelegram, Fault
from tests.fakes.telegram_photos import png
from tests.fakes.telegram_rig import TOKEN, Rig, Start, methods, polling, said

INSTANCE = "dsw-0123456789abcdef"
SHANGHAI = ZoneInfo("Asia/Shanghai")
NOON = datetime(2026, 11, 24, 4, tzinfo=UTC)  # in Shanghai
STOPS = Rules(action="stop", allow_stop=True, dry_run=False)
IDLE = Memory(state=State.IDLE, epoch=7, idle_since=NOON - timedelta(minutes=31))
TEXT = "The GPU has been idle for 31 min."

Working = Callable[..., AbstractAsyncContextManager[Rig]]


@pytest.fixture
async def tg() -> AsyncIterator[FakeTelegram]:
    async with FakeTelegram(TOKEN) as fake:
        fake.open_chat(7)
        yield fake
        assert fake.violations == []


@pytest.fixture(autouse=True)
def noon(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is noon for those who are asked; the outbox keeps real time."""
    monkeypatch.setattr("bot.money.operator.now", lambda: NOON)


async def drawn() -> bytes:
    return png(40, 30)


async def cost(language: str, _at: datetime, draw: Callable[[], Awaitable[bytes]] = drawn) -> CostAnswer:
    chinese = language.startswith("zh")
    return CostAnswer("花费 ¥3.20\n空闲 20 %\n还剩 12" if chinese else "Cost ¥3.20\nidle 20 %\n12 left",
                      "今天：¥1.10。" if chinese else "Today: ¥1.10.", draw)  # fmt: skip


def operator(db: Database, rules: Rules = STOPS, cost: object = cost) -> Operator:
    return Operator(db, INSTANCE, rules, SHANGHAI, cost)


@pytest.fixture
def work(start: Start) -> Working:
    """A bot whose admins look after an instance, on SQLite."""
    return partial(start, operator=operator)


async def remember(bot: Rig, memory: Memory, reason: str = "not in use: no message waits (requests)") -> None:
    """The watch has decided so."""
    async with bot.db.write() as session:
        turn = await watches.take_turn(session, INSTANCE, "watch", NOON, timedelta(minutes=1))
        await watches.decide(session, turn, msgspec.json.encode(memory).decode(), reason, NOON)


async def notify(bot: Rig, kind: str = Reminder.IDLE, language: str = "en", **changes: object) -> None:
    """A notice with its buttons, once it is in the chat."""
    notice = Notice(kind=kind, key="k", instance=INSTANCE, epoch=7, at=NOON, reason="", stoppable=True)
    notice = msgspec.structs.replace(notice, **changes)
    shown = len(said(bot.telegram))
    async with bot.db.write() as session:
        await outbox.add(session, bot.adapter.announce(TEXT, operator(bot.db).keyboard(notice, language)), now())
    bot.deliveries.wake()
    await bot.telegram.wait_for(lambda: len(said(bot.telegram)) > shown)


async def noticed(bot: Rig, memory: Memory = IDLE) -> None:
    await remember(bot, memory)
    await notify(bot)


async def toast(tg: FakeTelegram) -> str:
    """The newest one, once every press is confirmed and answered."""
    await tg.wait_for(lambda: not tg.pending and tg.toasts)
    return tg.toasts[-1][1]


async def placed(bot: Rig) -> list[orders.Order]:
    async with bot.db.read() as session:
        return list(await orders.waiting(session, INSTANCE))


def last(tg: FakeTelegram) -> tuple[str, tuple[tuple[str, ...], ...]]:
    """What the newest message says, and its buttons."""
    return tg.chat(7)[-1].text, tg.chat(7)[-1].buttons


CHOICES = (("Stop now", "30 more min"), ("2 h", "Until 18:00", "Until tomorrow 09:00"), ("Mute today",))


# Buttons.


async def test_every_admin_gets_the_notice_with_its_buttons(tg: FakeTelegram, work: Working):
    tg.open_chat(8)
    async with work(admins=(7, 8)) as bot:
        await notify(bot)
        await tg.wait_for(lambda: said(tg, 8))
        assert [(one.text, one.buttons) for chat in (7, 8) for one in tg.chat(chat)] == [(TEXT, CHOICES)] * 2


async def test_a_press_is_one_order_a_toast_and_a_line_without_buttons(
    tg: FakeTelegram, start: Start, db_url: str, dialect: str
):
    async with start(operator=operator, url=db_url) as bot:
        await noticed(bot)
        tg.user_presses("30 more min", name="Li")
        assert await toast(tg) == "Held until 12:30 (Asia/Shanghai)."
        await tg.wait_for(lambda: last(tg) == (f"{TEXT}\n\nHeld until 12:30 (Asia/Shanghai) by Li", ()))
        (order,) = await placed(bot)
        assert (order.kind, order.until, order.placed_by) == ("hold", NOON + timedelta(minutes=30), "Li")
        assert bot.db.dialect == dialect
    assert methods(tg).count("answerCallbackQuery") == 1


@pytest.mark.parametrize(
    ("button", "kind", "until", "line"),
    [
        ("2 h", "hold", NOON + timedelta(hours=2), "保持运行到 14:00 (Asia/Shanghai)（Ann）"),
        ("到 18:00", "hold", NOON + timedelta(hours=6), "保持运行到 18:00 (Asia/Shanghai)（Ann）"),
        ("到明天 09:00", "hold", NOON + timedelta(hours=21), "保持运行到 11月25日 09:00 (Asia/Shanghai)（Ann）"),
        ("今天不再提醒", "mute", NOON + timedelta(hours=12), "11月25日 00:00 (Asia/Shanghai) 之前不再提醒（Ann）"),
    ],
)
async def test_each_choice_does_what_it_says_in_the_pressers_language(
    tg: FakeTelegram, work: Working, button: str, kind: str, until: datetime, line: str
):
    async with work() as bot:
        await remember(bot, IDLE)
        await notify(bot, language="zh")
        tg.user_presses(button.replace("2 h", "2 小时"), language_code="zh-hans")
        await tg.wait_for(lambda: last(tg) == (f"{TEXT}\n\n{line}", ()))
        assert [(order.kind, order.until) for order in await placed(bot)] == [(kind, until)]


async def test_a_button_that_is_pressed_twice_is_one_order(tg: FakeTelegram, work: Working):
    async with work() as bot:
        await noticed(bot)
        for _ in range(2):
            tg.user_presses("30 more min")
        assert await toast(tg) == "That is noted already."
        await tg.wait_for(lambda: not last(tg)[1])
        assert len(await placed(bot)) == 1
    assert [call.method for call in tg.calls if call.method.startswith("edit")] == ["editMessageText"]


async def test_a_stop_is_asked_for_twice_and_may_be_taken_back(tg: FakeTelegram, work: Working):
    async with work() as bot:
        await noticed(bot)
        tg.user_presses("Stop now")
        assert await toast(tg) == "Really stop it? Choose below."
        await tg.wait_for(lambda: last(tg) == (TEXT, (("Yes, stop it", "No"),)))
        tg.user_presses("No")
        await tg.wait_for(lambda: last(tg) == (TEXT, CHOICES))
        assert await toast(tg) == "Nothing is stopped."
        tg.user_presses("Stop now")
        await tg.wait_for(lambda: last(tg)[1] == (("Yes, stop it", "No"),))
        assert await placed(bot) == []
        tg.user_presses("Yes, stop it", name="Li")
        await tg.wait_for(lambda: last(tg) == (f"{TEXT}\n\nStop asked for at 12:00 (Asia/Shanghai) by Li", ()))
        assert [order.kind for order in await placed(bot)] == ["stop"]


async def test_what_is_in_use_is_stopped_only_by_who_was_told_so(tg: FakeTelegram, work: Working):
    async with work() as bot:
        await remember(bot, Memory(state=State.ACTIVE, epoch=7), "in use: 2 answers under way (requests)")
        await notify(bot, Kind.BUDGET)
        tg.user_presses("Stop now")
        question = "Wait: in use: 2 answers under way (requests). Stop it all the same? Choose below."
        assert await toast(tg) == question
        await tg.wait_for(lambda: last(tg)[1] == (("Yes, stop it", "No"),))
        tg.user_presses("Yes, stop it")
        await tg.wait_for(lambda: not last(tg)[1])
        assert [order.kind for order in await placed(bot)] == ["force"]


async def test_an_old_notice_stops_nothing_and_still_holds(tg: FakeTelegram, work: Working):
    async with work() as bot:
        await noticed(bot)
        tg.user_presses("Stop now")
        await tg.wait_for(lambda: last(tg)[1] == (("Yes, stop it", "No"),))
        await remember(bot, Memory(state=State.IDLE, epoch=8))  # it was used, and is idle again
        tg.user_presses("Yes, stop it")
        assert "notice is old" in await toast(tg)
        await tg.wait_for(lambda: last(tg) == (TEXT, (("30 more min",), *CHOICES[1:])))
        tg.user_presses("2 h")
        await tg.wait_for(lambda: not last(tg)[1])
        assert [order.kind for order in await placed(bot)] == ["hold"]


async def test_a_stopped_instance_is_woken_by_its_receipt(tg: FakeTelegram, work: Working):
    async with work() as bot:
        await remember(bot, Memory(state=State.STOPPED, epoch=7))
        await notify(bot, Kind.STOPPED)
        assert last(tg)[1] == (("Wake it",),)
        tg.user_presses("Wake it", name="Li")
        assert await toast(tg) == "It is being woken; that takes some minutes."
        await tg.wait_for(lambda: last(tg) == (f"{TEXT}\n\nWoken at 12:00 (Asia/Shanghai) by Li", ()))
        assert [order.kind for order in await placed(bot)] == ["wake"]


# Who may press.


async def test_a_stranger_and_who_presses_in_anothers_chat_are_refused(tg: FakeTelegram, work: Working):
    async with work(admins=(7, 8), allowed=(9,)) as bot:
        tg.open_chat(8)
        await noticed(bot)
        for user, language in ((9, "en"), (99, "zh"), (8, "en")):
            tg.user_presses("30 more min", user_id=user, chat_id=7, language_code=language)
        await tg.wait_for(lambda: len(tg.toasts) == 3)
        assert tg.toasts == [
            (9, "Only an operator can do that."), (99, "只有管理员可以这样做。"), (8, "This message is not yours."),
        ]  # fmt: skip
        assert await placed(bot) == []
        assert await bot.column(Alert.key) == []
    assert last(tg) == (TEXT, CHOICES)


async def test_buttons_of_others_and_of_what_is_gone_do_nothing(tg: FakeTelegram, work: Working, start: Start):
    async with work() as bot:
        await remember(bot, IDLE)
        await bot.plan(Payload(7, TEXT, buttons=((Button("Dance", "op:dance"),),)))
        await tg.wait_for(lambda: said(tg))
        tg.user_presses("Dance")
        assert await toast(tg) == "This button does nothing any more."
        await tg.wait_for(lambda: last(tg) == (TEXT, ()))
        await notify(bot)
    async with start() as bot:  # without an instance
        tg.user_presses("30 more min")
        await tg.wait_for(lambda: len(tg.toasts) == 2)
        assert await toast(tg) == "This button does nothing any more."
        assert await bot.column(Order.kind) == []


# Once, whatever fails.


async def test_a_press_that_comes_again_after_a_crash_is_one_order_and_one_edit(tg: FakeTelegram, work: Working):
    async with work() as bot:
        await noticed(bot)
        await polling(tg)
        tg.fail_next("getUpdates", Fault.DROP_BEFORE, times=100)  # so that it is never confirmed
        tg.fail_next("answerCallbackQuery", Fault.DROP_BEFORE)
        tg.user_presses("30 more min")
        await tg.wait_for(lambda: not last(tg)[1])
        await bot.until(Outbox.state, "sent", "sent")  # else the crash may come before that is known
    assert len(tg.pending) == 1
    tg._server.faults.clear()
    async with work() as bot:
        assert await toast(tg) == "That is noted already."
        assert len(await placed(bot)) == 1
        assert await bot.column(Outbox.state) == ["sent", "sent"]
    assert tg.chat(7)[-1].edits == 1


async def test_a_press_waits_for_a_database_that_is_away(
    tg: FakeTelegram, work: Working, monkeypatch: pytest.MonkeyPatch
):
    place, refusals = orders.place, [DatabaseUnavailable("The disk is full.")]

    async def refused_once(*arguments: object) -> bool:
        if refusals:
            raise refusals.pop()
        return await place(*arguments)

    monkeypatch.setattr(orders, "place", refused_once)
    async with work() as bot:
        await noticed(bot)
        with capture_logs() as events:
            tg.user_presses("30 more min")
            assert await toast(tg) == "Held until 12:30 (Asia/Shanghai)."
        assert "The disk is full." in {event.get("reason") for event in events}
        assert len(await placed(bot)) == 1
        await tg.wait_for(lambda: not last(tg)[1])


async def test_a_press_that_telegram_has_forgotten_counts_all_the_same(start: Start):
    async with FakeTelegram(TOKEN, callback_ttl=0) as tg:
        tg.open_chat(7)
        with capture_logs() as events:
            async with start(operator=operator, base_url=tg.base_url) as bot:
                bot.telegram = tg
                await noticed(bot)
                tg.user_presses("30 more min")
                await tg.wait_for(lambda: not last(tg)[1])
                assert len(await placed(bot)) == 1
        assert tg.toasts == []
        (told,) = [event for event in events if event["event"] == "a press could not be answered"]
        assert told["log_level"] == "info"
        assert "too old" in told["reason"].lower()


async def test_of_an_old_message_the_buttons_go_and_the_line_comes_by_itself(tg: FakeTelegram, work: Working):
    async with work() as bot:
        await noticed(bot)
        tg.user_presses("30 more min", old=True)
        await tg.wait_for(lambda: len(said(tg)) == 2)
        assert said(tg) == [TEXT, "Held until 12:30 (Asia/Shanghai) by Ann"]
        assert tg.chat(7)[0].buttons == ()


async def test_the_line_comes_after_what_waits_in_the_chat(tg: FakeTelegram, work: Working):
    async with work() as bot:
        await noticed(bot)
        tg.fail_next("sendMessage", Fault.RETRY_AFTER(1))
        await bot.plan(Payload(7, "By the way."))
        await tg.wait_for(lambda: methods(tg).count("sendMessage") == 2)
        tg.user_presses("30 more min")
        await toast(tg)
        await tg.wait_for(lambda: not tg.chat(7)[0].buttons)
        assert said(tg)[1:] == ["By the way."]


async def test_a_notice_that_fills_a_message_keeps_its_line(tg: FakeTelegram, work: Working):
    async with work() as bot:
        await remember(bot, IDLE)
        buttons = operator(bot.db)._buttons.choices(7, "en", NOON, stop=True)
        async with bot.db.write() as session:
            await outbox.add(session, bot.adapter.announce("x" * 4096, buttons), now())
        await tg.wait_for(lambda: said(tg))
        tg.user_presses("30 more min")
        await tg.wait_for(lambda: not last(tg)[1])
        assert last(tg)[0].endswith("xx…\n\nHeld until 12:30 (Asia/Shanghai) by Ann")
        assert len(last(tg)[0]) == 4096


# Commands.


async def test_the_state_is_told_with_what_can_be_done(tg: FakeTelegram, work: Working):
    async with work() as bot:
        await remember(bot, IDLE)
        tg.user_sends("/status")
        await tg.wait_for(lambda: said(tg))
        assert last(tg)[0].splitlines() == [
            "Idle", "Why: not in use: no message waits (requests).",
            "Idle since 11:29 (Asia/Shanghai), for 31 min.", "Today: ¥1.10.",
        ]  # fmt: skip
        assert last(tg)[1] == CHOICES
        tg.user_presses("2 h")
        await tg.wait_for(lambda: not last(tg)[1])
        assert len(await placed(bot)) == 1


async def test_a_state_is_told_although_its_cost_can_not_be(tg: FakeTelegram, start: Start):
    async def broken(_language: str, _at: datetime) -> CostAnswer:
        raise ZeroDivisionError

    async with start(operator=partial(operator, cost=broken)) as bot:
        await remember(bot, Memory(state=State.STOPPED), "DSW says Stopped")
        for number, text in enumerate(("/status", "/cost"), 1):
            tg.user_sends(text, language_code="zh")
            await tg.wait_for(lambda number=number: len(said(tg)) == number)
        assert tg.chat(7)[1].buttons == (("唤醒",),)
        assert said(tg) == [
            "已停止\n原因：DSW says Stopped。\n接下来：有消息时会被唤醒。\n暂时无法给出今天的费用，原因见日志。",
            "暂时无法给出 GPU 的费用，原因见日志。",
        ]


async def test_holds_and_their_end_by_command(tg: FakeTelegram, work: Working):
    async with work() as bot:
        await remember(bot, IDLE)
        for text in ("/hold 2h", "/hold", "/hold 18：00", "/release"):
            tg.user_sends(text)
        await tg.wait_for(lambda: len(said(tg)) == 4)
        first, usage, second, end = said(tg)
        assert (first, second) == ("Held until 14:00 (Asia/Shanghai).", "Held until 18:00 (Asia/Shanghai).")
        assert "/hold 30m" in usage
        assert "idle time counts again" in end
        assert [(order.kind, order.until) for order in await placed(bot)] == [
            ("hold", NOON + timedelta(hours=2)), ("hold", NOON + timedelta(hours=6)), ("release", None),
        ]  # fmt: skip


@pytest.mark.parametrize("command", ["/cost", "/status", "/hold 1h", "/release"])
async def test_a_command_that_comes_again_after_a_crash_is_answered_once(tg: FakeTelegram, work: Working, command: str):
    async with work() as bot:
        await remember(bot, IDLE)
        await polling(tg)
        tg.fail_next("getUpdates", Fault.DROP_BEFORE, times=100)  # so that it is never confirmed
        tg.user_sends(command)
        await bot.until(Outbox.state, "sent")
        known = await placed(bot)
    assert len(tg.pending) == 1
    tg._server.faults.clear()
    async with work() as bot:
        await tg.wait_for(lambda: not tg.pending)
        assert await placed(bot) == known
        assert await bot.column(Outbox.state) == ["sent"]
    assert len(said(tg)) == 1


async def test_what_operators_do_is_no_use_of_the_gpu(tg: FakeTelegram, work: Working):
    async with work() as bot:
        await noticed(bot)
        for text in ("/status", "/cost", "/hold 1h", "/release"):
            tg.user_sends(text)
        tg.user_presses("Mute today")
        await tg.wait_for(lambda: not tg.chat(7)[0].buttons and len(said(tg)) == 5)
        assert await bot.column(Inbox.id) == []


async def test_others_know_nothing_of_these_commands(tg: FakeTelegram, work: Working):
    tg.open_chat(8)
    async with work(allowed=(8,)) as bot:
        await remember(bot, IDLE)
        for text in ("/cost", "/status", "/hold 2h", "/release", "/help"):
            tg.user_sends(text, user_id=8)
        tg.user_sends("/help")
        await tg.wait_for(lambda: len(said(tg, 8)) == 5 and said(tg))
        *refused, help_ = said(tg, 8)
        assert {"I don't know that command" in text for text in refused} == {True}
        assert "/cost" not in help_
        assert "/cost" in said(tg)[0]
        assert await placed(bot) == []
        assert tg.menu(7).keys() == {"new", "stop", "help", "status", "cost", "hold", "release"}
        assert tg.menu(7, "zh-hans")["hold"] == "保持运行"
        assert tg.menu(8).keys() == {"new", "stop", "help"}


# Pictures.


@pytest.mark.parametrize(("language", "caption"), [("en", "Cost ¥3.20"), ("zh-hans", "花费 ¥3.20")])
async def test_the_cost_comes_as_a_picture_with_three_lines(
    tg: FakeTelegram, work: Working, language: str, caption: str
):
    async with work() as bot:
        tg.user_sends("/cost", language_code=language)
        await bot.until(Outbox.state, "sent")
        assert len((await bot.column(Outbox.payload))[0]) < 300
    (_, shown) = tg.chat(7)
    assert shown.photo == png(40, 30)
    assert shown.text.startswith(caption)
    assert shown.text.count("\n") == 2


async def refuse_to_draw() -> bytes:
    raise ValueError("no font")


async def draw_for_ever() -> bytes:
    await asyncio.Event().wait()
    return b""


async def draw_rubbish() -> bytes:
    return b"no picture"


@pytest.mark.parametrize("draw", [refuse_to_draw, draw_for_ever, draw_rubbish])
async def test_without_its_picture_the_text_goes_alone(
    tg: FakeTelegram, start: Start, monkeypatch: pytest.MonkeyPatch, draw: Callable[[], Awaitable[bytes]]
):
    monkeypatch.setattr("bot.telegram.send.DRAWING", 0.1)
    async with start(operator=partial(operator, cost=partial(cost, draw=draw))) as bot:
        tg.user_sends("/cost")
        await bot.until(Outbox.state, "sent")
    assert said(tg) == ["Cost ¥3.20\nidle 20 %\n12 left"]
    assert tg.chat(7)[-1].photo is None


async def test_a_picture_waits_for_a_database_that_is_away(tg: FakeTelegram, start: Start):
    failures = [DatabaseUnavailable("The disk is full.")]

    async def away_once(language: str, at: datetime) -> CostAnswer:
        if failures:
            raise failures.pop()
        return await cost(language, at)

    async with start(operator=partial(operator, cost=away_once)) as bot:
        tg.user_sends("/cost")
        await bot.until(Outbox.state, "sent")
    assert tg.chat(7)[-1].photo
    assert len(said(tg)) == 1


@pytest.mark.parametrize("fault", [Fault.DROP_AFTER, Fault.SERVER_ERROR], ids=lambda fault: fault.name)
async def test_a_picture_that_may_have_arrived_is_not_sent_again(tg: FakeTelegram, work: Working, fault: Fault):
    tg.fail_next("sendPhoto", fault)
    async with work() as bot:
        tg.user_sends("/cost")
        await bot.until(Outbox.state, "uncertain")
        await tg.wait_for(lambda: not tg.pending)
    assert len(said(tg)) == (fault == Fault.DROP_AFTER)
    assert methods(tg).count("sendPhoto") == 1
    assert "sendMessage" not in methods(tg)

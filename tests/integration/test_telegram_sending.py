"""What goes out: the live view, played by the test instead of a model, and the outbox. Nothing is sent twice."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest

from bot.clock import now
from bot.live import LiveTurn, Outcome
from bot.telegram.send import Payload
from bot.telegram.stream import UNKNOWN
from inference.protocol import Chunk, Usage
from storage import inbox, outbox
from storage.inbox import Claim, Incoming
from storage.models import Inbox, Outbox
from tests.fakes.telegram import FakeTelegram, Fault
from tests.fakes.telegram_rig import Rig, Start, methods, said
from tests.fakes.telegram_rules import Formatted

NUMBERS = itertools.count(1000)


@pytest.fixture
async def tg() -> AsyncIterator[FakeTelegram]:
    async with FakeTelegram() as fake:
        fake.open_chat(7)
        fake.open_chat(8)
        yield fake
        assert fake.violations == []


def placed(tg: FakeTelegram, chat: int = 7) -> int:
    """A live message that is there already."""
    return tg._account.post(tg.open_chat(chat), tg._account.me, Formatted("…")).message_id


async def claimed(bot: Rig) -> Claim:
    """A message of chat 7 whose turn has begun."""
    meta = '{"chat_id":7,"language":"en"}'
    await bot.turns.accept(Incoming("telegram", f"123:{next(NUMBERS)}", "telegram:7", "Hi", meta=meta))
    async with bot.db.write() as session:
        (claim,) = await inbox.claim(session, "test", now(), timedelta(minutes=1), channels=["telegram"])
    return claim


def begun(claim: Claim) -> LiveTurn:
    live = LiveTurn(claim.id)
    live.begin(claim, None)
    return live


async def deliver(bot: Rig, claim: Claim, live: LiveTurn) -> None:
    """Ends the turn as `Turns` does."""
    outcome = Outcome(live.text, "", "stop", Usage(0, 0, 0), now(), now())
    seen = replace(claim, placeholder=live.placeholder or claim.placeholder)
    async with bot.db.write() as session:
        await outbox.add(session, bot.turns.channels["telegram"].deliveries(seen, outcome), now())
    bot.deliveries.wake()


# The live view.


async def test_edits_keep_their_distance_and_show_what_is_there(tg: FakeTelegram, start: Start):
    async with start() as bot:
        live = begun(await claimed(bot))
        shown = asyncio.create_task(bot.turns.channels["telegram"].show(live))
        for _ in range(50):
            live.add(Chunk(1, text="a fox, "))
            await asyncio.sleep(0.02)
        live.complete()
        await shown
    edits = [call for call in tg.calls if call.method == "editMessageText"]
    assert 4 <= len(edits) <= 10
    assert all(later.time - earlier.time > 0.09 for earlier, later in pairwise(edits))
    assert all(text.startswith("a fox") and "…" not in text for text in said(tg))


async def test_a_pause_in_the_live_view_holds_the_answer_back_too(tg: FakeTelegram, start: Start):
    async with start() as bot:
        claim = await claimed(bot)
        live = begun(claim)
        shown = asyncio.create_task(bot.turns.channels["telegram"].show(live))
        tg.fail_next("editMessageText", Fault.RETRY_AFTER(1))
        live.add(Chunk(1, text="One"))
        await tg.wait_for(lambda: methods(tg)[-1] == "editMessageText")
        frozen = tg.calls[-1].time
        live.add(Chunk(1, text=" and two."))
        live.complete()
        await shown
        await deliver(bot, claim, live)
        await bot.until(Outbox.state, "sent")
        assert said(tg) == ["One and two."]
        assert tg.calls[-1].time - frozen >= 1
        assert await bot.column(Inbox.placeholder) == [live.placeholder]


async def test_a_pause_asked_of_another_message_holds_the_live_view_back(tg: FakeTelegram, start: Start):
    async with start() as bot:
        live = begun(await claimed(bot))
        shown = asyncio.create_task(bot.turns.channels["telegram"].show(live))
        live.add(Chunk(1, text="One"))
        await tg.wait_for(lambda: said(tg) == ["One"])
        tg.fail_next("sendMessage", Fault.RETRY_AFTER(1))
        await bot.plan(Payload(7, "By the way."))
        await tg.wait_for(lambda: methods(tg)[-1] == "sendMessage")
        asked = tg.calls[-1].time
        for _ in range(15):
            live.add(Chunk(1, text=" more"))
            await asyncio.sleep(0.1)
        await tg.wait_for(lambda: methods(tg)[-1] == "editMessageText")
        assert all(call.time - asked >= 1 for call in tg.calls if call.time > asked)
        live.complete()
        await shown


async def test_thinking_is_announced_and_not_shown(tg: FakeTelegram, start: Start):
    async with start() as bot:
        live = begun(await claimed(bot))
        shown = asyncio.create_task(bot.turns.channels["telegram"].show(live))
        live.add(Chunk(1, reasoning="The user wants a fox."))
        await tg.wait_for(lambda: said(tg) == ["Thinking…"])
        live.complete()
        await shown


async def test_somebody_who_has_blocked_the_bot_spoils_no_turn(tg: FakeTelegram, start: Start):
    tg.block(7)
    async with start() as bot:
        live = begun(await claimed(bot))
        await bot.turns.channels["telegram"].show(live)
        assert live.placeholder is None


@pytest.mark.parametrize(
    ("fault", "left_behind", "noted"),
    [
        (Fault.DROP_BEFORE, [], UNKNOWN),
        (Fault.DROP_AFTER, ["…"], UNKNOWN),  # its number is not known, so it can't be edited or deleted
        (Fault.SERVER_ERROR, [], UNKNOWN),
        (Fault.IMPOSTOR(200, b"{}"), [], UNKNOWN),
        (Fault.RETRY_AFTER(1), [], None),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
async def test_an_answer_whose_live_view_could_not_begin_comes_whole_and_once(
    tg: FakeTelegram, start: Start, fault: Fault, left_behind: list[str], noted: str | None
):
    tg.fail_next("sendMessage", fault)
    async with start() as bot:
        claim = await claimed(bot)
        live = begun(claim)
        await bot.turns.channels["telegram"].show(live)
        assert live.placeholder == noted
        assert await bot.column(Inbox.placeholder) == [noted]
        live.add(Chunk(1, text="The answer."))
        await deliver(bot, claim, live)
        await bot.until(Outbox.state, "sent")
    assert said(tg) == [*left_behind, "The answer."]
    assert methods(tg).count("sendMessage") == 2


async def test_a_live_message_that_may_be_there_is_not_sent_again_by_the_next_try(tg: FakeTelegram, start: Start):
    async with start() as bot:
        claim = replace(await claimed(bot), placeholder=UNKNOWN)
        live = begun(claim)
        await bot.turns.channels["telegram"].show(live)
        assert methods(tg).count("sendMessage") == 0
        live.add(Chunk(1, text="The answer."))
        await deliver(bot, claim, live)
        await bot.until(Outbox.state, "sent")
    assert said(tg) == ["The answer."]


# The outbox.


async def test_deliveries_to_a_chat_come_in_order(tg: FakeTelegram, start: Start):
    async with start() as bot:
        await bot.plan(*[Payload(7, f"part {n}") for n in range(5)])
        await bot.until(Outbox.state, *["sent"] * 5)
    assert said(tg) == [f"part {n}" for n in range(5)]


async def test_a_long_answer_takes_the_live_messages_place_and_goes_on(tg: FakeTelegram, start: Start):
    text = "\n\n".join(f"{number}: " + "a fox, " * 20 for number in range(60))
    assert 8192 < len(text) < 3 * 4096
    async with start() as bot:
        claim = replace(await claimed(bot), placeholder=str(placed(tg)))
        live = begun(claim)
        live.add(Chunk(1, text=text))
        await deliver(bot, claim, live)
        await bot.until(Outbox.state, *["sent"] * 3)
    assert [part.edits for part in tg.chat(7)] == [1, 0, 0]
    assert " ".join(" ".join(said(tg)).split()) == " ".join(text.split())


@pytest.mark.parametrize("fault", [Fault.DROP_BEFORE, Fault.DROP_AFTER, Fault.SERVER_ERROR], ids=lambda f: f.name)
async def test_an_edit_that_fails_is_made_again_and_a_send_is_not(tg: FakeTelegram, start: Start, fault: Fault):
    """From here nobody can tell a request that was lost from an answer that was."""
    message = placed(tg)
    for method in ("editMessageText", "sendMessage"):
        tg.fail_next(method, fault)
    async with start() as bot:
        await bot.plan(Payload(7, "The answer.", edit=message), Payload(7, "Once?"), Payload(7, "More."))
        await bot.until(Outbox.state, "sent", "uncertain", "sent")
    arrived = fault == Fault.DROP_AFTER
    assert said(tg) == ["The answer.", *(["Once?"] if arrived else []), "More."]
    assert tg.violations == [f"edit of message {message} in chat 7 changes nothing"] * arrived  # the price of that
    tg.violations.clear()


async def test_a_pause_that_telegram_asks_for_is_kept_and_holds_up_no_other_chat(tg: FakeTelegram, start: Start):
    message = placed(tg)
    tg.fail_next("editMessageText", Fault.RETRY_AFTER(1))
    async with start() as bot:
        await bot.plan(Payload(7, "The answer.", edit=message), Payload(7, "Its second part."))
        await tg.wait_for(lambda: "editMessageText" in methods(tg))
        await bot.plan(Payload(8, "at once"))
        await tg.wait_for(lambda: said(tg, 8) == ["at once"])
        assert said(tg) == ["…"]
        await bot.until(Outbox.state, "sent", "sent", "sent")
    assert said(tg) == ["The answer.", "Its second part."]


async def test_a_message_that_is_gone_is_sent_anew_and_a_block_is_final(tg: FakeTelegram, start: Start):
    async with start() as bot:
        await bot.plan(Payload(7, "here", edit=4711))
        await bot.until(Outbox.state, "sent")
        assert said(tg) == ["here"]
        tg.block(7)
        await bot.plan(Payload(7, "gone"))
        await bot.until(Outbox.state, "sent", "dead")


async def test_a_crash_while_sending_repeats_an_edit_but_no_send(tg: FakeTelegram, start: Start):
    message = placed(tg)
    for method in ("editMessageText", "sendMessage"):
        tg.fail_next(method, Fault.HANG(30))
    async with start() as bot:
        await bot.plan(Payload(7, "The answer.", edit=message), Payload(8, "elsewhere"))
        await tg.wait_for(lambda: said(tg) == ["The answer."] and said(tg, 8))
        assert await bot.column(Outbox.state) == ["sending", "sending"]
    async with start() as bot:
        await bot.until(Outbox.state, "sent", "uncertain")
    assert said(tg) == ["The answer."]
    assert said(tg, 8) == ["elsewhere"]
    assert tg.violations == [f"edit of message {message} in chat 7 changes nothing"]  # the price of not knowing
    tg.violations.clear()


async def test_the_operators_are_told_through_the_outbox(tg: FakeTelegram, start: Start):
    async with start(admins=(7, 8)) as bot:
        async with bot.db.write() as session:
            await outbox.add(session, bot.adapter.announce("The GPU is idle."), now())
        await tg.wait_for(lambda: said(tg, 7) == said(tg, 8) == ["The GPU is idle."])

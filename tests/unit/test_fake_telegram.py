"""The fake Telegram, driven by the real client."""

import asyncio
import logging
import time

import aiohttp
import msgspec
import pytest
import telegram
from telegram import InlineKeyboardButton, InlineKeyboardMarkup, MessageEntity
from telegram.error import BadRequest, Conflict, Forbidden, InvalidToken, NetworkError, RetryAfter, TimedOut
from telegram.ext import Application, CommandHandler

from tests.fakes.telegram import FakeTelegram, Fault, Flood
from tests.fakes.telegram_markup import parse_html, parse_markdown
from tests.fakes.telegram_photos import png

TOKEN = "123:abc"
NOT_MODIFIED = "specified new message content and reply markup are exactly the same"
STOP = InlineKeyboardMarkup([[InlineKeyboardButton("Stop", callback_data="stop:1")]])

logging.getLogger("httpx").setLevel(logging.WARNING)  # at INFO it writes every address, and the token in it


@pytest.fixture(autouse=True)
def new_retry_after(monkeypatch):
    """Else the client warns of a change to come in each RetryAfter, and warnings are errors here."""
    monkeypatch.setenv("PTB_TIMEDELTA", "1")


@pytest.fixture
async def tg():
    async with FakeTelegram(TOKEN) as server:
        yield server


@pytest.fixture
async def bot(tg):
    async with telegram.Bot(TOKEN, base_url=tg.base_url, base_file_url=tg.base_file_url) as client:
        yield client


@pytest.fixture
async def ann(tg):
    """A private chat whose first update is out of the way."""
    tg.user_sends("hello")
    tg.pending.clear()
    return 7


# getUpdates


async def test_an_update_comes_again_until_a_higher_offset_confirms_it(tg, bot):
    first, second = tg.user_sends("one"), tg.user_sends("two")
    assert [u.update_id for u in await bot.get_updates()] == [first, second] == [first, first + 1]
    assert [u.update_id for u in await bot.get_updates(offset=first)] == [first, second]
    assert [u.message.text for u in await bot.get_updates(offset=second)] == ["two"]
    assert [u.message.text for u in await bot.get_updates(offset=0)] == ["two"], "confirmed is forgotten"
    assert await bot.get_updates(offset=second + 1) == ()
    assert await bot.get_updates() == ()


async def test_limit_and_negative_offset(tg, bot):
    ids = [tg.user_sends(text) for text in "abcd"]
    assert [u.update_id for u in await bot.get_updates(limit=2)] == ids[:2]
    assert [u.update_id for u in await bot.get_updates(offset=-2)] == ids[2:]
    assert [u.update_id for u in await bot.get_updates()] == ids[2:], "a negative offset forgets the rest"


async def test_an_offset_from_far_ahead_is_not_believed(tg, bot):
    update_id = tg.user_sends("kept")
    assert [u.update_id for u in await bot.get_updates(offset=update_id + 1000)] == [update_id]


async def test_a_long_poll_returns_as_soon_as_something_comes(tg, bot):
    poll = asyncio.create_task(bot.get_updates(timeout=5))
    await tg.wait_for(lambda: len(tg.calls) == 2)
    assert tg.calls[-1].outcome == "pending"
    tg.user_sends("ping", name="Bob", language_code="zh-hans")
    (update,) = await asyncio.wait_for(poll, 1)
    assert update.message.text == "ping"
    assert update.effective_chat.type == "private"
    assert (update.effective_user.first_name, update.effective_user.language_code) == ("Bob", "zh-hans")


async def test_a_long_poll_ends_empty_at_its_timeout(bot, monkeypatch):
    monkeypatch.setattr("tests.fakes.telegram_updates.MAX_TIMEOUT", 0.1)
    started = time.monotonic()
    assert await bot.get_updates(timeout=5) == ()
    assert 0.1 <= time.monotonic() - started < 2


async def test_a_second_poller_ends_the_first(tg, bot):
    first = asyncio.create_task(bot.get_updates(timeout=5))
    await tg.wait_for(lambda: len(tg.calls) == 2)
    async with telegram.Bot(TOKEN, base_url=tg.base_url) as other:
        second = asyncio.create_task(other.get_updates(timeout=5))
        with pytest.raises(Conflict, match="terminated by other getUpdates request"):
            await first
        assert tg.violations == ["getUpdates while another getUpdates was waiting"]
        tg.user_sends("for the second")
        assert len(await second) == 1


async def test_a_poller_that_is_gone_is_no_overlap(tg):
    async with aiohttp.ClientSession() as session:
        with pytest.raises(TimeoutError):
            await session.get(f"{tg.base_url}{TOKEN}/getUpdates?timeout=5", timeout=aiohttp.ClientTimeout(total=0.1))
    async with aiohttp.ClientSession() as session:
        poll = asyncio.create_task(session.get(f"{tg.base_url}{TOKEN}/getUpdates?timeout=5"))
        await tg.wait_for(lambda: len(tg.calls) == 2)
        tg.user_sends("again")
        assert (await (await poll).json())["result"][0]["message"]["text"] == "again"
    assert tg.violations == []


async def test_allowed_updates_hold_for_later_updates_and_later_calls(tg, bot):
    queued = tg.user_sends("queued before")
    await bot.get_updates(allowed_updates=["callback_query"])
    assert tg.user_sends("kept away") == 0
    assert [u.update_id for u in await bot.get_updates()] == [queued]
    await bot.get_updates(allowed_updates=[])
    assert tg.user_sends("back") == queued + 1


async def test_no_polling_while_a_webhook_is_set(tg, bot):
    waiting = asyncio.create_task(bot.get_updates(timeout=5))
    await tg.wait_for(lambda: len(tg.calls) == 2)
    await bot.set_webhook("https://bot.example/hook", secret_token="s-1")
    with pytest.raises(Conflict, match="terminated by setWebhook"):
        await waiting
    tg.user_sends("for the webhook")
    with pytest.raises(Conflict, match="while webhook is active"):
        await bot.get_updates()
    info = await bot.get_webhook_info()
    assert (info.url, info.pending_update_count) == ("https://bot.example/hook", 1)
    assert msgspec.json.decode(msgspec.json.encode(tg.pending[0]))["message"]["from"]["id"] == 7
    await bot.delete_webhook(drop_pending_updates=True)
    assert await bot.get_updates() == ()
    with pytest.raises(BadRequest, match="https url must be provided"):
        await bot.set_webhook("http://bot.example/hook")


async def test_the_clients_own_application_runs_on_it(tg):
    async def greet(update, _):
        await update.message.reply_text(f"hello {update.effective_user.first_name}")

    builder = Application.builder().token(TOKEN).base_url(tg.base_url).base_file_url(tg.base_file_url)
    application = builder.build()
    application.add_handler(CommandHandler("start", greet))
    async with application:
        await application.start()
        await application.updater.start_polling(timeout=5)
        tg.user_sends("/start@dswbot_bot", chat_id=-5, chat_type="group")
        tg.user_sends("/start")
        await tg.wait_for(lambda: len(tg.chat(7)) == 2 and len(tg.chat(-5)) == 2)
        await application.updater.stop()
        await application.stop()
    assert tg.transcript(7) == "Ann: /start\nbot: hello Ann"
    assert tg.pending == []
    assert tg.violations == []


# Texts


async def test_a_message_is_shown_as_it_was_sent(tg, bot, ann):
    sent = await bot.send_message(
        ann, "a *star* 😀", entities=[MessageEntity("bold", 2, 6)], reply_markup=STOP, reply_to_message_id=1
    )
    (_, shown) = tg.chat(ann)
    assert (shown.id, shown.sender, shown.text, shown.edits) == (sent.id, "bot", "a *star* 😀", 0)
    assert [(e.type, e.offset, e.length) for e in shown.entities] == [("bold", 2, 6)]
    assert (shown.buttons, shown.reply_to) == ((("Stop",),), 1)
    assert abs(shown.date - time.time()) < 5
    assert sent.reply_markup == STOP
    assert sent.reply_to_message.text == "hello"
    assert tg.transcript(ann) == "Ann: hello\nbot: a *star* 😀 [Stop]"


async def test_the_limit_counts_utf16_units(tg, bot, ann):
    border = "x" * 4094 + "😀"
    sent = await bot.send_message(ann, border)
    with pytest.raises(BadRequest, match="Message is too long"):
        await bot.send_message(ann, border + "x")
    with pytest.raises(BadRequest, match="Message is too long"):
        await bot.send_message(ann, "x" * 4095 + "😀")
    with pytest.raises(BadRequest, match="Message_too_long"):
        await bot.edit_message_text(border + "x", ann, sent.id)
    assert tg.calls[-1].outcome == "400 Bad Request: MESSAGE_TOO_LONG"


async def test_the_limit_counts_the_text_after_parsing_and_trimming(tg, bot, ann):
    await bot.send_message(ann, "<b>" + "x" * 4096 + "</b>\n  \n", parse_mode="HTML")
    assert tg.chat(ann)[-1].text == "x" * 4096


@pytest.mark.parametrize(("text", "reason"), [("", "Message text is empty"), (" \n\t ", "Text must be non-empty")])
async def test_there_must_be_a_text(bot, ann, text, reason):
    with pytest.raises(BadRequest, match=reason):
        await bot.send_message(ann, text)


async def test_control_characters_vanish_and_entities_move_along(tg, bot, ann):
    await bot.send_message(ann, "\n a\r\n\tb c ", entities=[MessageEntity("code", 5, 2), MessageEntity("bold", 9, 1)])
    shown = tg.chat(ann)[-1]
    assert shown.text == "a\n b c"
    assert [(e.type, e.offset, e.length) for e in shown.entities] == [("code", 3, 1)]


@pytest.mark.parametrize(
    ("entity", "reason"),
    [
        (MessageEntity("bold", 0, 4), "ends after the end of the text at utf-16 offset 4"),
        (MessageEntity("bold", 3, 1), "begins after the end of the text at utf-16 offset 3"),
        (MessageEntity("bold", -1, 1), "incorrect offset -1"),
        (MessageEntity("bold", 2, 1), "in a middle of a utf-16 symbol"),
        (MessageEntity("glowing", 0, 1), "unsupported type"),
    ],
)
async def test_entities_must_fit_the_text(bot, ann, entity, reason):
    with pytest.raises(BadRequest, match=reason):
        await bot.send_message(ann, "a😀", entities=[entity])


async def test_a_hundred_entities_are_shown(tg, bot, ann):
    await bot.send_message(ann, "x" * 150, entities=[MessageEntity("bold", at, 1) for at in range(150)])
    assert len(tg.chat(ann)[-1].entities) == 100


async def test_unparsable_markup_is_refused_by_its_place(bot, ann):
    with pytest.raises(BadRequest, match='parse entities: unsupported start tag "think" at byte offset 3') as told:
        await bot.send_message(ann, "é <think>x</think>", parse_mode="HTML")
    assert str(told.value).startswith("Can't parse entities")
    with pytest.raises(BadRequest, match=r"character '\.' is reserved and must be escaped"):
        await bot.send_message(ann, "Done.", parse_mode="MarkdownV2")
    with pytest.raises(BadRequest, match="Unsupported parse_mode"):
        await bot.send_message(ann, "x", parse_mode="BBCode")


# Edits


async def test_an_edit_replaces_text_and_keyboard(tg, bot, ann):
    sent = await bot.send_message(ann, "thinking", reply_markup=STOP)
    edited = await bot.edit_message_text("done", ann, sent.id)
    assert edited.text == "done"
    assert edited.edit_date
    assert edited.reply_markup is None
    await bot.edit_message_reply_markup(ann, sent.id, reply_markup=STOP)
    assert tg.transcript(ann) == "Ann: hello\nbot: done (edited 2x) [Stop]"


async def test_an_edit_must_change_something(tg, bot, ann):
    sent = await bot.send_message(ann, "same", reply_markup=STOP)
    with pytest.raises(BadRequest, match=NOT_MODIFIED):
        await bot.edit_message_text("same \n", ann, sent.id, reply_markup=STOP)
    with pytest.raises(BadRequest, match=NOT_MODIFIED):
        await bot.edit_message_reply_markup(ann, sent.id, reply_markup=STOP)
    assert tg.violations == ["edit of message 2 in chat 7 changes nothing"] * 2
    assert tg.chat(ann)[-1].edits == 0


async def test_only_own_messages_that_exist_can_be_edited(bot, ann):
    with pytest.raises(BadRequest, match="Message to edit not found"):
        await bot.edit_message_text("x", ann, 99)
    with pytest.raises(BadRequest, match="Message can't be edited"):
        await bot.edit_message_text("x", ann, 1)
    with pytest.raises(BadRequest, match="Message identifier is not specified"):
        await bot.edit_message_text("x", ann)


async def test_deleted_messages_are_gone(tg, bot, ann):
    sent = await bot.send_message(ann, "oops")
    await bot.delete_message(ann, sent.id)
    assert tg.transcript(ann) == "Ann: hello"
    with pytest.raises(BadRequest, match="Message to delete not found"):
        await bot.delete_message(ann, sent.id)
    tg.user_sends("mine", chat_id=-5, chat_type="group")
    with pytest.raises(BadRequest, match="Message can't be deleted"):
        await bot.delete_message(-5, tg.chat(-5)[0].id)


# Chats


async def test_only_known_chats_can_be_written_to(tg, bot, ann):
    with pytest.raises(BadRequest, match="Chat not found"):
        await bot.send_message(8, "hi")
    tg.open_chat(8)
    await bot.send_message(8, "hi")
    tg.block(ann)
    with pytest.raises(Forbidden, match="bot was blocked by the user"):
        await bot.send_message(ann, "hi")
    tg.user_sends("sorry")
    await bot.send_message(ann, "hi")


async def test_topics_and_replies(tg, bot):
    tg.user_sends("in the topic", chat_id=-100, chat_type="supergroup", thread_id=3)
    (update,) = await bot.get_updates()
    assert (update.message.message_thread_id, update.message.is_topic_message) == (3, True)
    sent = await update.message.reply_text("answer", do_quote=True)
    assert (sent.message_thread_id, sent.reply_to_message.text) == (3, "in the topic")
    with pytest.raises(BadRequest, match="Message thread not found"):
        await bot.send_message(-100, "to General", message_thread_id=1)
    with pytest.raises(BadRequest, match="Message to be replied not found"):
        await bot.send_message(-100, "x", reply_to_message_id=50)
    await bot.send_message(-100, "x", reply_to_message_id=50, allow_sending_without_reply=True)


async def test_supergroups_number_their_own_messages(tg):
    tg.user_sends("a")
    tg.user_sends("b", chat_id=-5, chat_type="group")
    tg.user_sends("c", chat_id=-100, chat_type="supergroup")
    assert [tg.chat(chat_id)[0].id for chat_id in (7, -5, -100)] == [1, 2, 1]


async def test_drafts_are_for_private_chats_and_end_with_the_message(tg, bot, ann):
    await bot.send_message_draft(ann, 1, "half an ans")
    assert tg.draft(ann) == "half an ans"
    await bot.send_message(ann, "half an answer")
    assert tg.draft(ann) == ""
    tg.user_sends("hi", chat_id=-5, chat_type="group")
    with pytest.raises(BadRequest, match="Textdraft_peer_invalid"):
        await bot.send_message_draft(-5, 1, "x")


async def test_chat_actions_are_known_by_name(tg, bot, ann):
    await bot.send_chat_action(ann, "typing")
    with pytest.raises(BadRequest, match="Wrong parameter action in request"):
        await bot.send_chat_action(ann, "thinking")
    assert [call.method for call in tg.calls[1:]] == ["sendChatAction"] * 2


# Buttons


async def test_a_pressed_button_comes_as_a_query_to_answer_once(tg, bot, ann):
    await bot.send_message(ann, "working", reply_markup=STOP)
    pressed = tg.user_presses("Stop")
    (update,) = await bot.get_updates()
    query = update.callback_query
    assert (update.update_id, query.data, query.message.text) == (pressed, "stop:1", "working")
    await query.answer("stopped")
    assert tg.toasts == [(7, "stopped")]
    with pytest.raises(BadRequest, match="Query is too old"):
        await query.answer()
    with pytest.raises(LookupError, match="Continue"):
        tg.user_presses("Continue")


async def test_a_query_is_soon_too_old():
    async with FakeTelegram(TOKEN, callback_ttl=0.02) as tg, telegram.Bot(TOKEN, base_url=tg.base_url) as bot:
        tg.open_chat(7)
        await bot.send_message(7, "working", reply_markup=STOP)
        tg.user_presses("stop:1")
        (update,) = await bot.get_updates()
        await asyncio.sleep(0.03)
        with pytest.raises(BadRequest, match="Query is too old and response timeout expired"):
            await update.callback_query.answer()


async def test_callback_data_has_64_bytes(bot, ann):
    with pytest.raises(BadRequest, match="Button_data_invalid"):
        await bot.send_message(
            ann,
            "x",
            reply_markup=InlineKeyboardMarkup.from_button(InlineKeyboardButton("停", callback_data="停" * 22)),
        )


async def test_a_toast_has_200_characters(tg, bot, ann):
    await bot.send_message(ann, "working", reply_markup=STOP)
    for _ in range(2):
        tg.user_presses("Stop", language_code="zh-hans")
    first, second = await bot.get_updates()
    assert first.callback_query.from_user.language_code == "zh-hans"
    assert first.callback_query.id != second.callback_query.id
    with pytest.raises(BadRequest, match="Message_too_long"):
        await first.callback_query.answer("x" * 199 + "😀")
    await first.callback_query.answer("x" * 198 + "😀")
    await second.callback_query.answer()
    assert [text for _, text in tg.toasts] == ["x" * 198 + "😀", ""]


async def test_a_press_on_an_old_message_does_not_show_it(tg, bot, ann):
    sent = await bot.send_message(ann, "long ago", reply_markup=STOP)
    tg.user_presses("Stop", old=True)
    (update,) = await bot.get_updates()
    message = update.callback_query.message
    assert (message.message_id, message.chat.id, message.text) == (sent.id, ann, None)
    assert message.date.timestamp() == 0
    await bot.edit_message_reply_markup(ann, sent.id)
    assert tg.chat(ann)[-1].buttons == ()


def keyboard(*rows):
    return InlineKeyboardMarkup(
        [[InlineKeyboardButton(text, callback_data=data) for text, data in row] for row in rows]
    )


async def test_a_keyboard_is_as_large_as_telegram_allows(tg, bot, ann):
    row = [("x", "y")] * 8
    await bot.send_message(ann, "all", reply_markup=keyboard(*[row] * 12, row[:4]))
    assert sum(len(buttons) for buttons in tg.chat(ann)[-1].buttons) == 100
    with pytest.raises(BadRequest, match="Reply markup is too long"):
        await bot.send_message(ann, "x", reply_markup=keyboard(*[row] * 12, row[:5]))
    with pytest.raises(BadRequest, match="more than 8 buttons"):
        await bot.send_message(ann, "x", reply_markup=keyboard([*row, ("x", "y")]))


async def test_a_button_needs_a_text_and_does_one_thing(bot, ann):
    both = InlineKeyboardButton("x", callback_data="x", url="https://a.b")
    for button in (InlineKeyboardButton(" ", callback_data="x"), InlineKeyboardButton("x"), both):
        with pytest.raises(BadRequest, match="button"):
            await bot.send_message(ann, "x", reply_markup=InlineKeyboardMarkup.from_button(button))
    for data in ("", "x" * 65):
        with pytest.raises(BadRequest, match="Button_data_invalid"):
            await bot.send_message(ann, "x", reply_markup=keyboard([("x", data)]))
    await bot.send_message(ann, "x", reply_markup=keyboard([("x", "x" * 64)]))


# Photos


async def test_a_photo_is_shown_with_what_stands_below_it(tg, bot, ann):
    sent = await bot.send_photo(ann, png(40, 30), caption="a *star*", reply_markup=STOP, filename="cost.png")
    shown = tg.chat(ann)[-1]
    assert (shown.photo, shown.text, shown.buttons) == (png(40, 30), "a *star*", (("Stop",),))
    assert (sent.photo[0].width, sent.photo[0].height, sent.photo[0].file_size) == (40, 30, len(png(40, 30)))
    assert sent.caption == "a *star*"
    assert sent.text is None
    assert tg.transcript(ann) == "Ann: hello\nbot: (photo) a *star* [Stop]"
    with pytest.raises(BadRequest, match="There is no text in the message to edit"):
        await bot.edit_message_text("x", ann, sent.id)
    await bot.edit_message_reply_markup(ann, sent.id)
    assert tg.chat(ann)[-1].buttons == ()


async def test_a_caption_has_1024_units_after_parsing_and_may_be_absent(tg, bot, ann):
    await bot.send_photo(ann, png(), caption="<b>" + "x" * 1022 + "😀</b>", parse_mode="HTML")
    assert tg.chat(ann)[-1].text == "x" * 1022 + "😀"
    await bot.send_photo(ann, png())
    assert tg.chat(ann)[-1].text == ""
    with pytest.raises(BadRequest, match="Message caption is too long"):
        await bot.send_photo(ann, png(), caption="x" * 1023 + "😀")
    with pytest.raises(BadRequest, match="parse entities"):
        await bot.send_photo(ann, png(), caption="<think>", parse_mode="HTML")
    assert len(tg.chat(ann)) == 3


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"GIF89a", "Image_process_failed"),
        (png()[:-13], "Image_process_failed"),
        (png()[:-12], "Image_process_failed"),
        (png().replace(b"IDAT", b"IDAX"), "Image_process_failed"),
        (png(0, 8), "Image_process_failed"),
        (png(9_993, 8), "Photo_invalid_dimensions"),
        (png(168, 8), "Photo_invalid_dimensions"),
        (png() + bytes(10 * 1024 * 1024), "too big for a photo"),
    ],
    ids=["gif", "cut", "without its end", "damaged", "empty", "too large", "too long", "too many bytes"],
)
async def test_a_photo_must_be_one(tg, bot, ann, content, reason):
    with pytest.raises(BadRequest, match=reason):
        await bot.send_photo(ann, content)
    assert len(tg.chat(ann)) == 1


async def test_the_largest_photo_and_none(tg, bot, ann):
    await bot.send_photo(ann, png(160, 8))
    with pytest.raises(BadRequest, match="There is no photo in the request"):
        await bot.send_photo(ann, "a-file-id")
    with pytest.raises(NetworkError, match="Request Entity Too Large"):
        await bot.send_photo(ann, bytes(51 * 1024 * 1024))
    with pytest.raises(BadRequest, match="Chat not found"):
        await bot.send_photo(8, png())


# Floods and faults


async def test_a_penalty_is_made_longer_by_not_waiting(tg, bot, ann):
    tg.user_sends("hi", user_id=8)
    tg.fail_next("sendMessage", Fault.RETRY_AFTER(2))
    with pytest.raises(RetryAfter) as first:
        await bot.send_message(ann, "a")
    with pytest.raises(RetryAfter) as second:
        await bot.send_chat_action(ann, "typing")
    assert (first.value.retry_after.seconds, second.value.retry_after.seconds) == (2, 4)
    assert tg.violations == ["sendChatAction during a 429 penalty of 7"]
    assert tg.calls[-1].outcome == "429 Too Many Requests: retry after 4"
    await bot.send_message(8, "other chats go on")
    assert len(tg.chat(ann)) == 1


async def test_published_flood_limits_hold_for_each_chat():
    flood = Flood(burst=3, group_per_minute=5, speed=10)
    async with FakeTelegram(TOKEN, flood=flood) as tg, telegram.Bot(TOKEN, base_url=tg.base_url) as bot:
        tg.open_chat(7)
        tg.open_chat(-5, "group")
        for chat_id, calls in ((7, 3), (-5, 5)):
            for number in range(calls):
                await bot.send_message(chat_id, str(number))
            with pytest.raises(RetryAfter):
                await bot.send_message(chat_id, "one too many")
        assert tg.violations == []


async def test_paced_calls_are_never_refused():
    async with (
        FakeTelegram(TOKEN, flood=Flood(burst=1, speed=50)) as tg,
        telegram.Bot(TOKEN, base_url=tg.base_url) as bot,
    ):
        tg.open_chat(7)
        for number in range(5):
            await bot.send_message(7, str(number))
            await asyncio.sleep(0.021)


async def test_dropped_before_is_not_carried_out_and_dropped_after_is(tg, bot, ann):
    tg.fail_next("sendMessage", Fault.DROP_BEFORE)
    tg.fail_next("sendMessage", Fault.DROP_AFTER)
    for _ in range(2):
        with pytest.raises(NetworkError):
            await bot.send_message(ann, "did it arrive?")
    assert [(call.outcome, call.fault) for call in tg.calls[-2:]] == [
        ("nothing", Fault.DROP_BEFORE),
        ("ok", Fault.DROP_AFTER),
    ]
    assert tg.transcript(ann) == "Ann: hello\nbot: did it arrive?"


async def test_a_dropped_poll_loses_no_update(tg, bot):
    tg.user_sends("hello")
    tg.fail_next("getUpdates", Fault.DROP_AFTER)
    with pytest.raises(NetworkError):
        await bot.get_updates()
    assert len(await bot.get_updates()) == 1


async def test_a_hanging_call_is_carried_out(tg, bot, ann):
    tg.fail_next("sendMessage", Fault.HANG(0.2))
    with pytest.raises(TimedOut):
        await bot.send_message(ann, "slow", read_timeout=0.05)
    assert tg.chat(ann)[-1].text == "slow"
    tg.fail_next("getMe", Fault.HANG(0.05))
    assert (await bot.get_me()).username == "dswbot_bot"


async def test_a_server_error_lasts_as_often_as_told(tg, bot, ann):
    tg.fail_next("sendMessage", Fault.SERVER_ERROR, times=2)
    for _ in range(2):
        with pytest.raises(NetworkError, match="Internal Server Error"):
            await bot.send_message(ann, "x")
    await bot.send_message(ann, "x")
    assert len(tg.chat(ann)) == 2


async def test_closing_does_not_wait_for_those_who_hang():
    async with FakeTelegram(TOKEN) as tg, aiohttp.ClientSession() as session:
        tg.fail_next("getMe", Fault.HANG(30))
        hanging = asyncio.create_task(session.get(f"{tg.base_url}{TOKEN}/getMe"))
        polling = asyncio.create_task(session.get(f"{tg.base_url}{TOKEN}/getUpdates?timeout=30"))
        await tg.wait_for(lambda: len(tg.calls) == 2)
        started = time.monotonic()
        await tg.__aexit__(None, None, None)
        assert time.monotonic() - started < 1
        await asyncio.gather(hanging, polling, return_exceptions=True)


# The protocol itself


async def test_wrong_token_and_unknown_method(tg, bot):
    with pytest.raises(InvalidToken):
        async with telegram.Bot("123:wrong", base_url=tg.base_url):
            pass
    with pytest.raises(InvalidToken):
        await bot.get_file("abc")
    assert [call.outcome for call in tg.calls[-2:]] == ["401 Unauthorized", "404 Not Found: method not found"]
    assert tg.violations == ["no such method: getFile"]


async def test_get_form_multipart_and_json_are_the_same_call(tg, ann):
    given = {"chat_id": "7", "text": "hi"}
    multipart = aiohttp.FormData(given, default_to_multipart=True)
    url = f"{tg.base_url}{TOKEN}/SENDmessage"
    async with aiohttp.ClientSession() as session:
        for how in (
            {"params": given},
            {"data": given},
            {"data": multipart},
            {"json": given | {"chat_id": 7}},
        ):
            async with session.post(url, **how) as response:
                assert (response.status, (await response.json())["ok"]) == (200, True)
        async with session.get(url, params=given) as response:
            assert (await response.json())["result"]["chat"]["id"] == 7
        async with session.post(url, data="{", headers={"Content-Type": "application/json"}) as response:
            assert await response.json() == {
                "ok": False,
                "error_code": 400,
                "description": "Bad Request: can't parse JSON object",
            }
    assert [call.params for call in tg.calls[:-1]] == [given] * 5


async def test_commands_are_for_chats_that_there_are(bot):
    for scope, reason in (
        (telegram.BotCommandScopeChat(8), "Chat not found"),
        (telegram.BotCommandScopeChatMember(7, 0), "invalid user_id"),
        (telegram.BotCommandScope("everyone"), "unsupported type"),
        (telegram.BotCommandScope("chat"), "can't find field"),
    ):
        with pytest.raises(BadRequest, match=reason):
            await bot.set_my_commands([("stop", "x")], scope=scope)
    with pytest.raises(BadRequest, match="Invalid language code"):
        await bot.set_my_commands([("stop", "x")], language_code="zh-hans")
    await bot.set_my_commands([("stop", "x")], scope=telegram.BotCommandScopeAllPrivateChats())


async def test_commands_are_kept_by_scope_and_language(tg, bot, ann):
    await bot.set_my_commands([("stop", "Stop the answer")])
    await bot.set_my_commands([("stop", "停止")], scope=telegram.BotCommandScopeChat(ann), language_code="zh")
    assert [c.description for c in await bot.get_my_commands()] == ["Stop the answer"]
    assert [tg.menu(*who) for who in ((ann, "zh-hans"), (ann, "en"), (8, "zh"))] == [
        {"stop": "停止"}, {"stop": "Stop the answer"}, {"stop": "Stop the answer"},
    ]  # fmt: skip
    kept = await bot.get_my_commands(scope=telegram.BotCommandScopeChat(ann), language_code="zh")
    assert [c.description for c in kept] == ["停止"]
    with pytest.raises(BadRequest, match="Bot_command_invalid"):
        await bot.set_my_commands([("Stop!", "x")])


async def test_wait_for_tells_the_story_when_nothing_comes(tg, bot, ann):
    await bot.send_message(ann, "only this")
    assert await tg.wait_for(lambda: [m.text for m in tg.chat(ann) if m.sender == "bot"]) == ["only this"]
    with pytest.raises(TimeoutError, match=r"bot: only this[\s\S]*sendMessage .* -> ok"):
        await tg.wait_for(lambda: False, timeout=0.02)


# Markup


@pytest.mark.parametrize(
    ("source", "text", "entities"),
    [
        ("<b>a<i>é😀</i></b> &lt;x&gt; &#128512;", "aé😀 <x> 😀", [("italic", 1, 3), ("bold", 0, 4)]),
        ("&nbsp;", "&nbsp;", []),
        ('<pre><code class="language-py">x</code></pre>', "x", [("pre", 0, 1)]),
        ("<blockquote expandable>q</blockquote>", "q", [("expandable_blockquote", 0, 1)]),
        ('<a href="https://a.b/?c=1&amp;copy=2">t</a><a href="no">u</a>', "tu", [("text_link", 0, 1)]),
        ('<span class="tg-spoiler">s</span><b></b>', "s", [("spoiler", 0, 1)]),
    ],
)
def test_html(source, text, entities):
    parsed, found = parse_html(source)
    assert (parsed, [(e.type, e.offset, e.length) for e in found]) == (text, entities)


@pytest.mark.parametrize(
    ("source", "text", "entities"),
    [
        (r"*b _i_* 1\.5", "b i 1.5", [("italic", 2, 1), ("bold", 0, 3)]),
        ("__u__ ~s~ ||p||", "u s p", [("underline", 0, 1), ("strikethrough", 2, 1), ("spoiler", 4, 1)]),
        ("```py\nx_1 = 1.0```", "x_1 = 1.0", [("pre", 0, 9)]),
        ("```x```", "x", [("pre", 0, 1)]),
        (r"[t](https://a.b/c_d\)) `a*b`", "t a*b", [("text_link", 0, 1), ("code", 2, 3)]),
        (">one\n>two||\nthree", "one\ntwo\nthree", [("expandable_blockquote", 0, 7)]),
        ("one\n>two\nthree\n>four", "one\ntwo\nthree\nfour", [("blockquote", 4, 4), ("blockquote", 14, 4)]),
    ],
)
def test_markdown(source, text, entities):
    parsed, found = parse_markdown(source)
    assert (parsed, [(e.type, e.offset, e.length) for e in found]) == (text, entities)


@pytest.mark.parametrize(
    ("mode", "source", "complaint"),
    [
        ("HTML", "a < b", 'unsupported start tag "" at byte offset 2'),
        ("HTML", "a <3", "unclosed start tag at byte offset 2"),
        ("HTML", "<b>x", "can't find end tag corresponding to start tag"),
        ("HTML", "<b>x</i>", 'unmatched end tag at byte offset 4, expected "</b>", found "</i>"'),
        ("HTML", "x</b>", "unexpected end tag at byte offset 1"),
        ("MarkdownV2", "é *x", "can't find end of Bold entity at byte offset 3"),
        ("MarkdownV2", "```py\nx", "can't find end of PreCode entity at byte offset 0"),
        ("MarkdownV2", "[t](https://a.b", "can't find end of a URL at byte offset 4"),
        ("MarkdownV2", ">*q\nx", "can't find end of Bold entity at byte offset 1"),
        ("MarkdownV2", "1 > 0", "character '>' is reserved"),
    ],
)
async def test_broken_markup(tg, bot, ann, mode, source, complaint):
    with pytest.raises(BadRequest):
        await bot.send_message(ann, source, parse_mode=mode)
    assert complaint.lower() in tg.calls[-1].outcome.lower()
